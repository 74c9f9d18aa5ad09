#include "runtime/device/buffer.hpp"
#include "runtime/layers/activation.hpp"
#include "runtime/layers/attention.hpp"
#include "runtime/layers/bias.hpp"
#include "runtime/layers/embedding.hpp"
#include "runtime/layers/head_norm.hpp"
#include "runtime/layers/loss.hpp"
#include "runtime/layers/matmul.hpp"
#include "runtime/layers/norm.hpp"
#include "runtime/layers/optimizer.hpp"
#include "runtime/layers/rope.hpp"
#include "tests/runtime/layers/on_device.hpp"
#include "tests/runtime/layers/textbook.hpp"

#include <string>
#include <vector>

namespace plumb::layers {
namespace {

using textbook::Matrix;

class Layers : public OnDevice, public ::testing::WithParamInterface<DataType> {
 protected:
  DataType type = GetParam();

  /// The device's tensor against the host's.
  void expect_close(const Tensor& device, const Matrix& host, const char* what) {
    const double error = relative_error(download(device), host);
    std::printf("    %-28s %s  error %.2e\n", what, type == DataType::bf16 ? "bf16" : "fp32", error);
    EXPECT_LE(error, tolerance(type)) << what;
  }
  float* floats(Owned& owned) { return owned.tensor.as<float>(); }
};

INSTANTIATE_TEST_SUITE_P(Types, Layers, ::testing::Values(DataType::bf16, DataType::fp32),
                         [](const auto& instance) {
                           return instance.param == DataType::bf16 ? "bf16" : "fp32";
                         });

TEST_P(Layers, LinearIsThreeProductsAndTheWeightGradientAddsUp) {
  const std::uint64_t tokens = 160, inputs = 192, outputs = 328;
  Matrix x, w, dy, before, residual;
  const Owned device_x = random(type, tokens, inputs, x);
  const Owned device_w = random(type, outputs, inputs, w, 0.1);
  const Owned device_dy = random(type, tokens, outputs, dy);
  const Owned device_residual = random(type, tokens, outputs, residual);
  const Owned dw = random(DataType::fp32, outputs, inputs, before);
  const Owned y = empty(type, tokens, outputs);
  const Owned dx = empty(type, tokens, inputs);
  ProductAlgorithms algorithms;
  const auto sms = lane.multiprocessors();
  const auto product = [&](ProductForm form, bool adds) {
    return Product({form, type, tokens, inputs, outputs, adds, sms}, algorithms, lane);
  };
  const Product forward = product(ProductForm::forward, false);
  const Product adding = product(ProductForm::forward, true);
  const Product input = product(ProductForm::input_gradient, false);
  const Product weight = product(ProductForm::weight_gradient, true);

  forward.run(lane, device_x.tensor.data, device_w.tensor.data, y.tensor.data);
  Matrix expected = textbook::linear(x, w, tokens, outputs, inputs);
  expect_close(y.tensor, expected, "linear forward");
  poison(y.buffer);
  adding.run(lane, device_x.tensor.data, device_w.tensor.data, y.tensor.data, device_residual.tensor.data);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += residual[i];
  expect_close(y.tensor, expected, "linear forward + residual");
  Matrix row;
  const Owned device_row = random(type, 1, outputs, row);
  const Product biased({ProductForm::forward, type, tokens, inputs, outputs, true, sms, true}, algorithms,
                       lane);
  poison(y.buffer);
  biased.run(lane, device_x.tensor.data, device_w.tensor.data, y.tensor.data, device_residual.tensor.data,
             device_row.tensor.data);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += row[i % outputs];
  expect_close(y.tensor, expected, "linear forward + residual + bias");
  input.run(lane, device_dy.tensor.data, device_w.tensor.data, dx.tensor.data);
  expect_close(dx.tensor, textbook::linear_input(dy, w, tokens, outputs, inputs), "linear backward_input");
  weight.run(lane, device_dy.tensor.data, device_x.tensor.data, dw.tensor.data);
  weight.run(lane, device_dy.tensor.data, device_x.tensor.data, dw.tensor.data);
  expected = textbook::linear_weight(dy, x, tokens, outputs, inputs);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = before[i] + 2 * expected[i];
  // Operands of either type are exact here and sums are float32, so the sum is as accurate as fp32's.
  const double error = relative_error(download(dw.tensor), expected);
  EXPECT_LE(error, 1e-5);

  // The pinned algorithm travels as text and gives the same bits again.
  ProductAlgorithms again = ProductAlgorithms::from_text(algorithms.to_text());
  const Owned second = empty(type, tokens, inputs);
  Product(input.shape(), again, lane)
      .run(lane, device_dy.tensor.data, device_w.tensor.data, second.tensor.data);
  EXPECT_EQ(download(second.tensor), download(dx.tensor));
}

TEST_P(Layers, ABiasGetsTheSumOfTheRows) {
  // 10 rows are fewer than a block has groups of them, 160 more; 328 columns are no whole number of blocks.
  for (const std::uint64_t rows : {std::uint64_t{10}, std::uint64_t{160}}) {
    const std::uint64_t columns = 328;
    Matrix dy, sum;
    const Owned device_dy = random(type, rows, columns, dy);
    const Owned gradient = random(DataType::fp32, 1, columns, sum);
    bias_backward_weight(lane, device_dy.tensor, gradient.tensor);
    for (std::size_t i = 0; i < dy.size(); ++i) sum[i % columns] += dy[i];
    EXPECT_LE(relative_error(download(gradient.tensor), sum), 1e-5);  // float32 in both types
  }
}

// Whole sums are too many for the host; a few of them show a wrong algorithm as well.
TEST_P(Layers, LinearHoldsAtTheSizeOfRealModels) {
  const std::uint64_t tokens = 2048, inputs = 2048, outputs = 5376;
  Matrix x, w, dy;
  const Owned device_x = random(type, tokens, inputs, x);
  const Owned device_w = random(type, outputs, inputs, w, 0.02);
  const Owned device_dy = random(type, tokens, outputs, dy);
  const Owned y = empty(type, tokens, outputs);
  const Owned dx = empty(type, tokens, inputs);
  const Owned dw = upload(DataType::fp32, outputs, inputs, Matrix(outputs * inputs, 0.0));
  ProductAlgorithms algorithms;
  const auto run = [&](ProductForm form, bool adds, const Tensor& left, const Tensor& right,
                       const Tensor& result) {
    Product({form, type, tokens, inputs, outputs, adds, lane.multiprocessors()}, algorithms, lane)
        .run(lane, left.data, right.data, result.data);
  };
  run(ProductForm::forward, false, device_x.tensor, device_w.tensor, y.tensor);
  run(ProductForm::input_gradient, false, device_dy.tensor, device_w.tensor, dx.tensor);
  run(ProductForm::weight_gradient, true, device_dy.tensor, device_x.tensor, dw.tensor);
  const Matrix all_y = download(y.tensor), all_dx = download(dx.tensor), all_dw = download(dw.tensor);
  Matrix got[3], want[3];
  for (int sample = 0; sample < 400; ++sample) {
    const std::size_t t = generator() % tokens, i = generator() % inputs, o = generator() % outputs;
    double sums[3] = {0, 0, 0};
    for (std::size_t e = 0; e < inputs; ++e) sums[0] += x[t * inputs + e] * w[o * inputs + e];
    for (std::size_t e = 0; e < outputs; ++e) sums[1] += dy[t * outputs + e] * w[e * inputs + i];
    for (std::size_t e = 0; e < tokens; ++e) sums[2] += dy[e * outputs + o] * x[e * inputs + i];
    const double values[3] = {all_y[t * outputs + o], all_dx[t * inputs + i], all_dw[o * inputs + i]};
    for (int f = 0; f < 3; ++f) {
      want[f].push_back(sums[f]);
      got[f].push_back(values[f]);
    }
  }
  for (int f = 0; f < 3; ++f) EXPECT_LE(relative_error(got[f], want[f]), tolerance(type)) << "form " << f;
}

TEST_P(Layers, NormsAndTheirGradients) {
  // 40 rows are fewer than the backward has blocks; 1500 are more, and the rows of 5376 take several packs a
  // thread.
  for (const auto& [rows, width] :
       {std::pair<std::uint64_t, std::uint64_t>{40, 256}, {1500, 520}, {700, 5376}}) {
    for (const NormKind kind : {NormKind::rms_norm, NormKind::layer_norm}) {
      const bool centred = kind == NormKind::layer_norm;
      Matrix x, gain, bias, dy, residual, gain_before, bias_before;
      const Owned device_x = random(type, rows, width, x, 2, 0.5);
      const Owned device_gain = random(type, 1, width, gain, 0.3, 1);
      const Owned device_bias = random(type, 1, width, bias);
      const Owned device_dy = random(type, rows, width, dy);
      const Owned device_residual = random(type, rows, width, residual);
      const Owned d_gain = random(DataType::fp32, 1, width, gain_before);
      const Owned d_bias = random(DataType::fp32, 1, width, bias_before);
      const Owned y = empty(type, rows, width);
      const Owned copy = empty(type, rows, width);
      const Owned dx = empty(type, rows, width);
      Owned mean = empty(DataType::fp32, 1, rows);
      Owned rstd = empty(DataType::fp32, 1, rows);
      NormParameters parameters{device_gain.tensor, {}};
      NormParameters gradients{d_gain.tensor, {}};
      NormStatistics statistics{nullptr, floats(rstd)};
      if (centred) {
        parameters.bias = device_bias.tensor;
        gradients.bias = d_bias.tensor;
        statistics.mean = floats(mean);
      }
      norm_forward(lane, kind, device_x.tensor, parameters, y.tensor, statistics, copy.tensor);
      expect_close(y.tensor, textbook::norm(x, gain, bias, rows, centred),
                   centred ? "layer_norm" : "rms_norm");
      EXPECT_EQ(download(copy.tensor), x);

      norm_backward(lane, scratch(), kind, device_dy.tensor, device_x.tensor, parameters, statistics,
                    device_residual.tensor, dx.tensor, gradients);
      auto expected = textbook::norm_gradients(dy, x, gain, rows, centred);
      for (std::size_t i = 0; i < expected.x.size(); ++i) expected.x[i] += residual[i];
      for (std::size_t i = 0; i < width; ++i) expected.gain[i] += gain_before[i];
      expect_close(dx.tensor, expected.x, "norm backward_input");
      EXPECT_LE(relative_error(download(d_gain.tensor), expected.gain), 1e-5);
      if (centred) {
        for (std::size_t i = 0; i < width; ++i) expected.bias[i] += bias_before[i];
        EXPECT_LE(relative_error(download(d_bias.tensor), expected.bias), 1e-5);
      } else {
        EXPECT_EQ(download(d_bias.tensor), bias_before);
      }
    }
  }
}

TEST_P(Layers, SwigluAndGelu) {
  const std::uint64_t rows = 37, ffn = 2056;  // more than a block's share of columns
  Matrix in, ds;
  const Owned device_in = random(type, rows, 2 * ffn, in, 3);
  const Owned device_ds = random(type, rows, ffn, ds);
  const Owned s = empty(type, rows, ffn);
  const Owned d_in = empty(type, rows, 2 * ffn);
  swiglu_forward(lane, device_in.tensor, s.tensor);
  expect_close(s.tensor, textbook::swiglu(in, rows, ffn), "swiglu forward");
  swiglu_backward(lane, device_ds.tensor, device_in.tensor, d_in.tensor);
  expect_close(d_in.tensor, textbook::swiglu_gradient(ds, in, rows, ffn), "swiglu backward_input");

  const Owned y = empty(type, rows, 2 * ffn);
  gelu_forward(lane, device_in.tensor, y.tensor);
  expect_close(y.tensor, textbook::gelu(in), "gelu forward");
  Matrix dy;
  const Owned in_place = random(type, rows, 2 * ffn, dy);
  gelu_backward(lane, in_place.tensor, device_in.tensor, in_place.tensor);
  expect_close(in_place.tensor, textbook::gelu_gradient(dy, in), "gelu backward_input");
}

TEST_P(Layers, RopeTurnsQueriesAndKeysAndBackAgain) {
  const AttentionSize size{type, 2, 50, 6, 2, 64};
  const textbook::Heads heads{2, 50, 6, 2, 64};
  Matrix qkv;
  const Owned tensor = random(type, size.tokens(), size.width(), qkv);
  const device::Buffer table(rope_table_bytes(size));
  poison(table);
  make_rope_table(lane, size, 10000.0F, table.as<float>());
  rope_forward(lane, size, table.as<float>(), tensor.tensor);
  expect_close(tensor.tensor, textbook::rope(qkv, heads, 1), "rope forward");
  const Owned gradient = upload(type, size.tokens(), size.width(), qkv);
  rope_backward(lane, size, table.as<float>(), gradient.tensor);
  expect_close(gradient.tensor, textbook::rope(qkv, heads, -1), "rope backward_input");
}

// Against the norm of a row that a head is: queries' heads are the first of a token's row, then keys', and
// values are not touched.
TEST_P(Layers, NormsOfQueriesAndKeysAreNormsOfEachHead) {
  for (const std::uint64_t head_dim : {std::uint64_t{64}, std::uint64_t{256}}) {
    const AttentionSize size{type, 2, 300, 6, 2, head_dim};
    const std::uint64_t tokens = size.tokens(), width = size.width(), normed = 8;
    Matrix qkv, dy, q_gain, k_gain, dq_before, dk_before;
    const Owned device_qkv = random(type, tokens, width, qkv, 2);
    const Owned device_dy = random(type, tokens, width, dy);
    const Owned device_q = random(type, 1, head_dim, q_gain, 0.3, 1);
    const Owned device_k = random(type, 1, head_dim, k_gain, 0.3, 1);
    const Owned dq = random(DataType::fp32, 1, head_dim, dq_before);
    const Owned dk = random(DataType::fp32, 1, head_dim, dk_before);
    const Owned x = empty(type, tokens, normed * head_dim);
    Owned rstd = empty(DataType::fp32, tokens, normed);
    const HeadNormKept kept{x.tensor, floats(rstd)};
    const HeadNormParameters gains{device_q.tensor, device_k.tensor};
    head_norm_forward(lane, size, gains, device_qkv.tensor, kept);
    head_norm_backward(lane, scratch(), size, gains, kept, device_dy.tensor, {dq.tensor, dk.tensor});
    Matrix y = qkv, dx = dy;
    for (const bool key : {false, true}) {
      const std::uint64_t from = key ? 6 : 0, count = key ? 2 : 6;
      const Matrix& gain = key ? k_gain : q_gain;
      Matrix rows, d_rows;
      for (std::uint64_t t = 0; t < tokens; ++t) {
        const auto at = static_cast<std::ptrdiff_t>(t * width + from * head_dim);
        const auto length = static_cast<std::ptrdiff_t>(count * head_dim);
        rows.insert(rows.end(), qkv.begin() + at, qkv.begin() + at + length);
        d_rows.insert(d_rows.end(), dy.begin() + at, dy.begin() + at + length);
      }
      const Matrix out = textbook::norm(rows, gain, {}, tokens * count, false);
      auto expected = textbook::norm_gradients(d_rows, rows, gain, tokens * count, false);
      for (std::uint64_t t = 0; t < tokens; ++t) {
        for (std::uint64_t i = 0; i < count * head_dim; ++i) {
          y[t * width + from * head_dim + i] = out[t * count * head_dim + i];
          dx[t * width + from * head_dim + i] = expected.x[t * count * head_dim + i];
        }
      }
      const Matrix& before = key ? dk_before : dq_before;
      for (std::uint64_t i = 0; i < head_dim; ++i) expected.gain[i] += before[i];
      EXPECT_LE(relative_error(download((key ? dk : dq).tensor), expected.gain), 1e-5);
    }
    expect_close(device_qkv.tensor, y, "norm of queries and keys");
    expect_close(device_dy.tensor, dx, "its backward_input");
  }
}

TEST_P(Layers, CausalAttentionWithGroupedHeads) {
  struct Case {
    textbook::Heads heads;
    AttentionKernel kernel;
  };
  std::vector<Case> cases{{{2, 70, 4, 2, 64}, AttentionKernel::plain},
                          {{1, 96, 3, 3, 128}, AttentionKernel::plain}};
  if (type == DataType::bf16) {
    cases.push_back({{2, 256, 4, 2, 64}, AttentionKernel::fused});
    cases.push_back({{1, 384, 4, 1, 128}, AttentionKernel::fused});
    cases.push_back({{1, 256, 3, 3, 128}, AttentionKernel::fused});
  }
  for (const auto& [h, kernel] : cases) {
    const AttentionSize size{type, h.sequences, h.sequence, h.heads, h.key_value_heads, h.head_dim};
    const std::string name = kernel == AttentionKernel::fused ? "attention (cuDNN)" : "attention (plain)";
    Matrix qkv, d_o, expected_log_sum_exp;
    const Owned device_qkv = random(type, size.tokens(), size.width(), qkv);
    const Owned device_d_o = random(type, size.tokens(), size.heads * size.head_dim, d_o);
    const Owned o = empty(type, size.tokens(), size.heads * size.head_dim);
    const Owned d_qkv = empty(type, size.tokens(), size.width());
    Owned log_sum_exp = empty(DataType::fp32, size.sequences * size.heads, size.sequence);
    const Attention attention(size, kernel, lane);
    attention.forward(lane, scratch(), device_qkv.tensor, o.tensor, floats(log_sum_exp));
    expect_close(o.tensor, textbook::attention(qkv, h, &expected_log_sum_exp), (name + " forward").c_str());
    EXPECT_LE(relative_error(download(log_sum_exp.tensor), expected_log_sum_exp), 1e-5);
    attention.backward(lane, scratch(), device_d_o.tensor, device_qkv.tensor, o.tensor, floats(log_sum_exp),
                       d_qkv.tensor);
    expect_close(d_qkv.tensor, textbook::attention_gradient(d_o, qkv, h), (name + " backward_input").c_str());
  }
}

TEST_P(Layers, AttentionOfFloat32IsPlainAndOfBf16IsFused) {
  const Attention attention({type, 1, 128, 2, 2, 64}, lane);
  EXPECT_EQ(attention.kernel(), type == DataType::bf16 ? AttentionKernel::fused : AttentionKernel::plain);
}

TEST_P(Layers, EmbeddingLooksUpRowsAndItsGradientAddsToThem) {
  const std::uint64_t tokens = 96, vocabulary = 64, width = 264, sequence = 48;  // ids repeat
  Matrix table, positions, d_out, d_table, d_positions;
  const Owned device_table = random(type, vocabulary, width, table);
  const Owned device_positions = random(type, sequence, width, positions);
  const Owned device_d_out = random(type, tokens, width, d_out);
  const Owned device_d_table = random(DataType::fp32, vocabulary, width, d_table);
  const Owned device_d_positions = random(DataType::fp32, sequence, width, d_positions);
  const auto ids = random_ids(tokens, vocabulary);
  const device::Buffer device_ids(Bytes{static_cast<std::int64_t>(4 * tokens)});
  put(device_ids.data(), ids);
  const Owned out = empty(type, tokens, width);
  embedding_forward(lane, device_ids.as<std::int32_t>(), device_table.tensor, {}, sequence, out.tensor);
  Matrix expected(tokens * width);
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t i = 0; i < width; ++i) {
      expected[t * width + i] = table[static_cast<std::size_t>(ids[t]) * width + i];
      d_table[static_cast<std::size_t>(ids[t]) * width + i] += d_out[t * width + i];
      d_positions[t % sequence * width + i] += d_out[t * width + i];
    }
  }
  EXPECT_EQ(download(out.tensor), expected);
  poison(out.buffer);
  embedding_forward(lane, device_ids.as<std::int32_t>(), device_table.tensor, device_positions.tensor,
                    sequence, out.tensor);
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t i = 0; i < width; ++i) expected[t * width + i] += positions[t % sequence * width + i];
  }
  expect_close(out.tensor, expected, "embedding forward");
  embedding_backward_weight(lane, device_ids.as<std::int32_t>(), device_d_out.tensor, sequence,
                            device_d_table.tensor, device_d_positions.tensor);
  EXPECT_LE(relative_error(download(device_d_table.tensor), d_table), 1e-5);
  EXPECT_LE(relative_error(download(device_d_positions.tensor), d_positions), 1e-5);
}

