// From a checkpoint's row-major tensors to packed matrices.
#pragma once

#include "matrix.h"
#include "pool.h"

namespace deepground {

// Bytes of a whole packed matrix: codes, then scales or exponents, each 64-byte aligned.
int64_t packed_bytes(Format format, bool pairs, int64_t n, int64_t k);

// A matrix over `memory` (packed_bytes large, 64-byte aligned); nothing is written yet.
Matrix matrix_over(uint8_t* memory, Format format, bool pairs, int64_t n, int64_t k);

// Fills panels begin .. end from row-major sources. Strides in elements (mxfp4: bytes of two codes).
void pack_f32(const Matrix& w, const float* source, int64_t stride, int64_t begin, int64_t end);
void pack_bf16(const Matrix& w, const uint16_t* source, int64_t stride, int64_t begin, int64_t end);
// scales: [ceil(n/block_n)][scale_stride], one per block_n x 128; block_n is a multiple of 32.
// Returns false where a code is NaN.
bool pack_fp8(const Matrix& w, const uint8_t* source, int64_t stride, const float* scales, int64_t scale_stride,
              int64_t block_n, int64_t begin, int64_t end);
// source: [n][ceil(k/2)], the even input in the low nibble; exponents: [n][ceil(k/32)], biased by 127.
void pack_mxfp4(const Matrix& w, const uint8_t* source, int64_t stride, const uint8_t* exponents, int64_t exponent_stride,
                int64_t begin, int64_t end);

}  // namespace deepground
