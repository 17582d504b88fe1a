#include "pool.h"

#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace deepground {
namespace {

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Pauses (some 40 ns each on x86) before a waiting worker sleeps: some 200 microseconds, longer than what lies
// between two kernels of a pass, shorter than anything a person or a power meter notices.
constexpr int kSpins = 5000;
// The caller's wait is for its own work; where a worker has lost its core, giving way helps it back.
constexpr int kSpinsBeforeYield = 2000;

// std::atomic::wait spins and yields in ways that differ between libraries; the futex says what is meant.
void sleep_while_equal(std::atomic<uint32_t>& word, uint32_t value) {
#if defined(__linux__)
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#else
    word.wait(value);
#endif
}

void wake_all(std::atomic<uint32_t>& word) {
#if defined(__linux__)
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, 1 << 30, nullptr, nullptr, 0);
#else
    word.notify_all();
#endif
}

void pin(int cpu) {
#if defined(__linux__)
    if (cpu < 0) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);  // where it is refused, the thread runs anywhere
#else
    (void)cpu;
#endif
}

}  // namespace

Pool::Pool(int threads, std::vector<int> cpus) : threads_(threads), slots_(new Slot[static_cast<size_t>(threads)]) {
    for (int thread = 1; thread < threads; ++thread) {
        const int cpu = static_cast<size_t>(thread) < cpus.size() ? cpus[static_cast<size_t>(thread)] : -1;
        workers_.emplace_back([this, thread, cpu] { work(thread, cpu); });
    }
}

Pool::~Pool() {
    stop_.store(true);
    round_.fetch_add(1);
    wake_all(round_);
    for (auto& worker : workers_) worker.join();
    for (int thread = 0; thread < threads_; ++thread) std::free(slots_[static_cast<size_t>(thread)].scratch);
}

void* Pool::scratch(int thread, int64_t bytes) {
    Slot& slot = slots_[static_cast<size_t>(thread)];
    if (slot.scratch_bytes < bytes) {
        std::free(slot.scratch);
        slot.scratch_bytes = (bytes + 4095) / 4096 * 4096;
        slot.scratch = std::aligned_alloc(4096, static_cast<size_t>(slot.scratch_bytes));
        if (slot.scratch == nullptr) throw std::bad_alloc();
    }
    return slot.scratch;
}

void Pool::launch(Entry entry, const void* context) {
    if (threads_ == 1) {
        entry(context, 0);
        return;
    }
    entry_ = entry;
    context_ = context;
    const uint32_t round = round_.fetch_add(1, std::memory_order_seq_cst) + 1;
    if (sleepers_.load(std::memory_order_seq_cst) != 0) wake_all(round_);
    entry(context, 0);
    for (int thread = 1; thread < threads_; ++thread) {
        Slot& slot = slots_[static_cast<size_t>(thread)];
        for (int spin = 0; slot.done.load(std::memory_order_acquire) != round; ++spin) {
            if (spin < kSpinsBeforeYield) relax();
            else std::this_thread::yield();
        }
    }
}

void Pool::work(int thread, int cpu) {
    pin(cpu);
    Slot& slot = slots_[static_cast<size_t>(thread)];
    uint32_t seen = 0;
    while (true) {
        for (int spin = 0; round_.load(std::memory_order_acquire) == seen; ++spin) {
            if (spin < kSpins) {
                relax();
                continue;
            }
            sleepers_.fetch_add(1, std::memory_order_seq_cst);
            while (round_.load(std::memory_order_seq_cst) == seen) sleep_while_equal(round_, seen);
            sleepers_.fetch_sub(1, std::memory_order_seq_cst);
        }
        seen = round_.load(std::memory_order_acquire);
        if (stop_.load()) return;
        entry_(context_, thread);
        slot.done.store(seen, std::memory_order_release);
    }
}

}  // namespace deepground