// 2^24 + 1/2 is 2^24 in float32, so 64 rows added one by one to a sum that large would all be lost; their own
// sum, 32, is not.
TEST_P(Layers, AFrequentTokensRowsAreSummedBeforeTheyAreAdded) {
  const std::uint64_t tokens = 64, width = 8;
  const Owned d_out = upload(type, tokens, width, Matrix(tokens * width, 0.5));
  const Owned d_table = upload(DataType::fp32, 5, width, Matrix(5 * width, 16777216));
  const device::Buffer ids(Bytes{static_cast<std::int64_t>(4 * tokens)});
  put(ids.data(), std::vector<std::int32_t>(tokens, 3));
  embedding_backward_weight(lane, ids.as<std::int32_t>(), d_out.tensor, tokens, d_table.tensor, {});
  const std::vector<double> sums = download(d_table.tensor);
  EXPECT_EQ(sums[3 * width], 16777216 + 32);
  EXPECT_EQ(sums[2 * width], 16777216);
}

TEST_P(Layers, CrossEntropyAndItsGradientInPlace) {
  for (const std::uint64_t vocabulary : {std::uint64_t{40}, std::uint64_t{10008}}) {
    const std::uint64_t tokens = 33;
    Matrix logits;
    const Owned device_logits = random(type, tokens, vocabulary, logits, 4);
    const auto targets = random_ids(tokens, static_cast<std::uint32_t>(vocabulary));
    const device::Buffer device_targets(Bytes{static_cast<std::int64_t>(4 * tokens)});
    put(device_targets.data(), targets);
    Owned log_sum_exp = empty(DataType::fp32, 1, tokens);
    Owned losses = empty(DataType::fp32, 1, tokens);
    Owned sum = upload(DataType::fp32, 1, 4, {1, 0, 0, 0});
    cross_entropy_forward(lane, device_logits.tensor, device_targets.as<std::int32_t>(), floats(log_sum_exp),
                          floats(losses));
    add_sum(lane, floats(losses), tokens, 0.5F, floats(sum));
    const Matrix expected = textbook::cross_entropy(logits, targets);
    EXPECT_LE(relative_error(download(losses.tensor), expected), 1e-5);  // float32 in both types
    double total = 1;
    for (const double loss : expected) total += 0.5 * loss;
    EXPECT_NEAR(download(sum.tensor)[0], total, 1e-5 * total);
    cross_entropy_backward(lane, device_logits.tensor, device_targets.as<std::int32_t>(), floats(log_sum_exp),
                           0.25F, device_logits.tensor);
    expect_close(device_logits.tensor, textbook::cross_entropy_gradient(logits, targets, 0.25),
                 "cross-entropy backward");
  }
}

