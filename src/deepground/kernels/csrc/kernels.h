// The kernels of one instruction set: single-threaded functions over a part of the work.
//
// The table is all that the rest of the library knows of an instruction set. Each table is compiled from the
// same text (impl/*.inl) over another vector type (simd/*.h), in a translation unit of its own with the
// compiler flags of its instruction set; such a unit must not include headers that define inline functions
// of the standard library, or the linker may pick its copy for all.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"
#include "matrix.h"

namespace deepground {

struct LinearKernels {
    // Whether matrices are packed in the pairs layout.
    bool pairs;
    // Bytes of scratch that `linear` wants for m rows, 64-byte aligned.
    int64_t (*scratch_bytes)(const Matrix& w, int64_t m);
    // out[r][n] = sum over k of x[r][k] * w[n][k], for r < m and the outputs of panels begin .. end.
    // x rows are k_padded long where k_padded != k, zeros behind k. Strides in floats.
    void (*linear)(const Matrix& w, const float* x, int64_t ldx, int64_t m, float* out, int64_t ldo, int64_t begin,
                   int64_t end, void* scratch);
    // The weights of one panel as floats, [k_padded][32], scales applied; for tests and for building other matrices.
    void (*unpack)(const Matrix& w, int64_t panel, float* out);
};

// Tokens whose logits are looked at together when one is drawn.
constexpr int64_t kDrawBlock = 64;

struct ElementwiseKernels {
    // out[i] = x[i] / rms(x) * weight[i] over n values.
    void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
    // out[i] = silu(gate[i]) * up[i]; out may be gate.
    void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
    // out[i] += scale * x[i].
    void (*add_scaled)(const float* x, float scale, int64_t n, float* out);
    // Rotates pairs of n values in place by r = n/2 angles; the result is in the half-split layout
    // (reference.apply_rope). cos and sin: r values.
    void (*rope)(float* x, const float* cos, const float* sin, int64_t n, bool interleaved);
    void (*float_to_bf16)(const float* x, int64_t n, uint16_t* out);
    void (*bf16_to_float)(const uint16_t* x, int64_t n, float* out);
    // The index of the largest of n values, of equal ones the first, and its share of the sum of all e^value; the share
    // is NaN where one of the values is.
    int64_t (*most_likely)(const float* x, int64_t n, float* share);
    // The largest of each block of kDrawBlock values, and the sum of its e^((x - base) * factor) for base no less than any x;
    // the last block may be shorter.
    void (*block_maxima)(const float* x, int64_t n, float* out);
    void (*block_weights)(const float* x, int64_t n, float base, float factor, float* out);
    // Sum of n 64-bit words read in order: what memory bandwidth is measured with.
    uint64_t (*read_sum)(const uint64_t* x, int64_t n);
    // Multiply-adds on registers, 2 * W flops each: what the matrix peak is measured with. Returns flops done.
    double (*peak_flops)(int64_t rounds);
};

struct AttentionKernels;  // attention_task.h

struct Kernels {
    Isa isa;
    int lanes;  // floats in a vector
    LinearKernels linear;
    ElementwiseKernels elementwise;
    const AttentionKernels* attention;
};

// The table of an instruction set; null where the library was built without it.
const Kernels* kernels_for(Isa isa);

}  // namespace deepground
