#include "ops.h"

#include <algorithm>
#include <cstring>
#include <memory>

namespace deepground {
namespace {

// Rows with zeros behind k, where a packed matrix is longer than the rows.
class PaddedRows {
  public:
    PaddedRows(int64_t k, int64_t k_padded, const float* x, int64_t ldx, int64_t m) : rows_(x), stride_(ldx) {
        if (k_padded == k) return;
        stride_ = k_padded;
        copy_.reset(new float[static_cast<size_t>(m * stride_)]());
        for (int64_t row = 0; row < m; ++row) std::copy(x + row * ldx, x + row * ldx + k, copy_.get() + row * stride_);
        rows_ = copy_.get();
    }
    const float* rows() const { return rows_; }
    int64_t stride() const { return stride_; }

  private:
    std::unique_ptr<float[]> copy_;
    const float* rows_;
    int64_t stride_;
};

// Rows that kernels serve from packed weights; more are rearranged first, once for each piece of the work.
constexpr int64_t kFewRows = 8;

// Panels that a thread takes at a time.
int64_t linear_grain(const Machine& machine, int64_t panels, int64_t m) {
    return m <= kFewRows ? 0 : std::max<int64_t>(16, panels / machine.pool->threads() / 3);
}

}  // namespace

void linear(const Machine& machine, const LinearTask* tasks, int count, const float* x, int64_t ldx, int64_t m) {
    if (m == 0) return;
    const LinearKernels& kernels = machine.kernels->linear;
    int64_t panels = 0, scratch_bytes = 0, k_padded = 0;
    for (int i = 0; i < count; ++i) {
        k_padded = std::max(k_padded, tasks[i].w->k_padded);
        panels += tasks[i].w->panels();
        scratch_bytes = std::max(scratch_bytes, kernels.scratch_bytes(*tasks[i].w, m));
    }
    const PaddedRows plain(tasks[0].w->k, k_padded, x, ldx, m);
    machine.pool->split(panels, [&](int64_t begin, int64_t end, int thread) {
        void* scratch = machine.pool->scratch(thread, scratch_bytes);
        int64_t offset = 0;
        for (int i = 0; i < count; ++i) {
            const Matrix& w = *tasks[i].w;
            const int64_t from = std::max(begin - offset, int64_t{0}), to = std::min(end - offset, w.panels());
            if (from < to)
                kernels.linear(w, plain.rows(), plain.stride(), m, tasks[i].out, tasks[i].ldo, from, to, scratch);
            offset += w.panels();
        }
    }, linear_grain(machine, panels, m));
}

void gate_up(const Machine& machine, const Matrix& gate, const Matrix& up, const float* x, int64_t ldx, int64_t m, float* out,
             int64_t ldo) {
    if (m == 0) return;
    if (m > kFewRows) {
        const int64_t width = gate.n;
        const std::unique_ptr<float[]> ups(new float[static_cast<size_t>(m * width)]);
        const LinearTask tasks[] = {{&gate, out, ldo}, {&up, ups.get(), width}};
        linear(machine, tasks, 2, x, ldx, m);
        machine.pool->split(m, [&](int64_t begin, int64_t end, int) {
            for (int64_t row = begin; row < end; ++row)
                machine.kernels->elementwise.silu_mul(out + row * ldo, ups.get() + row * width, width, out + row * ldo);
        });
        return;
    }
    const LinearKernels& kernels = machine.kernels->linear;
    const PaddedRows plain(gate.k, std::max(gate.k_padded, up.k_padded), x, ldx, m);
    constexpr int64_t kGroup = 8;  // panels whose outputs wait for their other half
    const int64_t scratch_bytes = kernels.scratch_bytes(gate, m), half_bytes = m * kGroup * kPanel * 4;
    machine.pool->split(gate.panels(), [&](int64_t begin, int64_t end, int thread) {
        char* scratch = static_cast<char*>(machine.pool->scratch(thread, half_bytes + scratch_bytes));
        float* half = reinterpret_cast<float*>(scratch);
        for (int64_t first = begin; first < end; first += kGroup) {
            const int64_t last = std::min(first + kGroup, end), column = first * kPanel;
            const int64_t width = std::min(last * kPanel, gate.n) - column;
            kernels.linear(gate, plain.rows(), plain.stride(), m, out, ldo, first, last, scratch + half_bytes);
            // The kernel counts columns from the matrix's first output; `half` holds this group only.
            kernels.linear(up, plain.rows(), plain.stride(), m, half - column, kGroup * kPanel, first, last, scratch + half_bytes);
            for (int64_t row = 0; row < m; ++row) {
                float* gated = out + row * ldo + column;
                machine.kernels->elementwise.silu_mul(gated, half + row * kGroup * kPanel, width, gated);
            }
        }
    });
}

}  // namespace deepground