TEST_P(Layers, MeanSquare) {
  Matrix y, target;
  const Owned device_y = random(type, 123, 200, y);
  const Owned device_target = random(type, 123, 200, target);
  const Owned dy = empty(type, 123, 200);
  const Owned copy = empty(type, 123, 200);
  Owned loss = upload(DataType::fp32, 1, 4, {2, 0, 0, 0});
  mean_square_forward(lane, scratch(), device_y.tensor, device_target.tensor, 0.001F, floats(loss),
                      copy.tensor);
  EXPECT_EQ(download(copy.tensor), target);
  mean_square_backward(lane, device_y.tensor, device_target.tensor, 0.001F, dy.tensor);
  double expected_loss = 2;
  Matrix expected(y.size());
  for (std::size_t i = 0; i < y.size(); ++i) {
    expected_loss += 0.001 * (y[i] - target[i]) * (y[i] - target[i]);
    expected[i] = 0.002 * (y[i] - target[i]);
  }
  EXPECT_NEAR(download(loss.tensor)[0], expected_loss, 1e-5 * expected_loss);
  expect_close(dy.tensor, expected, "mean square backward");
}

TEST_P(Layers, AdamwTakesTwoStepsAndClearsTheGradient) {
  const std::uint64_t count = 1004;
  Matrix master, gradient;
  Owned device_master = random(DataType::fp32, 1, count, master);
  Owned device_gradient = random(DataType::fp32, 1, count, gradient);
  Owned first = upload(DataType::fp32, 1, count, Matrix(count, 0.0));
  Owned second = upload(DataType::fp32, 1, count, Matrix(count, 0.0));
  const Owned weights = empty(type, 1, count);
  const AdamW a{1e-2F, 0.9F, 0.99F, 1e-8F, 0.1F};
  Matrix m(count), v(count);
  for (std::uint64_t step = 1; step <= 2; ++step) {
    adamw_step(lane, a, step, 0.5F, weights.tensor, floats(device_master), floats(device_gradient),
               floats(first), floats(second));
    EXPECT_EQ(download(device_gradient.tensor), Matrix(count, 0.0));
    for (std::size_t i = 0; i < count; ++i) {
      const double g = 0.5 * gradient[i];
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.99 * v[i] + 0.01 * g * g;
      const double corrected = m[i] / (1 - std::pow(0.9, step));
      const double root = std::sqrt(v[i] / (1 - std::pow(0.99, step)));
      master[i] = master[i] * (1 - 1e-2 * 0.1) - 1e-2 * corrected / (root + 1e-8);
    }
    if (step == 1) device_gradient = random(DataType::fp32, 1, count, gradient);
  }
  EXPECT_LE(relative_error(download(device_master.tensor), master), 1e-5);
  expect_close(weights.tensor, master, "adamw weights");
}

}  // namespace
}  // namespace plumb::layers
