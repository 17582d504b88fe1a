// BF16 pairs on ARM processors with FEAT_BF16: the dot product, the rounding, and pairs out of packed weights (the pairs
// layout of matrix.h). Included into a namespace of one translation unit, after simd/neon.h.
#pragma once
#include <arm_neon.h>
#include <stdint.h>

#include "e4m3_words.h"

namespace deepground {
namespace {

// 4 pairs of BF16 numbers: the inputs k and k + 1 of 4 outputs, or of one row 4 times.
struct Pairs {
    uint16x8_t v;
};
// Rows and vectors of an inner loop over pairs: their sums and totals stay in registers, beside a line of weights.
constexpr int kPairTile = 3, kPairVecs = 4;
constexpr int kSidePanelRows = 0;  // rows up to which two panels are computed side by side
constexpr int kGroupedRows = 2;    // rows up to which weights are unpacked in registers, once for a group of rows

inline void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }

inline Pairs load_line(const uint16_t* p) { return {vld1q_u16(p)}; }
inline void store_line(uint16_t* p, Pairs a) { vst1q_u16(p, a.v); }
// The numbers that stand first and second in their pairs.
inline Vec first_floats(Pairs a) { return {vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u16(a.v), 16))}; }
inline Vec second_floats(Pairs a) {
    return {vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u16(a.v), vdupq_n_u32(0xffff0000u)))};
}
inline Pairs broadcast_line(const uint16_t* p) {
    uint32_t pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return {vreinterpretq_u16_u32(vdupq_n_u32(pair))};
}

// acc[i] + x[i][0] * w[i][0] + x[i][1] * w[i][1].
inline Vec dot(Vec acc, Pairs x, Pairs w) {
    return {vbfdotq_f32(acc.v, vreinterpretq_bf16_u16(x.v), vreinterpretq_bf16_u16(w.v))};
}

// 8 floats to BF16: to nearest, ties to even.
inline Pairs round_pairs(Vec first, Vec second) {
    return {vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(first.v), second.v))};
}

// ---- FP8 E4M3 ------------------------------------------------------------------------------------------------

// The bytes of the BF16 numbers of the subnormal codes; a normal code's bits need only be moved.
struct E4m3Tables {
    uint8x16_t low, high;
};
inline E4m3Tables e4m3_tables() {
    uint8_t low[16] = {}, high[16] = {};
    for (int code = 0; code < 8; ++code) {
        low[code] = static_cast<uint8_t>(kE4m3Words.word[code]);
        high[code] = static_cast<uint8_t>(kE4m3Words.word[code] >> 8);
    }
    return {vld1q_u8(low), vld1q_u8(high)};
}

// 64 codes, a line of the layout: two inputs of 32 outputs.
inline void e4m3_pairs(const uint8_t* line, const E4m3Tables& tables, Pairs* out) {
    for (int part = 0; part < 4; ++part) {
        const uint8x16_t codes = vld1q_u8(line + 16 * part), size = vandq_u8(codes, vdupq_n_u8(0x7f));
        const uint8x16_t subnormal = vcltq_u8(size, vdupq_n_u8(8));
        const uint8x16_t low = vbslq_u8(subnormal, vqtbl1q_u8(tables.low, size), vshlq_n_u8(size, 4));
        const uint8x16_t moved = vaddq_u8(vshrq_n_u8(size, 4), vdupq_n_u8(120 >> 1));
        const uint8x16_t high = vbslq_u8(subnormal, vqtbl1q_u8(tables.high, size), moved);
        const uint8x16_t with_sign = vorrq_u8(high, vandq_u8(codes, vdupq_n_u8(0x80)));
        out[part] = {vreinterpretq_u16_u8(vzip1q_u8(low, with_sign))};
        out[part + 4] = {vreinterpretq_u16_u8(vzip2q_u8(low, with_sign))};
    }
}

// ---- MXFP4 -----------------------------------------------------------------------------------------------------

// 4 words of eight inputs, and the two bytes of the sixteen values of E2M1.
using Fp4Line = uint32x4_t;
struct Fp4Table {
    uint8x16_t low, high;
};
inline Fp4Line load_fp4_line(const uint32_t* p) { return vld1q_u32(p); }
inline Fp4Table fp4_table() {
    static constexpr uint8_t low[16] = {0x00, 0x00, 0x80, 0xc0, 0x00, 0x40, 0x80, 0xc0, 0x00, 0x00, 0x80, 0xc0, 0x00, 0x40, 0x80, 0xc0};
    static constexpr uint8_t high[16] = {0x00, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, 0x80, 0xbf, 0xbf, 0xbf, 0xc0, 0xc0, 0xc0, 0xc0};
    return {vld1q_u8(low), vld1q_u8(high)};
}

// Inputs 2 * kPair and 2 * kPair + 1 of a line. The bytes between the nibbles are zero, and so is what they look up.
template <int kPair>
inline Pairs fp4_pairs(Fp4Line words, Fp4Table table) {
    uint32x4_t nibbles = words;
    if constexpr (kPair > 0) nibbles = vshrq_n_u32(words, 4 * kPair);
    const uint8x16_t index = vreinterpretq_u8_u32(vandq_u32(nibbles, vdupq_n_u32(0x000f000fu)));
    const uint16x8_t high = vshlq_n_u16(vreinterpretq_u16_u8(vqtbl1q_u8(table.high, index)), 8);
    return {vorrq_u16(vreinterpretq_u16_u8(vqtbl1q_u8(table.low, index)), high)};
}

}  // namespace
}  // namespace deepground
