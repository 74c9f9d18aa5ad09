// Stands in for the GPU's workers where plumb was built without CUDA.
#include "runtime/clock_watch.hpp"
#include "runtime/gpu_workers.hpp"
#include "schedules/ir/error.hpp"

namespace plumb {
namespace {

[[noreturn]] void none() {
  throw DeviceError(
      "this plumb was built without CUDA: `--device cpu` runs anywhere; for a GPU build it with the preset "
      "`cuda`");
}

}  // namespace

void require_gpu_workers() { none(); }

std::vector<std::unique_ptr<Worker>> make_gpu_workers(const TrainingPlan&, const GpuOptions&) { none(); }

std::uint32_t left_free(const NcclOptions&) { none(); }

std::unique_ptr<NcclSession> make_nccl_session() { none(); }

std::unique_ptr<Worker> make_nccl_worker(const TrainingPlan&, Rendezvous&, const NcclOptions&) { none(); }

Unpipelined run_unpipelined_on_gpu(const TrainingPlan&, const TrainingData&, std::uint64_t,
                                   const GpuOptions&) {
  none();
}

struct ClockWatch::Impl {};
ClockWatch::ClockWatch() = default;
ClockWatch::~ClockWatch() = default;
void ClockWatch::start() {}
std::uint32_t ClockWatch::stop() { return 0; }

}  // namespace plumb
