#include "attention.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "ops.h"

namespace deepground {
namespace {

// New tokens up to which a sequence's keys are shared out over the threads; with more, its rows are.
constexpr int64_t kSharedKeysTokens = 8;
// Second-level cache that a thread's rows, their scores and states may take, and the most rows at once: a multiple of
// every instruction set's tile.
constexpr int64_t kRowsBytes = 600 << 10, kMostRows = 192, kRowStep = 12;
// Mixes that the calling thread merges by itself: waking the others would take longer.
constexpr int64_t kSerialFloats = 1 << 15;
// Rows of absorbed queries and mixes held at once.
constexpr int64_t kSliceRows = 4096;

// Memory of the calling thread, kept for its next call.
class Workspace {
  public:
    float* get(int64_t floats) {
        if (size_ < floats) {
            memory_.reset(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>((floats + 15) / 16 * 64))));
            size_ = memory_ ? floats : 0;
            if (!memory_) throw std::bad_alloc();
        }
        return memory_.get();
    }

  private:
    struct Free {
        void operator()(float* p) const { std::free(p); }
    };
    std::unique_ptr<float[], Free> memory_;
    int64_t size_ = 0;
};

// All rows of one sequence that share keys, and where their outputs go.
struct Group {
    AttentionTask task;
    float* out;
    int64_t out_token, out_head;
};

// What one thread does at a time: some rows of a group, over one split of the keys (into `states`) or over all
// (split < 0, into the group's output).
struct Work {
    const Group* group;
    int64_t row_begin, row_end, split;
    float* states;
};

int64_t splits_of(const AttentionTask& task, int64_t row_end) {
    return (task.context + (row_end - 1) / task.heads + task.key_split) / task.key_split;
}

// Rows of one piece of work; a second state is kept where all splits are dealt with together.
int64_t rows_at_once(const AttentionTask& task, int states) {
    const int64_t bytes = 4 * (task.key_dim + kKeyBlock + states * state_stride(task.value_dim));
    return std::clamp(kRowsBytes / bytes / kRowStep * kRowStep, kRowStep, kMostRows);
}

void finish_rows(const AttentionKernels& kernels, const Group& group, int64_t row_begin, int64_t row_end, const float* states) {
    const int64_t stride = state_stride(group.task.value_dim);
    for (int64_t row = row_begin; row < row_end; ++row, states += stride)
        kernels.finish(states, group.task.value_dim, group.task.values.bf16,
                       group.out + row / group.task.heads * group.out_token + row % group.task.heads * group.out_head);
}

void do_work(const Machine& machine, const Work& work, int thread) {
    const AttentionKernels& kernels = *machine.kernels->attention;
    AttentionTask task = work.group->task;
    task.row_begin = work.row_begin;
    task.row_end = work.row_end;
    const int64_t rows = work.row_end - work.row_begin, scratch_bytes = kernels.scratch_bytes(task);
    const int64_t state_bytes = rows * state_stride(task.value_dim) * 4;
    char* memory = static_cast<char*>(machine.pool->scratch(thread, scratch_bytes + 2 * state_bytes));
    if (work.split >= 0) {
        kernels.attend(task, work.split, work.states, memory);
        return;
    }
    float* states = reinterpret_cast<float*>(memory + scratch_bytes);
    float* others = reinterpret_cast<float*>(memory + scratch_bytes + state_bytes);
    const int64_t splits = splits_of(task, task.row_end);
    for (int64_t split = 0; split < splits; ++split) {
        kernels.attend(task, split, split == 0 ? states : others, memory);
        if (split > 0) kernels.merge(states, others, rows, task.value_dim);
    }
    finish_rows(kernels, *work.group, work.row_begin, work.row_end, states);
}

// States of groups whose keys are shared out: [split][row] behind `states`.
struct Shared {
    const Group* group;
    int64_t splits;
    float* states;
};

void merge_shared(const Machine& machine, const std::vector<Shared>& shared) {
    const AttentionKernels& kernels = *machine.kernels->attention;
    int64_t floats = 0, rows = 0;
    for (const Shared& s : shared) {
        rows += s.group->task.row_end;
        floats += s.group->task.row_end * s.splits * state_stride(s.group->task.value_dim);
    }
    const auto merge = [&](int64_t begin, int64_t end, int) {
        int64_t offset = 0;
        for (const Shared& s : shared) {
            const int64_t count = s.group->task.row_end, stride = state_stride(s.group->task.value_dim);
            const int64_t from = std::max(begin - offset, int64_t{0}), to = std::min(end - offset, count);
            offset += count;
            if (from >= to) continue;
            for (int64_t split = 1; split < s.splits; ++split)
                kernels.merge(s.states + from * stride, s.states + (split * count + from) * stride, to - from, s.group->task.value_dim);
            finish_rows(kernels, *s.group, from, to, s.states + from * stride);
        }
    };
    if (floats <= kSerialFloats) merge(0, rows, 0);
    else machine.pool->split(rows, merge);
}

