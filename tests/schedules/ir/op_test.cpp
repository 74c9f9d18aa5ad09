#include "schedules/ir/op.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

TEST(Op, TokenIsStageKindMicrobatch) {
  EXPECT_EQ(to_string(Op{Stage{0}, Microbatch{3}, OpKind::forward}), "0F3");
  EXPECT_EQ(to_string(Op{Stage{2}, Microbatch{7}, OpKind::send_backward}), "2SEND_B7");
  EXPECT_EQ(to_string(Op{Stage{1}, Microbatch{0}, OpKind::reduce_grad}), "1REDUCE_GRAD");
}

TEST(Op, ParsesWhatItPrints) {
  for (int k = 0; k <= static_cast<int>(OpKind::reshard); ++k) {
    const auto kind = static_cast<OpKind>(k);
    const Op op{Stage{12}, Microbatch{is_collective(kind) ? 0u : 34u}, kind};
    EXPECT_EQ(parse_op(to_string(op)), op) << to_string(op);
  }
}

TEST(Op, RefusesWhatIsNoToken) {
  for (const char* text :
       {"", "F", "0F", "F0", "0f0", "-1F0", "0F-1", "0F1junk", " 0F1", "0F1 ", "0X1", "0FF1", "4294967296F0",
        "0F4294967296", "0REDUCE_GRAD1", "0UNSHARD0", "0SEND_F", "0BW3"}) {
    EXPECT_FALSE(parse_op(text).has_value()) << text;
  }
}

TEST(Action, PairPrintsForwardFirst) {
  const Action pair(Op{Stage{0}, Microbatch{5}, OpKind::forward},
                    Op{Stage{7}, Microbatch{3}, OpKind::backward});
  EXPECT_EQ(to_string(pair), "(0F5;7B3)OVERLAP_F_B");
  EXPECT_EQ(pair.size(), 2);
}

}  // namespace
}  // namespace plumb
