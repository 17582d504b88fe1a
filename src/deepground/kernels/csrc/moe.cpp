// Two parallel steps, whatever the number of tokens: gate, up and SiLU of all chosen experts, cut into groups of
// panels; then the down-projections, cut by output columns, where each thread adds the experts up in order.
#include "moe.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace deepground {
namespace {

// Rows that one thread gathers and keeps in its second-level cache; what the linear kernels take at a time.
constexpr int64_t kRows = 192;
// Panels of one task at most: enough that the weights are read in long runs.
constexpr int64_t kGroup = 8;
// Tasks per thread that even out cores of uneven speed and experts of uneven load.
constexpr int64_t kTasksPerThread = 8;

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Floats from row to row of our own buffers: zeros behind k as packed matrices want them, and never a multiple of
// 4096 bytes, at which the rows of a tile would share cache sets.
int64_t row_stride(int64_t k) { return round_up(k, 32) + 16; }

// Memory that the next call uses again: fresh pages would cost more than some of the work.
template <typename T>
T* reserve(std::vector<T>& memory, int64_t count) {
    if (memory.size() < static_cast<size_t>(count)) {
        memory.clear();
        memory.resize(static_cast<size_t>(count));
    }
    return memory.data();
}

struct Workspace {
    std::vector<float> logits, weights, hidden, shared_hidden, outputs;
    std::vector<int32_t> tokens, chosen;
    std::vector<int64_t> first;
};
thread_local Workspace workspace;

// The rows of one expert in this pass.
struct Block {
    const Expert* expert;
    const int32_t* tokens;  // (rows), ascending; null: all rows of x
    const float* weights;   // (rows); null: 1
    int64_t rows;
    float* hidden;   // (rows, stride): what lies between the two steps
    float* outputs;  // (rows, D): results, where they are added up later; else null
};

struct Task {
    const Block* block;
    int64_t first, last;  // panels
};

struct Input {
    const float* x;
    int64_t ldx, width;  // width: D
};

struct Rows {
    const float* x;
    int64_t ldx;
};

// One thread's rows of x for an expert; gathered once for all its tasks.
class Gathered {
  public:
    Gathered(const Input& input, float* memory) : input_(input), memory_(memory) {}

    Rows rows(const Block& block, int64_t first, int64_t count) {
        const int32_t* tokens = block.tokens == nullptr ? nullptr : block.tokens + first;
        const int64_t start = tokens == nullptr ? first : tokens[0];
        const bool neighbours = tokens == nullptr || tokens[count - 1] - tokens[0] == count - 1;
        const bool padded = block.expert->gate.k_padded != input_.width || block.expert->up.k_padded != input_.width;
        if (neighbours && !padded) return {input_.x + start * input_.ldx, input_.ldx};
        const int64_t stride = row_stride(input_.width);
        if (block_ != &block || first_ != first) {
            for (int64_t row = 0; row < count; ++row) {
                const float* from = input_.x + (tokens == nullptr ? first + row : tokens[row]) * input_.ldx;
                float* to = memory_ + row * stride;
                std::copy(from, from + input_.width, to);
                std::fill(to + input_.width, to + stride, 0.0f);
            }
            block_ = &block;
            first_ = first;
        }
        return {memory_, stride};
    }

