#include "expert_store.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "pack.h"

namespace deepground {
namespace {

constexpr int64_t kPage = 4096;
// Uses lose half their weight within so many passes over all layers.
constexpr double kHalfLife = 32;

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

int64_t modified_at(const struct stat& state) {
#if defined(__APPLE__)
    return state.st_mtimespec.tv_sec * 1000000000 + state.st_mtimespec.tv_nsec;
#else
    return state.st_mtim.tv_sec * 1000000000 + state.st_mtim.tv_nsec;
#endif
}

void forget_pages(int descriptor, int64_t offset, int64_t bytes) {
#if defined(POSIX_FADV_DONTNEED)
    const int64_t begin = offset / kPage * kPage;
    posix_fadvise(descriptor, begin, round_up(offset + bytes, kPage) - begin, POSIX_FADV_DONTNEED);
#else
    (void)descriptor, (void)offset, (void)bytes;
#endif
}

float scale_value(const uint8_t* scales, int64_t index, ScaleType type) {
    uint32_t bits = 0;
    if (type == ScaleType::f32) std::memcpy(&bits, scales + 4 * index, 4);
    if (type == ScaleType::bf16) {
        uint16_t word = 0;
        std::memcpy(&word, scales + 2 * index, 2);
        bits = static_cast<uint32_t>(word) << 16;
    }
    if (type == ScaleType::e8m0) {
        const uint32_t exponent = scales[index];
        bits = exponent == 255 ? 0x7fc00000u : exponent == 0 ? 0x400000u : exponent << 23;
    }
    float value = 0;
    std::memcpy(&value, &bits, 4);
    return value;
}

Expert expert_over(uint8_t* memory, const StoredExpert& stored, bool pairs) {
    Matrix parts[3];
    for (int part = 0; part < 3; ++part) {
        const StoredMatrix& m = stored.parts[part];
        parts[part] = matrix_over(memory, m.format, pairs, m.n, m.k);
        if (memory != nullptr) memory += packed_bytes(m.format, pairs, m.n, m.k);
    }
    return {parts[0], parts[1], parts[2]};
}

int64_t expert_bytes(const StoredExpert& stored, bool pairs) {
    int64_t bytes = 0;
    for (const StoredMatrix& m : stored.parts) bytes += packed_bytes(m.format, pairs, m.n, m.k);
    return round_up(bytes, kPage);
}

void require(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument(what);
}

void check(const StoredMatrix& m, size_t files) {
    const bool fp8 = m.format == Format::fp8, mxfp4 = m.format == Format::mxfp4;
    require(m.n > 0 && m.k > 0 && m.codes >= 0 && m.scales >= 0, "a stored matrix has a size or place that makes no sense");
    require(m.file >= 0 && static_cast<size_t>(m.file) < files && m.scales_file >= 0 && static_cast<size_t>(m.scales_file) < files,
            "a stored matrix names a file that is not there");
    require(!fp8 || (m.block_n > 0 && m.block_n % kPanel == 0), "FP8 blocks must have a multiple of 32 rows");
    require((m.scale_type == ScaleType::none) == !(fp8 || mxfp4) && (!mxfp4 || m.scale_type == ScaleType::e8m0),
            "FP8 needs f32, bf16 or e8m0 scales, MXFP4 e8m0 scales, and other formats none");
}

// Packs one matrix that has been read; false where a value is NaN or a scale is not finite or negative.
bool pack(const Matrix& w, const StoredMatrix& m, const uint8_t* codes, const uint8_t* scales) {
    if (m.format == Format::f32) {
        pack_f32(w, reinterpret_cast<const float*>(codes), m.k, 0, w.panels());
        return true;
    }
    if (m.format == Format::bf16) {
        pack_bf16(w, reinterpret_cast<const uint16_t*>(codes), m.k, 0, w.panels());
        return true;
    }
    if (m.format == Format::mxfp4) {
        if (std::find(scales, scales + m.scale_count(), uint8_t{255}) != scales + m.scale_count()) return false;
        pack_mxfp4(w, codes, (m.k + 1) / 2, scales, w.blocks(), 0, w.panels());
        return true;
    }
    std::vector<float> values(static_cast<size_t>(m.scale_count()));
    for (size_t i = 0; i < values.size(); ++i) {
        values[i] = scale_value(scales, static_cast<int64_t>(i), m.scale_type);
        if (!std::isfinite(values[i]) || values[i] < 0) return false;
    }
    return pack_fp8(w, codes, m.k, values.data(), w.blocks(), m.block_n, 0, w.panels());
}

}  // namespace

int64_t StoredMatrix::code_bytes() const {
    switch (format) {
        case Format::f32: return n * k * 4;
        case Format::bf16: return n * k * 2;
        case Format::fp8: return n * k;
        case Format::mxfp4: return n * ((k + 1) / 2);
    }
    return 0;
}

int64_t StoredMatrix::scale_count() const {
    if (format == Format::fp8) return (n + block_n - 1) / block_n * ((k + kFp8Block - 1) / kFp8Block);
    if (format == Format::mxfp4) return n * ((k + kMxBlock - 1) / kMxBlock);
    return 0;
}

int64_t StoredMatrix::scale_bytes() const {
    return scale_count() * (scale_type == ScaleType::f32 ? 4 : scale_type == ScaleType::bf16 ? 2 : 1);
}

ExpertStore::ExpertStore(const std::vector<std::string>& paths, std::vector<std::vector<StoredExpert>> layers, int64_t budget,
                         int threads, bool pairs)
    : layers_(std::move(layers)), pairs_(pairs) {
    require(threads >= 1, "a store of experts needs a thread that reads");
    int64_t count = 0;
    for (const auto& layer : layers_) {
        layer_first_.push_back(count);
        count += static_cast<int64_t>(layer.size());
    }
    layer_first_.push_back(count);
    entries_.resize(static_cast<size_t>(count));
    for (const auto& layer : layers_)
        for (const StoredExpert& expert : layer)
            for (const StoredMatrix& m : expert.parts) check(m, paths.size());
    try {
        open_files(paths);
        check_layers();
        reserve_slots(budget);
    } catch (...) {
        for (const File& file : files_)
            if (file.descriptor >= 0) close(file.descriptor);
        throw;
    }
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

ExpertStore::~ExpertStore() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    work_ready_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    for (const File& file : files_) close(file.descriptor);
    munmap(memory_, static_cast<size_t>(memory_bytes_));
}

void ExpertStore::open_files(const std::vector<std::string>& paths) {
    for (const std::string& path : paths) {
        File file{path, open(path.c_str(), O_RDONLY | O_CLOEXEC), 0, 0};
        files_.push_back(file);
        struct stat state {};
        if (file.descriptor < 0 || fstat(file.descriptor, &state) != 0)
            throw ExpertReadError(path + " cannot be opened (" + std::strerror(errno) + "); check that it is there and may be read");
        files_.back().size = state.st_size;
        files_.back().modified = modified_at(state);
#if defined(POSIX_FADV_RANDOM)
        posix_fadvise(file.descriptor, 0, 0, POSIX_FADV_RANDOM);  // whole tensors are asked for; more need not be read ahead
#endif
    }
}

void ExpertStore::check_layers() const {
    for (const auto& layer : layers_)
        for (const StoredExpert& expert : layer)
            for (const StoredMatrix& m : expert.parts) {
                const File& codes = files_[static_cast<size_t>(m.file)];
                const File& scales = files_[static_cast<size_t>(m.scales_file)];
                const bool short_codes = m.codes + m.code_bytes() > codes.size;
                if (short_codes || m.scales + m.scale_bytes() > scales.size)
                    throw ExpertReadError((short_codes ? codes : scales).path + " is truncated: a tensor ends behind its last byte; download it again");
            }
}

void ExpertStore::reserve_slots(int64_t budget) {
    for (const auto& layer : layers_)
        for (const StoredExpert& expert : layer) stats_.slot_bytes = std::max(stats_.slot_bytes, expert_bytes(expert, pairs_));
    require(!entries_.empty(), "a store of experts needs at least one");
    stats_.slots = std::min(budget / stats_.slot_bytes, static_cast<int64_t>(entries_.size()));
    require(stats_.slots >= 1, "the memory for experts holds " + std::to_string(budget) + " bytes, less than the " +
                                   std::to_string(stats_.slot_bytes) + " of one expert");
    owners_.assign(static_cast<size_t>(stats_.slots), -1);
    memory_bytes_ = stats_.slots * stats_.slot_bytes;
    void* memory = mmap(nullptr, static_cast<size_t>(memory_bytes_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<uint8_t*>(memory);
#if defined(MADV_HUGEPAGE)
    madvise(memory, static_cast<size_t>(memory_bytes_), MADV_HUGEPAGE);
#endif
}

StoreStats ExpertStore::stats() const {
    const std::lock_guard lock(mutex_);
    StoreStats stats = stats_;
    stats.slots_used = std::count_if(owners_.begin(), owners_.end(), [](int64_t owner) { return owner >= 0; });
    return stats;
}

void ExpertStore::begin(int64_t layer, const int32_t* ids, int64_t count) {
    pass_.lock();
    const std::lock_guard lock(mutex_);
    growth_ *= std::exp2(1.0 / (kHalfLife * static_cast<double>(layers_.size())));
    if (growth_ > 1e100) {
        for (Entry& entry : entries_) entry.score /= growth_;
        growth_ = 1;
    }
    for (int64_t i = 0; i < count; ++i) {
        const int64_t index = layer_first_[static_cast<size_t>(layer)] + ids[i];
        Entry& entry = entries_[static_cast<size_t>(index)];
        ++(entry.state == State::ready ? stats_.hits : stats_.misses);
        entry.score += growth_;
        entry.pinned = true;
        wanted_.push_back({i, index, entry.state == State::ready});
    }
    schedule();
}

// Of the slots whose experts this pass does not need, a free one or that of the least used.
int64_t ExpertStore::find_slot() {
    int64_t best = -1;
    for (int64_t slot = 0; slot < stats_.slots; ++slot) {
        const int64_t owner = owners_[static_cast<size_t>(slot)];
        if (owner < 0) return slot;
        const Entry& entry = entries_[static_cast<size_t>(owner)];
        if (entry.pinned || entry.state != State::ready) continue;
        if (best < 0 || entry.score < entries_[static_cast<size_t>(owners_[static_cast<size_t>(best)])].score) best = slot;
    }
    return best;
}

// Gives slots to what the pass wants and queues its reads, as far as there are slots.
void ExpertStore::schedule() {
    bool queued = false;
    for (Wanted& wanted : wanted_) {
        if (wanted.scheduled) continue;
        const int64_t slot = find_slot();
        if (slot < 0) break;
        int64_t& owner = owners_[static_cast<size_t>(slot)];
        if (owner >= 0) {
            entries_[static_cast<size_t>(owner)].state = State::absent;
            entries_[static_cast<size_t>(owner)].slot = -1;
        }
        owner = wanted.entry;
        Entry& entry = entries_[static_cast<size_t>(wanted.entry)];
        entry.state = State::loading;
        entry.slot = slot;
        entry.parts_left = 3;
        entry.expert = expert_over(memory_ + slot * stats_.slot_bytes, stored(wanted.entry), pairs_);
        wanted.scheduled = queued = true;
        for (int part = 0; part < 3; ++part) jobs_.push_back({wanted.entry, part});
    }
    if (queued) work_ready_.notify_all();
}

int64_t ExpertStore::next(ExpertSet::Ready* ready) {
    std::unique_lock lock(mutex_);
    for (int64_t index : given_) entries_[static_cast<size_t>(index)].pinned = false;
    given_.clear();
    schedule();
    while (!wanted_.empty()) {
        int64_t count = 0;
        for (auto it = wanted_.begin(); it != wanted_.end();) {
            const Entry& entry = entries_[static_cast<size_t>(it->entry)];
            if (entry.state == State::failed) throw ExpertReadError(error_);
            if (entry.state != State::ready) {
                ++it;
                continue;
            }
            ready[count++] = {it->position, &entry.expert};
            given_.push_back(it->entry);
            it = wanted_.erase(it);
        }
        if (count > 0) return count;
        const auto start = std::chrono::steady_clock::now();
        arrived_.wait(lock);
        stats_.wait_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    return 0;
}

void ExpertStore::end() noexcept {
    {
        std::unique_lock lock(mutex_);
        for (int64_t index : given_) entries_[static_cast<size_t>(index)].pinned = false;
        given_.clear();
        // Only a pass that was given up leaves anything. Nothing of it lasts: neither reads nor failures.
        for (const Job& job : jobs_) {
            entries_[static_cast<size_t>(job.entry)].state = State::failed;
            finish_part(entries_[static_cast<size_t>(job.entry)]);
        }
        jobs_.clear();
        for (const Wanted& wanted : wanted_) {
            Entry& entry = entries_[static_cast<size_t>(wanted.entry)];
            arrived_.wait(lock, [&] { return entry.parts_left == 0; });
            if (entry.state == State::failed) entry.state = State::absent;
            entry.pinned = false;
        }
        wanted_.clear();
    }
    pass_.unlock();
}

const StoredExpert& ExpertStore::stored(int64_t entry) const {
    const auto layer = std::upper_bound(layer_first_.begin(), layer_first_.end(), entry) - layer_first_.begin() - 1;
    return layers_[static_cast<size_t>(layer)][static_cast<size_t>(entry - layer_first_[static_cast<size_t>(layer)])];
}

// One of an entry's three reads is over, well or badly.
void ExpertStore::finish_part(Entry& entry) {
    if (--entry.parts_left > 0) return;
    if (entry.state == State::loading) entry.state = State::ready;
    else owners_[static_cast<size_t>(entry.slot)] = -1;
}

void ExpertStore::work() {
    std::vector<uint8_t> staging;
    std::unique_lock lock(mutex_);
    while (true) {
        work_ready_.wait(lock, [&] { return stop_ || !jobs_.empty(); });
        if (stop_) return;
        const Job job = jobs_.front();
        jobs_.pop_front();
        std::string error;
        if (entries_[static_cast<size_t>(job.entry)].state == State::loading) {
            lock.unlock();
            try {
                load(job, staging);
            } catch (const std::exception& problem) {
                error = problem.what();
            }
            lock.lock();
        }
        Entry& entry = entries_[static_cast<size_t>(job.entry)];
        if (!error.empty()) {
            entry.state = State::failed;
            error_ = error;
        }
        finish_part(entry);
        arrived_.notify_all();
    }
}

void ExpertStore::read(const File& file, int64_t offset, int64_t bytes, uint8_t* to) const {
    for (int64_t done = 0; done < bytes;) {
        const ssize_t got = pread(file.descriptor, to + done, static_cast<size_t>(bytes - done), offset + done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw ExpertReadError(file.path + " cannot be read (" + std::strerror(errno) + "); check the disk");
        if (got == 0) throw ExpertReadError(file.path + " was truncated while it was in use; restore it and load the model again");
        done += got;
    }
    forget_pages(file.descriptor, offset, bytes);
    struct stat state {};
    if (fstat(file.descriptor, &state) != 0 || state.st_size != file.size || modified_at(state) != file.modified)
        throw ExpertReadError(file.path + " was changed while it was in use; restore it and load the model again");
}

void ExpertStore::load(const Job& job, std::vector<uint8_t>& staging) {
    const StoredMatrix& m = stored(job.entry).parts[job.part];
    const int64_t code_bytes = round_up(m.code_bytes(), 64);
    if (staging.size() < static_cast<size_t>(code_bytes + m.scale_bytes())) staging.resize(static_cast<size_t>(code_bytes + m.scale_bytes()));
    uint8_t* scales = staging.data() + code_bytes;
    read(files_[static_cast<size_t>(m.file)], m.codes, m.code_bytes(), staging.data());
    if (m.scale_type != ScaleType::none) read(files_[static_cast<size_t>(m.scales_file)], m.scales, m.scale_bytes(), scales);
    const Expert& expert = entries_[static_cast<size_t>(job.entry)].expert;
    const Matrix& w = job.part == 0 ? expert.gate : job.part == 1 ? expert.up : expert.down;
    if (!pack(w, m, staging.data(), scales))
        throw ExpertReadError(files_[static_cast<size_t>(m.file)].path + " holds NaN, or a scale that is negative or not finite; download it again");
    const std::lock_guard lock(mutex_);
    stats_.bytes_read += m.code_bytes() + m.scale_bytes();
}

StreamedExperts::StreamedExperts(std::shared_ptr<ExpertStore> store, int64_t layer) : store_(std::move(store)), layer_(layer) {
    const std::vector<StoredExpert>& experts = store_->layer(layer);
    require(!experts.empty(), "a layer of experts needs at least one");
    size_ = static_cast<int64_t>(experts.size());
    hidden_ = experts[0].parts[0].k;
    width_ = experts[0].parts[0].n;
    for (const StoredExpert& e : experts)
        require(e.parts[0].k == hidden_ && e.parts[1].k == hidden_ && e.parts[2].n == hidden_ && e.parts[0].n == width_ &&
                    e.parts[1].n == width_ && e.parts[2].k == width_,
                "the experts of a layer must have the same shape: gate and up (F, D), down (D, F)");
}

}  // namespace deepground
