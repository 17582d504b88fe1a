// Experts that stay on disk, with those used most in a bounded part of memory.
//
// Threads of the store read what a pass needs while the kernels compute what is there, pack it on arrival, and tell the
// operating system to forget the pages that were read: its page cache would hold the same weights a second time.
#pragma once

#include <stdint.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "moe.h"

namespace deepground {

// A file of weights cannot be read, or is no longer what it was; the text names it.
class ExpertReadError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Scales as they are stored: FP8 f32, bf16 or e8m0; MXFP4 e8m0.
enum class ScaleType { none, f32, bf16, e8m0 };

// A matrix in a file: row-major codes as pack.h takes them, and its scales.
struct StoredMatrix {
    Format format = Format::bf16;
    int64_t n = 0, k = 0;
    int file = 0;
    int64_t codes = 0;  // offset in bytes
    int scales_file = 0;
    int64_t scales = 0;  // offset in bytes
    ScaleType scale_type = ScaleType::none;
    int64_t block_n = 0;  // fp8: rows that share a scale

    int64_t code_bytes() const;
    int64_t scale_count() const;
    int64_t scale_bytes() const;
};

struct StoredExpert {
    StoredMatrix parts[3];  // gate, up, down
};

struct StoreStats {
    int64_t hits = 0, misses = 0;  // experts that passes found in memory, and those that they waited for
    int64_t bytes_read = 0;
    double wait_seconds = 0;  // in which a pass had nothing to compute
    int64_t slots = 0, slots_used = 0, slot_bytes = 0;
};

class ExpertStore {
  public:
    // layers: each with its experts, all of one shape. budget: bytes for packed experts. pairs: the layout that the
    // kernels want. Throws ExpertReadError, and std::invalid_argument where a description makes no sense or the
    // budget does not hold a single expert.
    ExpertStore(const std::vector<std::string>& paths, std::vector<std::vector<StoredExpert>> layers, int64_t budget, int threads,
                bool pairs);
    ~ExpertStore();
    ExpertStore(const ExpertStore&) = delete;
    ExpertStore& operator=(const ExpertStore&) = delete;

    const std::vector<StoredExpert>& layer(int64_t index) const { return layers_.at(static_cast<size_t>(index)); }
    StoreStats stats() const;

    // A pass over one layer, as in ExpertSet; a second thread's pass waits for the first one's end.
    void begin(int64_t layer, const int32_t* ids, int64_t count);
    int64_t next(ExpertSet::Ready* ready);
    void end() noexcept;

  private:
    enum class State : uint8_t { absent, loading, ready, failed };
    struct Entry {
        State state = State::absent;
        bool pinned = false;  // this pass still needs it
        int parts_left = 0;
        int64_t slot = -1;
        double score = 0;  // uses, older ones counting less
        Expert expert;
    };
    struct File {
        std::string path;
        int descriptor = -1;
        int64_t size = 0, modified = 0;
    };
    struct Job {
        int64_t entry;
        int part;
    };
    // What the pass wants and has not been given.
    struct Wanted {
        int64_t position, entry;
        bool scheduled;
    };

    void open_files(const std::vector<std::string>& paths);
    void reserve_slots(int64_t budget);
    void check_layers() const;
    const StoredExpert& stored(int64_t entry) const;
    int64_t find_slot();
    void schedule();
    void work();
    void load(const Job& job, std::vector<uint8_t>& staging);
    void read(const File& file, int64_t offset, int64_t bytes, uint8_t* to) const;
    void finish_part(Entry& entry);

    std::vector<std::vector<StoredExpert>> layers_;
    std::vector<int64_t> layer_first_;  // entry of each layer's first expert
    bool pairs_;
    std::vector<File> files_;
    uint8_t* memory_ = nullptr;
    int64_t memory_bytes_ = 0;

    std::mutex pass_;  // held from begin to end
    mutable std::mutex mutex_;  // of all below
    std::condition_variable work_ready_, arrived_;
    std::vector<Entry> entries_;
    std::vector<int64_t> owners_;  // entry in each slot, or -1
    std::vector<Wanted> wanted_;
    std::vector<int64_t> given_;  // entries that the last `next` gave
    std::deque<Job> jobs_;
    std::string error_;
    double growth_ = 1;
    StoreStats stats_;
    bool stop_ = false;
    std::vector<std::thread> threads_;
};

// One layer of a store.
class StreamedExperts : public ExpertSet {
  public:
    StreamedExperts(std::shared_ptr<ExpertStore> store, int64_t layer);
    void begin(const int32_t* ids, int64_t count) override { store_->begin(layer_, ids, count); }
    int64_t next(Ready* ready) override { return store_->next(ready); }
    void end() noexcept override { store_->end(); }

  private:
    std::shared_ptr<ExpertStore> store_;
    int64_t layer_;
};

}  // namespace deepground
