#include "runtime/device/communicator.hpp"

#include "runtime/device/check.hpp"
#include "runtime/device/stream.hpp"
#include "schedules/ir/error.hpp"

#include <cstring>
#include <thread>

#include <nccl.h>

namespace plumb::device {
namespace {
std::string version_text(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}
}  // namespace

CommunicatorId make_communicator_id() {
  static_assert(sizeof(ncclUniqueId) == sizeof(CommunicatorId));
  ncclUniqueId id;
  PLUMB_NCCL_CALL(ncclGetUniqueId(&id));
  CommunicatorId bytes{};
  std::memcpy(bytes.data(), &id, sizeof id);
  return bytes;
}

std::string nccl_version() {
  int version = 0;
  PLUMB_NCCL_CALL(ncclGetVersion(&version));
  return version_text(version);
}

std::string nccl_built_with() { return version_text(NCCL_VERSION_CODE); }

Communicator::Communicator(const CommunicatorId& id, std::uint32_t ranks, std::uint32_t rank,
                           std::uint32_t channels, std::chrono::milliseconds deadline)
    : deadline_(deadline) {
  ncclUniqueId unique;
  std::memcpy(&unique, id.data(), sizeof unique);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  config.minCTAs = 1;
  config.maxCTAs = static_cast<int>(channels);
  try {
    PLUMB_NCCL_CALL(
        ncclCommInitRankConfig(&handle_, static_cast<int>(ranks), unique, static_cast<int>(rank), &config));
    settle("its ranks to come together");
  } catch (...) {
    abort();
    throw;
  }
}

Communicator::~Communicator() {
  if (!handle_) return;
  // Destroying waits for the peers as well, so it is begun with finalize and polled like everything else.
  try {
    PLUMB_NCCL_CALL(ncclCommFinalize(handle_));
    settle("its ranks to finish");
    static_cast<void>(ncclCommDestroy(handle_));
  } catch (const DeviceError&) {
    abort();
  }
}

std::optional<Communicator> Communicator::split(std::optional<std::uint32_t> color, std::uint32_t key) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  config.splitShare = 1;
  ncclComm* part = nullptr;
  PLUMB_NCCL_CALL(ncclCommSplit(handle_, color ? static_cast<int>(*color) : NCCL_SPLIT_NOCOLOR,
                                static_cast<int>(key), &part, &config));
  settle("its ranks to part");
  if (!color) return std::nullopt;
  Communicator made(part, deadline_);
  made.settle("its ranks to come together");
  return made;
}

void Communicator::begin_group() { PLUMB_NCCL_CALL(ncclGroupStart()); }

void Communicator::end_group() {
  PLUMB_NCCL_CALL(ncclGroupEnd());
  settle("a group of messages to be taken");
}

void Communicator::send(const void* data, Bytes bytes, std::uint32_t peer, const Stream& stream) {
  PLUMB_NCCL_CALL(ncclSend(data, static_cast<std::size_t>(bytes.count), ncclUint8, static_cast<int>(peer),
                           handle_, stream.handle()));
}

void Communicator::receive(void* data, Bytes bytes, std::uint32_t peer, const Stream& stream) {
  PLUMB_NCCL_CALL(ncclRecv(data, static_cast<std::size_t>(bytes.count), ncclUint8, static_cast<int>(peer),
                           handle_, stream.handle()));
}

void Communicator::all_reduce(void* data, std::size_t count, const Stream& stream) {
  PLUMB_NCCL_CALL(ncclAllReduce(data, data, count, ncclFloat32, ncclSum, handle_, stream.handle()));
  settle("an all-reduce to be taken");
}

void Communicator::reduce_scatter(const void* data, void* part, std::size_t count, const Stream& stream) {
  PLUMB_NCCL_CALL(ncclReduceScatter(data, part, count, ncclFloat32, ncclSum, handle_, stream.handle()));
  settle("a reduce-scatter to be taken");
}

void Communicator::all_gather(const void* part, void* all, std::size_t count, const Stream& stream) {
  PLUMB_NCCL_CALL(ncclAllGather(part, all, count, ncclFloat32, handle_, stream.handle()));
  settle("an all-gather to be taken");
}

void Communicator::check() const {
  ncclResult_t state = ncclSuccess;
  PLUMB_NCCL_CALL(ncclCommGetAsyncError(handle_, &state));
  PLUMB_NCCL_CALL(state);
}

void Communicator::abort() noexcept {
  if (handle_) static_cast<void>(ncclCommAbort(std::exchange(handle_, nullptr)));
}

void Communicator::settle(const char* what) {
  const auto end = std::chrono::steady_clock::now() + deadline_;
  for (ncclResult_t state = ncclInProgress;;) {
    PLUMB_NCCL_CALL(ncclCommGetAsyncError(handle_, &state));
    if (state == ncclSuccess) return;
    PLUMB_NCCL_CALL(state);
    if (std::chrono::steady_clock::now() > end) {
      abort();
      throw DeviceError("NCCL waited " + std::to_string(deadline_.count()) + " ms for " + what +
                        "; the communicator was aborted");
    }
    std::this_thread::yield();
  }
}

}  // namespace plumb::device