  private:
    Input input_;
    float* memory_;
    const Block* block_ = nullptr;
    int64_t first_ = 0;
};

int64_t most_rows(const std::vector<Block>& blocks) {
    int64_t most = 0;
    for (const Block& block : blocks) most = std::max(most, block.rows);
    return std::min(most, kRows);
}

int64_t linear_scratch(const LinearKernels& kernels, const std::vector<Block>& blocks, int64_t rows) {
    int64_t most = 0;
    for (const Block& block : blocks)
        for (const Matrix* w : {&block.expert->gate, &block.expert->up, &block.expert->down})
            most = std::max(most, kernels.scratch_bytes(*w, rows));
    return round_up(most, 64);
}

int64_t group_size(int64_t panels, int threads) { return std::clamp(panels / (threads * kTasksPerThread), int64_t{1}, kGroup); }

// hidden = silu(gate x) * (up x) over the task's panels.
void gate_up_task(const Kernels& kernels, const Task& task, Gathered& gathered, float* half, void* scratch) {
    const Block& block = *task.block;
    const Expert& expert = *block.expert;
    const int64_t stride = row_stride(expert.gate.n), column = task.first * kPanel, ldh = kGroup * kPanel;
    const int64_t width = std::min(task.last * kPanel, expert.gate.n) - column;
    for (int64_t first = 0; first < block.rows; first += kRows) {
        const int64_t rows = std::min(kRows, block.rows - first);
        const Rows in = gathered.rows(block, first, rows);
        float* hidden = block.hidden + first * stride;
        kernels.linear.linear(expert.gate, in.x, in.ldx, rows, hidden, stride, task.first, task.last, scratch);
        // The kernel counts columns from the matrix's first output; `half` holds this group only.
        kernels.linear.linear(expert.up, in.x, in.ldx, rows, half - column, ldh, task.first, task.last, scratch);
        for (int64_t row = 0; row < rows; ++row) {
            float* gated = hidden + row * stride + column;
            kernels.elementwise.silu_mul(gated, half + row * ldh, width, gated);
            if (task.last == expert.gate.panels()) std::fill(gated + width, hidden + (row + 1) * stride, 0.0f);
        }
    }
}

void gate_up_all(const Machine& machine, const std::vector<Block>& blocks, const Input& input) {
    const Kernels& kernels = *machine.kernels;
    int64_t panels = 0;
    for (const Block& block : blocks) panels += block.expert->gate.panels();
    const int64_t group = group_size(panels, machine.pool->threads());
    std::vector<Task> tasks;
    for (const Block& block : blocks)
        for (int64_t first = 0; first < block.expert->gate.panels(); first += group)
            tasks.push_back({&block, first, std::min(first + group, block.expert->gate.panels())});
    const int64_t rows = most_rows(blocks), scratch_bytes = linear_scratch(kernels.linear, blocks, rows);
    const int64_t half_bytes = rows * kGroup * kPanel * 4, gathered_bytes = rows * row_stride(input.width) * 4;
    const int64_t count = static_cast<int64_t>(tasks.size());
    std::atomic<int64_t> next{0};
    machine.pool->run([&](int thread) {
        char* scratch = static_cast<char*>(machine.pool->scratch(thread, scratch_bytes + half_bytes + gathered_bytes));
        float* half = reinterpret_cast<float*>(scratch + scratch_bytes);
        Gathered gathered(input, half + rows * kGroup * kPanel);
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;)
            gate_up_task(kernels, tasks[static_cast<size_t>(i)], gathered, half, scratch);
    });
}

struct Output {
    float* out;
    int64_t ldo, m;
    bool add;
};

// Output columns of panels begin .. end: of blocks with `outputs` to there, of the others added to `output`.
void down_columns(const Kernels& kernels, const std::vector<Block>& blocks, const Output& output, int64_t begin, int64_t end,
                  float* tile, void* scratch) {
    const Matrix& shape = blocks[0].expert->down;
    const int64_t column = begin * kPanel, width = std::min(end * kPanel, shape.n) - column, ldt = kGroup * kPanel;
    if (!output.add)
        for (int64_t token = 0; token < output.m; ++token)
            std::fill_n(output.out + token * output.ldo + column, width, 0.0f);
    for (const Block& block : blocks) {
        const Matrix& down = block.expert->down;
        const int64_t stride = row_stride(down.k);
        for (int64_t first = 0; first < block.rows; first += kRows) {
            const int64_t rows = std::min(kRows, block.rows - first);
            const float* hidden = block.hidden + first * stride;
            if (block.outputs != nullptr) {
                kernels.linear.linear(down, hidden, stride, rows, block.outputs + first * shape.n, shape.n, begin, end, scratch);
                continue;
            }
            kernels.linear.linear(down, hidden, stride, rows, tile - column, ldt, begin, end, scratch);
            for (int64_t row = first; row < first + rows; ++row) {
                const int64_t token = block.tokens == nullptr ? row : block.tokens[row];
                kernels.elementwise.add_scaled(tile + (row - first) * ldt, block.weights == nullptr ? 1.0f : block.weights[row],
                                               width, output.out + token * output.ldo + column);
            }
        }
    }
}

void down_all(const Machine& machine, const std::vector<Block>& blocks, const Output& output) {
    if (blocks.empty()) return;
    const Kernels& kernels = *machine.kernels;
    const int64_t panels = blocks[0].expert->down.panels(), rows = most_rows(blocks);
    const int64_t scratch_bytes = linear_scratch(kernels.linear, blocks, rows), tile_bytes = rows * kGroup * kPanel * 4;
    machine.pool->share(panels, group_size(panels, machine.pool->threads()), [&](int64_t begin, int64_t end, int thread) {
        char* scratch = static_cast<char*>(machine.pool->scratch(thread, scratch_bytes + tile_bytes));
        down_columns(kernels, blocks, output, begin, end, reinterpret_cast<float*>(scratch + scratch_bytes), scratch);
    });
}