// groups: those of one sequence side by side, `together` of them.
void attend_groups(const Machine& machine, const std::vector<Group>& groups, size_t together) {
    std::vector<Work> works;
    std::vector<Shared> shared;
    int64_t floats = 0, all_rows = 0;
    for (const Group& group : groups) all_rows += group.task.row_end;
    // A few rows are shared out, too.
    const int64_t share = (all_rows / machine.pool->threads() + kRowStep - 1) / kRowStep * kRowStep;
    for (const Group& group : groups) {
        const AttentionTask& task = group.task;
        const int64_t tokens = task.row_end / task.heads, splits = splits_of(task, task.row_end);
        if (tokens <= kSharedKeysTokens && splits > 1) {
            shared.push_back({&group, splits, nullptr});
            floats += task.row_end * splits * state_stride(task.value_dim);
            continue;
        }
        const int64_t step = std::min(rows_at_once(task, 2), std::max(share, kRowStep));
        for (int64_t end = task.row_end; end > 0; end -= step)  // the last rows see most keys: longest work first
            works.push_back({&group, std::max(end - step, int64_t{0}), end, -1, nullptr});
    }
    thread_local Workspace workspace;
    float* states = workspace.get(floats);
    for (Shared& s : shared) {
        s.states = states;
        states += s.group->task.row_end * s.splits * state_stride(s.group->task.value_dim);
    }
    // Heads whose keys lie side by side in the cache follow each other.
    for (size_t first = 0; first < shared.size(); first += together)
        for (int64_t split = 0; split < shared[first].splits; ++split)
            for (size_t i = first; i < first + together; ++i) {
                const AttentionTask& task = shared[i].group->task;
                const int64_t step = rows_at_once(task, 1), stride = state_stride(task.value_dim);
                for (int64_t begin = 0; begin < task.row_end; begin += step)
                    works.push_back({shared[i].group, begin, std::min(begin + step, task.row_end), split,
                                     shared[i].states + (split * task.row_end + begin) * stride});
            }
    machine.pool->share(static_cast<int64_t>(works.size()), 1, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t i = begin; i < end; ++i) do_work(machine, works[static_cast<size_t>(i)], thread);
    });
    if (!shared.empty()) merge_shared(machine, shared);
}

CacheView columns(const CacheView& cache, int64_t first) {
    const int64_t bytes = first * (cache.bf16 ? 2 : 4);
    return {static_cast<const char*>(cache.data) + bytes, cache.bf16, cache.width};
}

// Consecutive tokens of consecutive spans.
struct Slice {
    int64_t start = 0, tokens = 0;
    std::vector<Span> spans;
};

std::vector<Slice> slices_of(const Span* spans, int64_t count, int64_t most) {
    std::vector<Slice> slices;
    for (int64_t i = 0; i < count; ++i)
        for (int64_t done = 0; done < spans[i].length;) {
            const int64_t start = spans[i].start + done;
            if (slices.empty() || slices.back().tokens == most || slices.back().start + slices.back().tokens != start)
                slices.push_back({start, 0, {}});
            Slice& slice = slices.back();
            const int64_t tokens = std::min(spans[i].length - done, most - slice.tokens);
            slice.spans.push_back({start, tokens, spans[i].context + done, spans[i].slots});
            slice.tokens += tokens;
            done += tokens;
        }
    return slices;
}

