// One pool of threads for all kernels.
//
// Between two parts of a forward pass the threads spin for a moment, as the next part comes within microseconds;
// then they sleep, so that an idle server costs nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace deepground {

class Pool {
  public:
    // threads counts the caller; cpus: where to pin thread i (empty: nowhere; the caller is never pinned).
    Pool(int threads, std::vector<int> cpus);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }

    // Runs body(thread) once on every thread, the caller's own being thread 0, and returns when all are done.
    // One caller at a time; a second waits. Bodies must not throw and must not call run.
    template <typename Body>
    void run(const Body& body) {
        launch([](const void* context, int thread) { (*static_cast<const Body*>(context))(thread); }, &body);
    }

    // Splits [0, count) into a contiguous share per thread: body(begin, end, thread). Shares differ by at most one,
    // and depend on count and the number of threads only, so that a thread meets the same weights in every pass.
    template <typename Body>
    void split(int64_t count, const Body& body) {
        if (threads_ == 1 || count == 1) {
            if (count > 0) body(int64_t{0}, count, 0);
            return;
        }
        run([&](int thread) {
            const int64_t begin = count * thread / threads_, end = count * (thread + 1) / threads_;
            if (begin < end) body(begin, end, thread);
        });
    }

    // Hands out [0, count) in steps of `step` to whichever thread is free.
    template <typename Body>
    void share(int64_t count, int64_t step, const Body& body) {
        std::atomic<int64_t> next{0};
        run([&](int thread) {
            for (int64_t begin; (begin = next.fetch_add(step, std::memory_order_relaxed)) < count;)
                body(begin, begin + step < count ? begin + step : count, thread);
        });
    }

    // 64-byte aligned memory of one thread, at least `bytes` large, reused by every call.
    void* scratch(int thread, int64_t bytes);

  private:
    using Entry = void (*)(const void*, int);
    void launch(Entry entry, const void* context);
    void work(int thread, int cpu);

    struct alignas(64) Slot {
        std::atomic<uint32_t> done{0};
        void* scratch = nullptr;
        int64_t scratch_bytes = 0;
    };
    int threads_;
    std::unique_ptr<Slot[]> slots_;
    std::vector<std::thread> workers_;
    alignas(64) std::atomic<uint32_t> round_{0};
    std::atomic<uint32_t> sleepers_{0};
    std::atomic<bool> stop_{false};
    Entry entry_ = nullptr;
    const void* context_ = nullptr;
    std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
};

}  // namespace deepground
