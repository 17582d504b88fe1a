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
        const Turn turn(busy_);
        launch([](const void* context, int thread) { (*static_cast<const Body*>(context))(thread); }, &body);
    }

    // Splits [0, count) into a contiguous share per thread: body(begin, end, thread). Shares differ by at most one,
    // and depend on count and the number of threads only, so that a thread meets the same weights in every pass. Each
    // is dealt with in pieces of `grain` (0: an eighth of it), and a thread that is done takes pieces of the others':
    // one that lost its core for a moment must not hold up all.
    template <typename Body>
    void split(int64_t count, const Body& body, int64_t grain = 0) {
        if (count <= 0) return;
        const Turn turn(busy_);
        if (threads_ == 1 || count == 1) {
            body(int64_t{0}, count, 0);
            return;
        }
        if (grain <= 0) grain = (count / threads_ + 7) / 8;
        if (grain <= 0) grain = 1;
        for (int thread = 0; thread < threads_; ++thread) {
            Slot& slot = slots_[static_cast<size_t>(thread)];
            slot.next.store(count * thread / threads_, std::memory_order_relaxed);
            slot.end = count * (thread + 1) / threads_;
        }
        const auto work = [&](int thread) {
            for (int other = 0; other < threads_; ++other) {
                Slot& slot = slots_[static_cast<size_t>((thread + other) % threads_)];
                const int64_t end = slot.end;
                while (slot.next.load(std::memory_order_relaxed) < end) {
                    const int64_t begin = slot.next.fetch_add(grain, std::memory_order_relaxed);
                    if (begin < end) body(begin, begin + grain < end ? begin + grain : end, thread);
                }
            }
        };
        launch([](const void* context, int thread) { (*static_cast<const decltype(work)*>(context))(thread); }, &work);
    }

    // Hands out [0, count) in steps of `step` to whichever thread is free.
    template <typename Body>
    void share(int64_t count, int64_t step, const Body& body) {
        if (count <= step) {
            const Turn turn(busy_);
            if (count > 0) body(int64_t{0}, count, 0);
            return;
        }
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
    // One caller at a time.
    class Turn {
      public:
        explicit Turn(std::atomic_flag& busy) : busy_(busy) {
            while (busy_.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
        }
        ~Turn() { busy_.clear(std::memory_order_release); }
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;

      private:
        std::atomic_flag& busy_;
    };
    void launch(Entry entry, const void* context);  // the caller has its turn
    void work(int thread, int cpu);

    struct alignas(64) Slot {
        std::atomic<uint32_t> done{0};
        std::atomic<int64_t> next{0};  // of this thread's share, what nobody has taken yet
        int64_t end = 0;
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
