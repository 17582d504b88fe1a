// Kernels on all threads: each function splits its work over the pool and returns when it is done.
#pragma once

#include <stdint.h>

#include "kernels.h"
#include "pool.h"

namespace deepground {

// What a computation runs on.
struct Machine {
    const Kernels* kernels;
    Pool* pool;
};

struct LinearTask {
    const Matrix* w;
    float* out;
    int64_t ldo;
};

// Several linear maps of the same rows, in one parallel step. x: (m, k) with stride ldx, all matrices with the same k.
void linear(const Machine& machine, const LinearTask* tasks, int count, const float* x, int64_t ldx, int64_t m);

// out (m, n) = silu(gate x) * (up x).
void gate_up(const Machine& machine, const Matrix& gate, const Matrix& up, const float* x, int64_t ldx, int64_t m, float* out,
             int64_t ldo);

}  // namespace deepground
