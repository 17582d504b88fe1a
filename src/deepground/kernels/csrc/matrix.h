// A weight matrix, packed for the kernels.
//
// Legend: N outputs (rows of the checkpoint's matrix), K inputs.
//
// Outputs are cut into panels of 32. Within a panel the inputs run slowest, so that a kernel reads one
// stream, broadcasts one activation and updates 32 outputs, and every output is summed over k in order:
//   plain layout  [panel][k][32]            f32 (4 bytes), bf16 (2 bytes), fp8 (1 byte)
//   mxfp4         [panel][k/8][32]          32-bit words of 8 inputs, the first in the lowest nibble
// For BF16 dot products, whose operands are pairs of inputs side by side, there is the pairs layout (f32 has none):
//   bf16          [panel][k/2][32][2]
//   fp8           [panel][k/2][4][2][4][2]  outputs 0-3, 16-19, 4-7, 20-23 and so on: interleaving two registers of
//                                           bytes then yields outputs 0-15 and 16-31
//   mxfp4         [panel][k/8][32]          words of 8 inputs, even ones in the lower half, odd ones in the upper
// Padding (of N to 32, of K to k_padded) holds zeros.
#pragma once

#include <stdint.h>

// Inline in every translation unit whatever the compiler thinks: a shared copy may have been compiled for an
// instruction set that this machine lacks.
#define DG_INLINE inline __attribute__((always_inline))

namespace deepground {

constexpr int kPanel = 32;
// Inputs that share a scale, and the run over which partial sums are kept apart.
constexpr int kFp8Block = 128;
constexpr int kMxBlock = 32;

enum class Format { f32, bf16, fp8, mxfp4 };

struct Matrix {
    Format format = Format::bf16;
    bool pairs = false;  // the layout
    int64_t n = 0, k = 0;
    int64_t k_padded = 0;           // plain: k; pairs and mxfp4: a multiple of 32
    uint8_t* codes = nullptr;       // 64-byte aligned
    float* scales = nullptr;        // fp8: [panel][ceil(k/128)]
    uint8_t* exponents = nullptr;   // mxfp4: [panel][k_padded/32][32], UE8M0

    DG_INLINE int64_t panels() const { return (n + kPanel - 1) / kPanel; }
    DG_INLINE int64_t blocks() const {
        const int64_t block = format == Format::mxfp4 ? kMxBlock : kFp8Block;
        return (k + block - 1) / block;
    }
    DG_INLINE int64_t panel_bytes() const {
        const int64_t values = k_padded * kPanel;
        return format == Format::f32 ? values * 4 : format == Format::bf16 ? values * 2 : format == Format::fp8 ? values : values / 2;
    }
    DG_INLINE const uint8_t* panel_codes(int64_t panel) const { return codes + panel * panel_bytes(); }
    // Of scales or exponents of one panel.
    DG_INLINE int64_t panel_scale_bytes() const {
        return format == Format::fp8 ? blocks() * 4 : format == Format::mxfp4 ? blocks() * kPanel : 0;
    }
};

}  // namespace deepground
