// Large blocks of memory in large pages. A plan of millions of ops writes gigabytes once, front to back, and
// a first touch costs more than the work on it: the kernel clears every page (2.7 us for one of 4 KiB on a
// virtual machine, 1.5 GB/s). So blocks from 4 MiB on lie in pages of 2 MiB, and freed blocks stay with the
// process, which holds at most a quarter more of them than it once used at a time: the next plan of a sweep
// finds its memory warm. Linked into programs, never into a library. A sanitizer brings an allocator of its
// own, which must see every block: there this file is empty.
#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include <cstdint>
#include <mutex>

#include <malloc.h>
#include <sys/mman.h>

namespace {

constexpr std::size_t large_page = std::size_t{2} << 20;
constexpr std::size_t large_block = 2 * large_page;

[[maybe_unused]] const bool keeps_memory = [] {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, -1);  // never
  return true;
}();

// The large blocks, used and kept. A table of its own: it must not allocate while it allocates.
class LargeBlocks {
 public:
  /// Null where the system has no more, or the table is full.
  void* allocate(std::size_t size) {
    if (size > static_cast<std::size_t>(-1) - large_page) return nullptr;
    size = (size + large_page - 1) / large_page * large_page;
    const std::lock_guard lock(mutex_);
    Block* block = best_kept(size);
    if (!block) block = map(size);
    if (!block) return nullptr;
    block->used = true;
    used_bytes_ += block->size;
    kept_bytes_ -= block->size;
    if (used_bytes_ > most_used_) most_used_ = used_bytes_;
    return block->at;
  }

  /// False where the block is none of these.
  bool release(void* at) {
    // Aligned like few other blocks are, so that almost none of them is looked for.
    if (reinterpret_cast<std::uintptr_t>(at) % large_page != 0) return false;
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < count_; ++i) {
      if (blocks_[i].at != at) continue;
      blocks_[i].used = false;
      used_bytes_ -= blocks_[i].size;
      kept_bytes_ += blocks_[i].size;
      return true;
    }
    return false;
  }

 private:
  struct Block {
    void* at;
    std::size_t size;
    bool used;
  };

  // The smallest that is large enough, and not by more than a quarter.
  Block* best_kept(std::size_t size) {
    Block* best = nullptr;
    for (std::size_t i = 0; i < count_; ++i) {
      Block& block = blocks_[i];
      if (block.used || block.size < size || block.size > size + size / 4) continue;
      if (!best || block.size < best->size) best = &block;
    }
    return best;
  }

  Block* map(std::size_t size) {
    for (std::size_t i = 0; i < count_ && used_bytes_ + kept_bytes_ + size > most_used_ + most_used_ / 4;) {
      if (blocks_[i].used) {
        ++i;
        continue;
      }
      munmap(blocks_[i].at, blocks_[i].size);
      kept_bytes_ -= blocks_[i].size;
      blocks_[i] = blocks_[--count_];
    }
    if (count_ == most_blocks) return nullptr;
    void* const mapped =
        mmap(nullptr, size + large_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    char* const begin = static_cast<char*>(mapped);
    const std::size_t before =
        (large_page - reinterpret_cast<std::uintptr_t>(mapped) % large_page) % large_page;
    if (before > 0) munmap(begin, before);
    munmap(begin + before + size, large_page - before);
    madvise(begin + before, size, MADV_HUGEPAGE);  // a wish: where it is not granted, small pages do
    kept_bytes_ += size;
    blocks_[count_] = {begin + before, size, false};
    return &blocks_[count_++];
  }

  static constexpr std::size_t most_blocks = 4096;
  std::mutex mutex_;
  std::size_t count_ = 0;
  std::size_t used_bytes_ = 0;
  std::size_t kept_bytes_ = 0;
  std::size_t most_used_ = 0;
  Block blocks_[most_blocks] = {};
};

constinit LargeBlocks large_blocks;

}  // namespace

void* operator new(std::size_t size) {
  if (size >= large_block) {
    if (void* block = large_blocks.allocate(size)) return block;
  }
  if (void* block = std::malloc(size ? size : 1)) return block;
  throw std::bad_alloc();
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto align = static_cast<std::size_t>(alignment);
  if (size >= large_block && align <= large_page) {
    if (void* block = large_blocks.allocate(size)) return block;
  }
  if (size > static_cast<std::size_t>(-1) - align) throw std::bad_alloc();
  if (void* block = std::aligned_alloc(align, (size + align - 1) / align * align)) return block;
  throw std::bad_alloc();
}
void operator delete(void* block) noexcept {
  if (!large_blocks.release(block)) std::free(block);
}
void operator delete(void* block, std::size_t) noexcept { operator delete(block); }
void operator delete(void* block, std::align_val_t) noexcept { operator delete(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { operator delete(block); }
#endif