// out += what the blocks have in `outputs`, in their order.
void add_outputs(const Machine& machine, const std::vector<Block>& blocks, const Output& output, int64_t width) {
    machine.pool->split((width + kPanel - 1) / kPanel, [&](int64_t begin, int64_t end, int) {
        const int64_t column = begin * kPanel, count = std::min(end * kPanel, width) - column;
        if (!output.add)
            for (int64_t token = 0; token < output.m; ++token)
                std::fill_n(output.out + token * output.ldo + column, count, 0.0f);
        for (const Block& block : blocks)
            for (int64_t row = 0; row < block.rows; ++row)
                machine.kernels->elementwise.add_scaled(block.outputs + row * width + column, block.weights[row], count,
                                                        output.out + block.tokens[row] * output.ldo + column);
    });
}

// Ends the pass of an expert set whatever happens.
class Pass {
  public:
    Pass(ExpertSet& experts, const int32_t* ids, int64_t count) : experts_(experts) { experts_.begin(ids, count); }
    ~Pass() { experts_.end(); }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;

  private:
    ExpertSet& experts_;
};

// Sorts tokens by expert: one block for each expert that was chosen, ascending; fills workspace.chosen.
std::vector<Block> sort_by_expert(const ExpertSet& experts, const int32_t* ids, const float* weights, int64_t m, int64_t top_k) {
    Workspace& work = workspace;
    const int64_t pairs = m * top_k, stride = row_stride(experts.width());
    int64_t* first = reserve(work.first, experts.size() + 1);
    std::fill_n(first, experts.size() + 1, 0);
    for (int64_t i = 0; i < pairs; ++i) ++first[ids[i] + 1];
    int32_t* tokens = reserve(work.tokens, pairs);
    float* sorted = reserve(work.weights, pairs);
    float* hidden = reserve(work.hidden, pairs * stride);
    int32_t* chosen = reserve(work.chosen, experts.size());
    std::vector<Block> blocks;
    for (int64_t expert = 0; expert < experts.size(); ++expert) {
        const int64_t rows = first[expert + 1], begin = first[expert];
        first[expert + 1] += begin;
        if (rows == 0) continue;
        chosen[blocks.size()] = static_cast<int32_t>(expert);
        blocks.push_back({nullptr, tokens + begin, sorted + begin, rows, hidden + begin * stride, nullptr});
    }
    for (int64_t i = 0; i < pairs; ++i) {
        const int64_t place = first[ids[i]]++;
        tokens[place] = static_cast<int32_t>(i / top_k);
        sorted[place] = weights[i];
    }
    return blocks;
}

float group_score(const float* choice, int64_t count, bool top2_sum) {
    float best = choice[0], second = -std::numeric_limits<float>::infinity();
    for (int64_t i = 1; i < count; ++i) {
        if (choice[i] > best) {
            second = best;
            best = choice[i];
        } else if (choice[i] > second) {
            second = choice[i];
        }
    }
    return top2_sum ? best + second : best;
}

// Marks the `wanted` largest of `count` values; of equal ones the first.
void mark_largest(const float* values, int64_t count, int64_t wanted, uint8_t* marked) {
    std::fill_n(marked, count, uint8_t{0});
    for (int64_t picked = 0; picked < wanted; ++picked) {
        int64_t best = -1;
        for (int64_t i = 0; i < count; ++i)
            if (!marked[i] && (best < 0 || values[i] > values[best])) best = i;
        marked[best] = 1;
    }
}

// Logits to scores in place.
void score(float* logits, int64_t count, bool sigmoid) {
    if (sigmoid) {
        for (int64_t i = 0; i < count; ++i) logits[i] = 1.0f / (1.0f + std::exp(-logits[i]));
        return;
    }
    const float most = *std::max_element(logits, logits + count);
    float total = 0.0f;
    for (int64_t i = 0; i < count; ++i) total += logits[i] = std::exp(logits[i] - most);
    for (int64_t i = 0; i < count; ++i) logits[i] /= total;
}

// One token. choice (E), groups (G), marked (E): scratch.
void choose(const Router& router, float* scores, float* choice, float* groups, uint8_t* marked, int32_t* ids, float* weights) {
    const int64_t count = router.experts(), per_group = count / router.groups;
    score(scores, count, router.sigmoid);
    for (int64_t i = 0; i < count; ++i) choice[i] = router.bias.empty() ? scores[i] : scores[i] + router.bias[static_cast<size_t>(i)];
    if (router.groups > 1) {
        for (int64_t g = 0; g < router.groups; ++g) groups[g] = group_score(choice + g * per_group, per_group, router.top2_sum);
        mark_largest(groups, router.groups, router.topk_groups, marked);
        for (int64_t g = 0; g < router.groups; ++g)
            if (!marked[g]) std::fill_n(choice + g * per_group, per_group, -std::numeric_limits<float>::infinity());
    }
    mark_largest(choice, count, router.top_k, marked);
    float total = 0.0f;
    for (int64_t i = 0, k = 0; i < count; ++i) {
        if (!marked[i]) continue;
        ids[k] = static_cast<int32_t>(i);
        total += weights[k++] = scores[i];
    }
    for (int64_t k = 0; k < router.top_k; ++k) {
        if (router.normalize) weights[k] /= total + 1e-20f;
        weights[k] *= router.scaling;
    }
}

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

}  // namespace

