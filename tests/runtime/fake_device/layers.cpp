// Stages that compute on the fake device: the host's reference layers, launched in a stream.
#include "runtime/cuda/gradient_kernels.hpp"
#include "runtime/layers/gradient_sum.hpp"
#include "runtime/device/green_context.hpp"
#include "runtime/layers/lane.hpp"
#include "runtime/layers/matmul.hpp"
#include "runtime/layers/model_stage.hpp"
#include "runtime/layers/optimizer.hpp"
#include "runtime/layers/random.hpp"
#include "runtime/reference/stage.hpp"
#include "schedules/ir/error.hpp"
#include "tests/runtime/fake_device/choices.hpp"
#include "tests/runtime/fake_device/queue.hpp"

#include <atomic>
#include <cmath>

namespace plumb::test {
namespace {
std::atomic<std::uint64_t> last_choice{0};
std::atomic<bool> choices_differ{false};
}  // namespace

void let_choices_differ(bool differ) { choices_differ = differ; }
std::uint64_t next_choice() { return choices_differ ? ++last_choice : 0; }

}  // namespace plumb::test

namespace plumb::layers {

void sum_copies(const device::Stream& stream, std::span<float* const> copies, std::uint64_t count) {
  stream.handle()->push([parts = std::vector<float*>(copies.begin(), copies.end()), count] {
    for (std::uint64_t i = 0; i < count; ++i) {
      float sum = 0;
      for (const float* part : parts) sum += part[i];
      for (float* part : parts) part[i] = sum;
    }
  });
}

}  // namespace plumb::layers

namespace plumb::cuda {

void sum_of_squares(const device::Stream& stream, const float* values, std::uint64_t count, double*,
                    double* sum) {
  stream.handle()->push([=] {
    *sum = 0;
    for (std::uint64_t i = 0; i < count; ++i) *sum += double{values[i]} * double{values[i]};
  });
}

}  // namespace plumb::cuda

namespace plumb::layers {

Lane::Lane(const device::Stream& stream, std::uint32_t multiprocessors)
    : stream_(stream), multiprocessors_(multiprocessors) {}
Lane::~Lane() = default;

void convert(const Lane&, const Tensor&, const Tensor&) {
  PLUMB_CHECK(!"the fake device computes in float32");
}

void adamw_step(const Lane& lane, const AdamW& a, std::uint64_t step, float gradient_scale,
                const Tensor& weights, float* master, float* gradient, float* first, float* second) {
  lane.stream().handle()->push([=] {
    for (std::uint64_t i = 0; i < weights.elements(); ++i) {
      const float slope = gradient[i] * gradient_scale;
      first[i] = a.beta_1 * first[i] + (1 - a.beta_1) * slope;
      second[i] = a.beta_2 * second[i] + (1 - a.beta_2) * slope * slope;
      const float mean = first[i] / (1 - std::pow(a.beta_1, static_cast<float>(step)));
      const float square = second[i] / (1 - std::pow(a.beta_2, static_cast<float>(step)));
      master[i] -= a.learning_rate * (a.weight_decay * master[i] + mean / (std::sqrt(square) + a.epsilon));
      weights.as<float>()[i] = master[i];
      gradient[i] = 0;
    }
  });
}

// A stage has one product, and a last stage another. Which algorithm computes the latter can be seen in the
// loss.
std::uint64_t chosen(const ProductShape& shape, ProductAlgorithms& algorithms) {
  if (!algorithms.find(shape)) algorithms.set(shape, {test::next_choice()});
  return algorithms.find(shape)->front();
}

struct ModelStage::Implementation {
  Implementation(const ModelShape& model, const Layout& layout, plumb::Stage which,
                 std::span<const Parameter> parameters, ProductAlgorithms& algorithms)
      : stage(model, layout, which),
        text(model.architecture == Architecture::transformer),
        first(which.value == 0),
        last(which.value + 1 == layout.stages.size()),
        tokens(layout.tokens()),
        hidden(model.hidden),
        // Parameters lie one behind another, in the order that the reference has them.
        weights(parameters.front().weights.as<float>(), stage.elements()),
        gradients(parameters.front().gradients.as<float>(), stage.elements()) {
    const reference::StageNeeds own = stage.needs();
    needs.output = last ? Bytes{} : own.message;
    needs.kept_for_input = own.kept_for_input;
    needs.kept_for_weight = own.kept_for_weight;
    needs.gradients_kept = own.gradients_kept;
    needs.forward_scratch = needs.backward_input_scratch = Scratch::rounded(own.workspace);
    needs.backward_scratch = Scratch::rounded(own.workspace) + Scratch::rounded(own.gradients_kept);
    choose_products(algorithms);
  }

