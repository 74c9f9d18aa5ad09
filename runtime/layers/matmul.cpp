#include "runtime/layers/matmul.hpp"

#include "runtime/device/check.hpp"
#include "runtime/device/event.hpp"
#include "runtime/layers/random.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include <cublasLt.h>
#include <fmt/format.h>

namespace plumb::layers {
namespace {

// Candidates run in turns, so that a clock that falls meanwhile slows all of them alike.
constexpr int candidates = 24;
constexpr int rounds = 7;
constexpr int final_candidates = 4;  // the best of the first rounds, which run as often again

// Row-major matrices are column-major ones transposed, and cuBLASLt's are column-major. `first` and `second`
// are its operands: D = op(first) op(second), and D^T is what we want.
struct Columns {
  cublasOperation_t first_op, second_op;
  std::uint64_t first_rows, first_columns, second_rows, second_columns, result_rows, result_columns;
};

Columns columns_of(const ProductShape& s) {
  switch (s.form) {
    case ProductForm::forward:  // y^T = w x^T
      return {CUBLAS_OP_T, CUBLAS_OP_N, s.inputs, s.outputs, s.inputs, s.tokens, s.outputs, s.tokens};
    case ProductForm::input_gradient:  // dx^T = w^T dy^T
      return {CUBLAS_OP_N, CUBLAS_OP_N, s.inputs, s.outputs, s.outputs, s.tokens, s.inputs, s.tokens};
    case ProductForm::weight_gradient:  // dw^T = x^T dy
      return {CUBLAS_OP_N, CUBLAS_OP_T, s.inputs, s.tokens, s.outputs, s.tokens, s.inputs, s.outputs};
  }
  PLUMB_CHECK(!"a product form");
  return {};
}

}  // namespace

struct Product::Descriptors {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t first = nullptr;
  cublasLtMatrixLayout_t second = nullptr;
  cublasLtMatrixLayout_t result = nullptr;
  cublasLtMatmulAlgo_t algorithm{};

  explicit Descriptors(const ProductShape& shape) {
    const cudaDataType_t type = shape.type == DataType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
    const cudaDataType_t result_type = shape.form == ProductForm::weight_gradient ? CUDA_R_32F : type;
    const Columns c = columns_of(shape);
    // Plain float32 sums in both types: no TF32, which would miss the accuracy that fp32 stands for.
    PLUMB_CUBLAS_CALL(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(CUBLASLT_MATMUL_DESC_TRANSA, c.first_op);
    set(CUBLASLT_MATMUL_DESC_TRANSB, c.second_op);
    set(CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, static_cast<std::int32_t>(shape.multiprocessors));
    if (shape.bias) set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    layout(first, type, c.first_rows, c.first_columns);
    layout(second, type, c.second_rows, c.second_columns);
    layout(result, result_type, c.result_rows, c.result_columns);
  }
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;
  ~Descriptors() {
    for (cublasLtMatrixLayout_t one : {first, second, result}) {
      if (one) static_cast<void>(cublasLtMatrixLayoutDestroy(one));
    }
    if (product) static_cast<void>(cublasLtMatmulDescDestroy(product));
  }

  template <class Value>
  void set(cublasLtMatmulDescAttributes_t attribute, Value value) {
    PLUMB_CUBLAS_CALL(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof value));
  }
  static void layout(cublasLtMatrixLayout_t& layout, cudaDataType_t type, std::uint64_t rows,
                     std::uint64_t columns) {
    PLUMB_CUBLAS_CALL(
        cublasLtMatrixLayoutCreate(&layout, type, rows, columns, static_cast<std::int64_t>(rows)));
  }
};

Product::Product(Product&&) noexcept = default;
Product& Product::operator=(Product&&) noexcept = default;
Product::~Product() = default;

Product::Product(const ProductShape& shape, ProductAlgorithms& algorithms, const Lane& lane)
    : shape_(shape), descriptors_(std::make_unique<Descriptors>(shape)) {
  static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(ProductAlgorithms::Code));
  if (const auto* code = algorithms.find(shape)) {
    std::memcpy(&descriptors_->algorithm, code->data(), sizeof *code);
    return;
  }

