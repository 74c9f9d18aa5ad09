#include "runtime/layers/matmul.hpp"
#include "schedules/ir/error.hpp"

#include <gtest/gtest.h>

namespace plumb::layers {
namespace {

TEST(ProductAlgorithms, AShapeReadsAsItIsWritten) {
  const ProductShape shape{ProductForm::weight_gradient, DataType::fp32, 4096, 2048, 8192, true, 16};
  EXPECT_EQ(to_string(shape), "weight_gradient fp32 4096x2048x8192 add sms=16");
  EXPECT_EQ(parse_product_shape(to_string(shape)), shape);
  const ProductShape plain{ProductForm::forward, DataType::bf16, 1, 2, 3, false, 132};
  EXPECT_EQ(to_string(plain), "forward bf16 1x2x3 sms=132");
  EXPECT_EQ(parse_product_shape(to_string(plain)), plain);
  const ProductShape both{ProductForm::forward, DataType::bf16, 1, 2, 3, true, 132, true};
  EXPECT_EQ(to_string(both), "forward bf16 1x2x3 add bias sms=132");
  EXPECT_EQ(parse_product_shape(to_string(both)), both);
  const ProductShape biased{ProductForm::forward, DataType::bf16, 1, 2, 3, false, 132, true};
  EXPECT_EQ(parse_product_shape(to_string(biased)), biased);
}

TEST(ProductAlgorithms, TextThatIsNoShapeOrNoAlgorithmIsNamed) {
  for (const char* text :
       {"", "forward", "forward bf16 1x2 sms=3", "sideways bf16 1x2x3 sms=4", "forward fp8 1x2x3 sms=4",
        "forward bf16 1x2x3 plus sms=4", "forward bf16 1x2x3 132", "forward bf16 1x2x3 bias add sms=4",
        "forward bf16 1x2x3 add add sms=4"}) {
    EXPECT_THROW(parse_product_shape(text), BadInput) << text;
  }
  const std::string shape = "forward bf16 1x2x3 sms=132";
  EXPECT_THROW(ProductAlgorithms::from_text({{shape, "12"}}), BadInput);
  EXPECT_THROW(ProductAlgorithms::from_text({{shape, std::string(128, 'g')}}), BadInput);
}

TEST(ProductAlgorithms, CodesSurviveTheText) {
  ProductAlgorithms algorithms;
  const ProductShape shape{ProductForm::input_gradient, DataType::bf16, 4096, 2048, 8192, false, 132};
  const ProductAlgorithms::Code code{1, 2, 0xFFFFFFFFFFFFFFFF, 4, 0x0123456789ABCDEF, 0, 7, 8};
  algorithms.set(shape, code);
  const auto again = ProductAlgorithms::from_text(algorithms.to_text());
  ASSERT_NE(again.find(shape), nullptr);
  EXPECT_EQ(*again.find(shape), code);
  ProductShape other = shape;
  other.multiprocessors = 64;
  EXPECT_EQ(again.find(other), nullptr);
}

}  // namespace
}  // namespace plumb::layers