  void choose_products(ProductAlgorithms& algorithms) {
    ProductShape product{ProductForm::forward, DataType::fp32, tokens, hidden, hidden};
    chosen(product, algorithms);
    product.outputs = 1;
    if (last) head_choice = chosen(product, algorithms);
  }

  reference::StageMemoryView view(const StageBuffers& b, Scratch scratch, Bytes workspace) const {
    reference::StageMemoryView view;
    view.input = static_cast<const std::byte*>(b.input);
    view.output = static_cast<std::byte*>(b.output);
    view.kept_for_input = static_cast<std::byte*>(b.kept_for_input);
    view.kept_for_weight = static_cast<std::byte*>(b.kept_for_weight);
    view.gradients_kept = static_cast<std::byte*>(b.gradients_kept);
    if (workspace.count > 0) view.workspace = static_cast<std::byte*>(scratch.take(workspace));
    return view;
  }

  Launching forward(const Lane& lane, StageBuffers b, StageTarget target) const {
    lane.stream().handle()->push([this, b, target] {
      reference::StageData<float> data;
      if (first && text) data.tokens = {static_cast<const std::int32_t*>(b.input), tokens};
      if (first && !text) data.input = {static_cast<const float*>(b.input), tokens * hidden};
      if (last && text) data.targets = {static_cast<const std::int32_t*>(target.target), tokens};
      if (last && !text) data.target = {static_cast<const float*>(target.target), tokens * hidden};
      const double loss = stage.forward(weights, data, view(b, b.scratch, stage.needs().workspace));
      if (last) *target.loss += static_cast<float>(loss + static_cast<double>(head_choice));
    });
    co_return;
  }
  Launching backward_input(const Lane& lane, StageBuffers b, StageTarget target) const {
    lane.stream().handle()->push([this, b, scale = target.scale] {
      stage.backward_input(weights, gradients, scale, view(b, b.scratch, stage.needs().workspace));
    });
    co_return;
  }
  Launching backward_weight(const Lane& lane, StageBuffers b) const {
    lane.stream().handle()->push([this, b] { stage.backward_weight(gradients, view(b, {}, {})); });
    co_return;
  }
  // In two pieces, between which the other op of a pair has its turn.
  Launching backward(const Lane& lane, StageBuffers b, StageTarget target) const {
    b.gradients_kept = b.scratch.take(needs.gradients_kept);
    backward_input(lane, b, target).finish();
    co_await Launching::pause;
    backward_weight(lane, b).finish();
  }

  reference::Stage<float> stage;
  bool text, first, last;
  std::uint64_t tokens, hidden;
  std::uint64_t head_choice = 0;
  std::span<float> weights, gradients;
  StageNeeds needs;
};

device::Stream pair_forward_stream(const device::GreenContext* share) {
  return share ? share->stream(device::Priority::low) : device::Stream();
}

ModelStage::ModelStage(const ModelShape& model, const Layout& layout, plumb::Stage stage,
                       std::span<const Parameter> parameters, ProductAlgorithms& algorithms, const Lane&)
    : implementation_(std::make_unique<Implementation>(model, layout, stage, parameters, algorithms)) {}
ModelStage::~ModelStage() = default;
void ModelStage::choose_products(ProductAlgorithms& algorithms, const Lane&) {
  implementation_->choose_products(algorithms);
}
const StageNeeds& ModelStage::needs() const { return implementation_->needs; }

Launching ModelStage::launching(OpKind kind, const Lane& lane, const StageBuffers& buffers,
                                const StageTarget& target) const {
  switch (kind) {
    case OpKind::forward:
      return implementation_->forward(lane, buffers, target);
    case OpKind::backward_input:
      return implementation_->backward_input(lane, buffers, target);
    case OpKind::backward_weight:
      return implementation_->backward_weight(lane, buffers);
    default:
      return implementation_->backward(lane, buffers, target);
  }
}

}  // namespace plumb::layers