// One linear map per head over the pool: head h maps x + h * x_head to out + h * out_head.
void linear_by_head(const Machine& machine, const std::vector<const Matrix*>& heads, const float* x, int64_t ldx, int64_t x_head,
                    int64_t rows, float* out, int64_t ldo, int64_t out_head) {
    const LinearKernels& kernels = machine.kernels->linear;
    const int64_t panels = heads[0]->panels(), k = heads[0]->k, k_padded = heads[0]->k_padded;
    const int64_t scratch_bytes = (kernels.scratch_bytes(*heads[0], rows) + 63) / 64 * 64;
    const int64_t copy_bytes = k_padded == k ? 0 : rows * k_padded * 4;
    machine.pool->split(panels * static_cast<int64_t>(heads.size()), [&](int64_t begin, int64_t end, int thread) {
        char* scratch = static_cast<char*>(machine.pool->scratch(thread, scratch_bytes + copy_bytes));
        for (int64_t at = begin; at < end;) {
            const int64_t head = at / panels, first = at % panels, last = std::min(panels, first + end - at);
            const float* source = x + head * x_head;
            int64_t stride = ldx;
            if (copy_bytes != 0) {  // rows must be followed by zeros
                float* copy = reinterpret_cast<float*>(scratch + scratch_bytes);
                for (int64_t row = 0; row < rows; ++row) {
                    std::copy(source + row * ldx, source + row * ldx + k, copy + row * k_padded);
                    std::fill(copy + row * k_padded + k, copy + (row + 1) * k_padded, 0.0f);
                }
                source = copy;
                stride = k_padded;
            }
            kernels.linear(*heads[static_cast<size_t>(head)], source, stride, rows, out + head * out_head, ldo, first, last, scratch);
            at += last - first;
        }
    });
}

}  // namespace

void gqa_attention(const Machine& machine, const Span* spans, int64_t count, const float* q, int64_t ldq, const CacheView& keys,
                   const CacheView& values, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t v_dim, float scale, float* out,
                   int64_t ldo) {
    const int64_t shared = heads / kv_heads;
    std::vector<Group> groups;
    for (int64_t i = 0; i < count; ++i)
        for (int64_t head = 0; head < kv_heads && spans[i].length > 0; ++head) {
            Group group;
            group.task.keys = columns(keys, head * head_dim);
            group.task.values = columns(values, head * v_dim);
            group.task.key_dim = head_dim;
            group.task.value_dim = v_dim;
            group.task.slots = spans[i].slots;
            group.task.context = spans[i].context;
            group.task.q = q + spans[i].start * ldq + head * shared * head_dim;
            group.task.q_token = ldq;
            group.task.q_head = head_dim;
            group.task.heads = shared;
            group.task.row_end = spans[i].length * shared;
            group.task.scale = scale;
            group.task.key_split = key_split_of(group.task.heads, group.task.key_dim, group.task.value_dim);
            group.out = out + spans[i].start * ldo + head * shared * v_dim;
            group.out_token = ldo;
            group.out_head = v_dim;
            groups.push_back(group);
        }
    attend_groups(machine, groups, static_cast<size_t>(kv_heads));
}

void mla_attention(const Machine& machine, const Span* spans, int64_t count, const MlaWeights& weights, const float* q, int64_t ldq,
                   const CacheView& latents, float scale, float* out, int64_t ldo) {
    const int64_t heads = weights.heads, lora = weights.kv_lora, entry = lora + weights.rope, width = weights.nope + weights.rope;
    const int64_t most = std::max<int64_t>(kSliceRows / heads, kSharedKeysTokens);
    thread_local Workspace workspace;
    for (const Slice& slice : slices_of(spans, count, most)) {
        const int64_t rows = slice.tokens * heads;
        float* queries = workspace.get(rows * (entry + lora));
        float* mixes = queries + rows * entry;
        const float* source = q + slice.start * ldq;
        linear_by_head(machine, weights.key_up, source, ldq, width, slice.tokens, queries, heads * entry, entry);
        for (int64_t row = 0; row < rows; ++row) {
            const float* rope = source + row / heads * ldq + row % heads * width + weights.nope;
            std::copy(rope, rope + weights.rope, queries + row * entry + lora);
        }
        std::vector<Group> groups;
        for (const Span& span : slice.spans) {
            const int64_t first = (span.start - slice.start) * heads;
            Group group;
            group.task.keys = group.task.values = latents;
            group.task.key_dim = entry;
            group.task.value_dim = lora;
            group.task.slots = span.slots;
            group.task.context = span.context;
            group.task.q = queries + first * entry;
            group.task.q_token = heads * entry;
            group.task.q_head = entry;
            group.task.heads = heads;
            group.task.row_end = span.length * heads;
            group.task.scale = scale;
            group.task.key_split = key_split_of(group.task.heads, group.task.key_dim, group.task.value_dim);
            group.out = mixes + first * lora;
            group.out_token = heads * lora;
            group.out_head = lora;
            groups.push_back(group);
        }
        attend_groups(machine, groups, 1);
        linear_by_head(machine, weights.value_up, mixes, heads * lora, lora, slice.tokens, out + slice.start * ldo, ldo, weights.v_dim);
    }
}

}  // namespace deepground