ResidentExperts::ResidentExperts(std::vector<Expert> experts) : experts_(std::move(experts)) {
    require(!experts_.empty(), "a layer of experts needs at least one");
    size_ = static_cast<int64_t>(experts_.size());
    hidden_ = experts_[0].gate.k;
    width_ = experts_[0].gate.n;
    for (const Expert& e : experts_)
        require(e.gate.k == hidden_ && e.up.k == hidden_ && e.down.n == hidden_ && e.gate.n == width_ && e.up.n == width_ &&
                    e.down.k == width_,
                "the experts of a layer must have the same shape: gate and up (F, D), down (D, F)");
}

void ResidentExperts::begin(const int32_t* ids, int64_t count) {
    ids_ = ids;
    left_ = count;
}

int64_t ResidentExperts::next(Ready* ready) {
    const int64_t count = left_;
    for (int64_t i = 0; i < count; ++i) ready[i] = {i, &experts_[static_cast<size_t>(ids_[i])]};
    left_ = 0;
    return count;
}

void Router::check() const {
    require(top_k >= 1 && top_k <= experts(), "a router chooses between one and all of its experts");
    require(groups >= 1 && experts() % groups == 0, "the experts must divide into the groups");
    require(topk_groups >= 1 && topk_groups <= groups, "a router chooses between one and all of its groups");
    require(!top2_sum || groups == 1 || experts() / groups >= 2, "a group's best two experts need two in a group");
    require(bias.empty() || static_cast<int64_t>(bias.size()) == experts(), "the router's bias must have a value per expert");
}

void route(const Machine& machine, const Router& router, const float* x, int64_t ldx, int64_t m, int32_t* ids, float* weights) {
    const int64_t count = router.experts();
    float* logits = reserve(workspace.logits, m * count);
    const LinearTask task{&router.gate, logits, count};
    linear(machine, &task, 1, x, ldx, m);
    machine.pool->split(m, [&](int64_t begin, int64_t end, int thread) {
        float* choice = static_cast<float*>(machine.pool->scratch(thread, count * 9));
        float* groups = choice + count;
        uint8_t* marked = reinterpret_cast<uint8_t*>(groups + count);
        for (int64_t token = begin; token < end; ++token)
            choose(router, logits + token * count, choice, groups, marked, ids + token * router.top_k, weights + token * router.top_k);
    });
}

void moe_experts(const Machine& machine, ExpertSet& experts, const Expert* shared, const float* x, int64_t ldx, int64_t m,
                 const int32_t* ids, const float* weights, int64_t top_k, float* out, int64_t ldo, bool add) {
    if (m == 0) return;
    Workspace& work = workspace;
    const Input input{x, ldx, experts.hidden()};
    std::vector<Block> all = sort_by_expert(experts, ids, weights, m, top_k);
    std::vector<Block> shared_block;
    if (shared != nullptr)
        shared_block.push_back({shared, nullptr, nullptr, m, reserve(work.shared_hidden, m * row_stride(shared->gate.n)), nullptr});
    const int64_t count = static_cast<int64_t>(all.size());
    std::vector<ExpertSet::Ready> ready(all.size());
    const Pass pass(experts, work.chosen.data(), count);
    bool first_wave = true;
    while (const int64_t found = experts.next(ready.data())) {
        std::vector<Block> wave;
        // The shared expert's rows are the most: its tasks go first, and while experts are on their way it waits for none.
        if (first_wave) wave = shared_block;
        const bool complete = first_wave && found == count;
        for (int64_t i = 0; i < found; ++i) {
            Block& block = all[static_cast<size_t>(ready[static_cast<size_t>(i)].position)];
            block.expert = ready[static_cast<size_t>(i)].expert;
            if (!complete)
                block.outputs = reserve(work.outputs, m * top_k * input.width) + (block.weights - work.weights.data()) * input.width;
            wave.push_back(block);
        }
        gate_up_all(machine, wave, input);
        if (first_wave) wave.erase(wave.begin(), wave.begin() + static_cast<int64_t>(shared_block.size()));
        if (complete) {
            wave.insert(wave.end(), shared_block.begin(), shared_block.end());
            down_all(machine, wave, {out, ldo, m, add});
            return;
        }
        down_all(machine, wave, {out, ldo, 0, true});
        first_wave = false;
    }
    add_outputs(machine, all, {out, ldo, m, add}, input.width);
    down_all(machine, shared_block, {out, ldo, m, true});
}

}  // namespace deepground
