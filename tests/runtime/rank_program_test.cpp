// What a rank's program says before anything runs: who waits for what, and where everything lies.
#include "runtime/rank_program.hpp"

#include "schedules/generators/generator.hpp"
#include "schedules/ir/liveness.hpp"
#include "tests/schedules/generators/shapes.hpp"
#include "tests/support/timelines.hpp"

#include <gtest/gtest.h>

namespace plumb {
namespace {

using test::for_every_shape;
using test::schedule_of;
using test::words_of;

const Schedule two_ranks = schedule_of("1f1b", 2, 2, {"0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"});

std::vector<StageMemory> sizes(std::uint32_t stages) {
  std::vector<StageMemory> memory;
  for (std::uint32_t s = 0; s < stages; ++s) {
    memory.push_back({Bytes{400},
                      Bytes{400},
                      Bytes{700 + 100 * (s % 3)},
                      Bytes{1100},
                      Bytes{300},
                      {Bytes{64}, Bytes{128}, Bytes{32}, Bytes{256}}});
  }
  return memory;
}

bool overlap(const Buffer& a, const Buffer& b) {
  return !a.empty() && !b.empty() && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
}

TEST(RankProgram, NamesTheReceiveThatAnOpWaitsFor) {
  const LoweredSchedule schedule = lower(two_ranks);
  const RankProgram program = make_rank_program(schedule, Rank{1});
  ASSERT_EQ(program.steps.size(), schedule.per_rank[1].steps.size());
  for (const ProgramStep& step : program.steps) {
    const auto* compute = std::get_if<ComputeStep>(&step);
    if (!compute) continue;
    const Op& op = compute->action.first();
    if (op.kind == OpKind::forward) {
      ASSERT_NE(compute->received[0], no_index);
      EXPECT_EQ(schedule.per_rank[1].messages[compute->received[0]].op,
                (Op{op.stage, op.microbatch, OpKind::recv_forward}));
    } else {
      EXPECT_EQ(compute->received[0], no_index);  // the last stage makes its own gradient
    }
  }
}

// Rank 0 sends forward outputs 0 and 1 through one buffer each; with one buffer for both, 0F1 has to wait for
// 0SEND_F0.
TEST(RankProgram, AnOutputWaitsForTheSendThatLastUsedItsBuffer) {
  const LoweredSchedule schedule = lower(two_ranks);
  const auto memory = sizes(2);
  const auto reused = [&](std::uint32_t buffers) {
    const RankProgram program = make_rank_program(schedule, Rank{0}, memory, {256, buffers});
    std::vector<std::uint32_t> waits;
    for (const ProgramStep& step : program.steps) {
      if (const auto* compute = std::get_if<ComputeStep>(&step)) waits.push_back(compute->reused[0]);
    }
    return waits;
  };
  EXPECT_EQ(reused(4), (std::vector<std::uint32_t>{no_index, no_index, no_index, no_index}));
  const auto one = reused(1);
  EXPECT_EQ(one[0], no_index);
  ASSERT_NE(one[1], no_index);
  EXPECT_EQ(schedule.per_rank[0].messages[one[1]].op, (Op{Stage{0}, Microbatch{0}, OpKind::send_forward}));
  EXPECT_EQ(one[2], no_index);  // stage 0 sends no gradient
}

// What is alive at once never shares bytes, whatever the schedule; send buffers lie apart from everything.
TEST(RankProgram, NothingAliveAtOnceSharesBytes) {
  for (const Generator* family : generators()) {
    for_every_shape(*family, 0, [&](const Shape& shape) {
      if (shape.microbatches % 5 != 1 && shape.microbatches != 16) return;
      for (const CommPlacement placement : {CommPlacement::per_op, CommPlacement::batched}) {
        const LoweredSchedule schedule = make_lowered(*family, shape, {placement, 1});
        const auto memory = sizes(schedule.stages);
        for (std::uint32_t r = 0; r < schedule.ranks(); r += 3) {
          const RankProgram program = make_rank_program(schedule, Rank{r}, memory, {128, 2});
          for (std::size_t i = 0; i < program.blocks.size(); ++i) {
            const ArenaBlock& a = program.blocks[i];
            ASSERT_LE(a.from, a.to);
            ASSERT_EQ(a.buffer.offset % 128, 0u);
            ASSERT_LE(a.buffer.offset + a.buffer.bytes, static_cast<std::uint64_t>(program.arena.count));
            for (std::size_t j = 0; j < i; ++j) {
              const ArenaBlock& b = program.blocks[j];
              ASSERT_FALSE(a.from <= b.to && b.from <= a.to && overlap(a.buffer, b.buffer))
                  << words_of(*family, shape) << " rank " << r << ": " << a.op << " and " << b.op;
            }
            for (const ProgramStep& step : program.steps) {
              const auto* comm = std::get_if<CommStep>(&step);
              if (!comm) continue;
              for (const MessageStep& message : comm->messages) {
                ASSERT_FALSE(is_send(message.op.kind) && overlap(message.buffer, a.buffer));
              }
            }
          }
        }
      }
    });
  }
}

// 1F1B on two ranks: rank 0 holds two microbatches, rank 1 one; kept 700 + 1100 on stage 0, 800 + 1100 on
// stage 1.
TEST(RankProgram, PeakActivationsAreWhatProgramOrderKeeps) {
  const LoweredSchedule schedule = lower(two_ranks);
  const auto memory = sizes(2);
  EXPECT_EQ(make_rank_program(schedule, Rank{0}, memory).peak_activations, Bytes{2 * 1800});
  EXPECT_EQ(make_rank_program(schedule, Rank{1}, memory).peak_activations, Bytes{1900});
}

// Split backwards: 0F0 0F1 hold 3600; 0I0 adds 300 while both are held, then frees 700; 0W0 frees the rest.
TEST(RankProgram, ABackwardInputKeepsItsGradientsBesideWhatItFrees) {
  const LoweredSchedule schedule =
      lower(schedule_of("split", 2, 2, {"0F0 0F1 0I0 0W0 0I1 0W1", "1F0 1I0 1F1 1I1 1W0 1W1"}));
  EXPECT_EQ(make_rank_program(schedule, Rank{0}, sizes(2)).peak_activations, Bytes{3600 + 300});
  // 1F0 1900, 1I0 +300 -800 = 1400, 1F1 3300, 1I1 3600.
  EXPECT_EQ(make_rank_program(schedule, Rank{1}, sizes(2)).peak_activations, Bytes{3600});
}

// Neighbouring stages on one rank hand over in place: the producer's output is the consumer's input.
TEST(RankProgram, StagesOfOneRankHandOverInPlace) {
  const LoweredSchedule schedule = make_lowered(generator("zb-v"), {2, 4, {}, {}}, {});
  const RankProgram program = make_rank_program(schedule, Rank{1}, sizes(schedule.stages));
  std::size_t handed = 0;
  const auto find = [&](const Op& wanted) -> const OpBuffers* {
    for (const ProgramStep& step : program.steps) {
      const auto* compute = std::get_if<ComputeStep>(&step);
      if (!compute) continue;
      std::size_t k = 0;
      for (const Op& op : compute->action) {
        if (op == wanted) return &compute->buffers[k];
        ++k;
      }
    }
    return nullptr;
  };
  for (std::uint32_t m = 0; m < 4; ++m) {
    const OpBuffers* producer = find({Stage{1}, Microbatch{m}, OpKind::forward});
    const OpBuffers* consumer = find({Stage{2}, Microbatch{m}, OpKind::forward});
    ASSERT_TRUE(producer && consumer);
    EXPECT_FALSE(producer->output.empty());
    EXPECT_EQ(producer->output, consumer->input);
    ++handed;
  }
  EXPECT_EQ(handed, 4u);
}

TEST(RankProgram, AStepIsNamedByRankPlaceAndOp) {
  const LoweredSchedule schedule = lower(two_ranks);
  const RankProgram program = make_rank_program(schedule, Rank{0});
  EXPECT_EQ(describe(program, 0), "rank 0, step 0, 0F0");
  EXPECT_EQ(describe(program, 1), "rank 0, step 1, 0SEND_F0 to rank 1");
  EXPECT_EQ(describe(program, 1000), "rank 0, at the end of its step");
}

}  // namespace
}  // namespace plumb