  cublasLtMatmulPreference_t preference = nullptr;
  PLUMB_CUBLAS_CALL(cublasLtMatmulPreferenceCreate(&preference));
  const auto workspace = static_cast<std::uint64_t>(lane.product_workspace().bytes().count);
  PLUMB_CUBLAS_CALL(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                         &workspace, sizeof workspace));
  // Tensors lie close together in a stage's blocks: sixteen bytes are all that is promised.
  constexpr std::uint32_t alignment = 16;
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    PLUMB_CUBLAS_CALL(
        cublasLtMatmulPreferenceSetAttribute(preference, attribute, &alignment, sizeof alignment));
  }
  std::array<cublasLtMatmulHeuristicResult_t, candidates> found{};
  int count = 0;
  const int status = cublasLtMatmulAlgoGetHeuristic(
      lane.blas(), descriptors_->product, descriptors_->first, descriptors_->second, descriptors_->result,
      descriptors_->result, preference, candidates, found.data(), &count);
  static_cast<void>(cublasLtMatmulPreferenceDestroy(preference));
  PLUMB_CUBLAS_CALL(status);
  if (count == 0) throw DeviceError("cuBLASLt has no algorithm for the product " + to_string(shape));

  // Zeros would run at a higher clock than real data does, so the operands are random.
  const auto size = [&](std::uint64_t elements, DataType type) {
    return Bytes{static_cast<std::int64_t>(elements * bytes_of(type))};
  };
  const Columns c = columns_of(shape);
  const device::Buffer first(size(c.first_rows * c.first_columns, shape.type));
  const device::Buffer second(size(c.second_rows * c.second_columns, shape.type));
  const device::Buffer result(size(c.result_rows * c.result_columns, DataType::fp32));
  fill_uniform(lane, {first.data(), shape.type, c.first_columns, c.first_rows}, 1, 1.0F);
  fill_uniform(lane, {second.data(), shape.type, c.second_columns, c.second_rows}, 2, 1.0F);
  fill_uniform(lane, {result.data(), DataType::fp32, c.result_columns, c.result_rows}, 3, 1.0F);

  const device::Event begin(device::EventKind::timing);
  const device::Event end(device::EventKind::timing);
  struct Timed {
    cublasLtMatmulAlgo_t algorithm;
    std::vector<Duration> times;
    Duration median() {
      std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                       times.end());
      return times[times.size() / 2];
    }
  };
  std::vector<Timed> timed;
  for (int i = 0; i < count; ++i) {
    if (found[static_cast<std::size_t>(i)].state == CUBLAS_STATUS_SUCCESS) {
      timed.push_back({found[static_cast<std::size_t>(i)].algo, {}});
    }
  }
  if (timed.empty()) throw DeviceError("no algorithm of cuBLASLt's runs the product " + to_string(shape));
  const auto take_turns = [&](int turns) {
    for (int turn = 0; turn < turns; ++turn) {
      for (Timed& one : timed) {
        descriptors_->algorithm = one.algorithm;
        begin.record(lane.stream());
        run(lane, second.data(), first.data(), result.data(), result.data(),
            shape.bias ? first.data() : nullptr);
        end.record(lane.stream());
        end.synchronize();
        one.times.push_back(device::between(begin, end));
      }
    }
    std::sort(timed.begin(), timed.end(), [](Timed& a, Timed& b) { return a.median() < b.median(); });
  };
  take_turns(1);  // warm-up: kernels are loaded
  // A product that takes long is timed precisely by few runs, and many would take minutes on a small share of
  // a GPU.
  const bool slow = timed.front().times.front() > Duration{2'000'000};
  for (Timed& one : timed) one.times.clear();
  take_turns(slow ? 3 : rounds);
  if (timed.size() > final_candidates) timed.resize(final_candidates);
  for (Timed& one : timed) one.times.clear();
  take_turns(slow ? rounds : 4 * rounds);
  descriptors_->algorithm = timed.front().algorithm;
  ProductAlgorithms::Code code{};
  std::memcpy(code.data(), &descriptors_->algorithm, sizeof code);
  algorithms.set(shape, code);
}

void Product::run(const Lane& lane, const void* left, const void* right, void* result, const void* added,
                  const void* bias) const {
  PLUMB_CHECK(shape_.bias == (bias != nullptr));
  if (bias) descriptors_->set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  const float one = 1;
  const float beta = shape_.adds ? 1.0F : 0.0F;
  const void* addend = shape_.adds && shape_.form == ProductForm::forward ? added : result;
  PLUMB_CUBLAS_CALL(cublasLtMatmul(
      lane.blas(), descriptors_->product, &one, right, descriptors_->first, left, descriptors_->second, &beta,
      addend, descriptors_->result, result, descriptors_->result, &descriptors_->algorithm,
      lane.product_workspace().data(), static_cast<std::size_t>(lane.product_workspace().bytes().count),
      lane.stream().handle()));
}

}  // namespace plumb::layers
