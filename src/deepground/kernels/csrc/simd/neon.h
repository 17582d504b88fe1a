// Vectors of 4 floats on ARM's NEON, as every ARMv8-A processor has it. Included into a namespace of one translation
// unit.
#pragma once
#include <arm_neon.h>
#include <stdint.h>

namespace deepground {
namespace {

struct Vec {
    float32x4_t v;
};
constexpr int kLanes = 4;
constexpr int kDirectRows = 2;
constexpr int kTileRows = 6, kTileVecs = 4;

inline Vec zero() { return {vdupq_n_f32(0.0f)}; }
inline Vec set1(float x) { return {vdupq_n_f32(x)}; }
inline Vec load(const float* p) { return {vld1q_f32(p)}; }
inline void store(float* p, Vec a) { vst1q_f32(p, a.v); }
inline Vec add(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
// As the other sets have it: the second operand where one is NaN.
inline Vec vmax(Vec a, Vec b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
inline Vec vmin(Vec a, Vec b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
inline float sum(Vec a) { return vaddvq_f32(a.v); }
inline float maximum(Vec a) { return vmaxvq_f32(a.v); }
inline Vec round_even(Vec a) { return {vrndnq_f32(a.v)}; }
// 2^n for whole n in [-126, 127].
inline Vec pow2(Vec n) {
    return {vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v), vdupq_n_s32(127)), 23))};
}

inline Vec load_bf16(const uint16_t* p) { return {vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p)), 16))}; }
// Pairs of bf16 as they lie in memory, and the floats of their first and second halves.
inline Vec load_pairs(const uint16_t* p) { return {vreinterpretq_f32_u16(vld1q_u16(p))}; }
inline Vec even_bf16(Vec pairs) { return {vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(pairs.v), 16))}; }
inline Vec odd_bf16(Vec pairs) {
    return {vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(pairs.v), vdupq_n_u32(0xffff0000u)))};
}
// rows[i][j] <-> rows[j][i], bits untouched.
inline void transpose(Vec* rows) {
    const float32x4x2_t a = vtrnq_f32(rows[0].v, rows[1].v), b = vtrnq_f32(rows[2].v, rows[3].v);
    rows[0] = {vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]))};
    rows[1] = {vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]))};
    rows[2] = {vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]))};
    rows[3] = {vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]))};
}
// To nearest, ties to even; NaN stays NaN.
inline void store_bf16(uint16_t* p, Vec a) {
    const uint32x4_t bits = vreinterpretq_u32_f32(a.v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    vst1_u16(p, vshrn_n_u32(vbslq_u32(vceqq_f32(a.v, a.v), rounded, quiet), 16));
}

// As on x86: half floats of 2^-8 the value, whose conversion handles subnormal numbers at full speed.
constexpr float kE4m3Factor = 256.0f;
inline void load_e4m3(const uint8_t* p, Vec* out) {  // 32 codes
    for (int part = 0; part < 2; ++part) {
        const uint8x16_t codes = vld1q_u8(p + 16 * part);
        for (int half = 0; half < 2; ++half) {
            const uint8x16_t high = half ? vzip2q_u8(vdupq_n_u8(0), codes) : vzip1q_u8(vdupq_n_u8(0), codes);
            const int16x8_t shifted = vandq_s16(vshrq_n_s16(vreinterpretq_s16_u8(high), 1), vdupq_n_s16(static_cast<int16_t>(0xbfff)));
            out[4 * part + 2 * half] = {vcvt_f32_f16(vreinterpret_f16_s16(vget_low_s16(shifted)))};
            out[4 * part + 2 * half + 1] = {vcvt_f32_f16(vreinterpret_f16_s16(vget_high_s16(shifted)))};
        }
    }
}

// E2M1: the nibble looks up the two upper bytes of its value; an index beyond the table gives the lower bytes' zero.
struct Fp4Words {
    uint32x4_t v;
};
inline Fp4Words load_fp4(const uint32_t* p) { return {vld1q_u32(p)}; }
template <int kIndex>
inline Vec fp4_value(Fp4Words words) {
    static constexpr uint8_t bytes[32] = {0x00, 0x00, 0x80, 0xc0, 0x00, 0x40, 0x80, 0xc0, 0x00, 0x00, 0x80, 0xc0, 0x00, 0x40, 0x80, 0xc0,
                                          0x00, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, 0x80, 0xbf, 0xbf, 0xbf, 0xc0, 0xc0, 0xc0, 0xc0};
    const uint8x16x2_t table = {{vld1q_u8(bytes), vld1q_u8(bytes + 16)}};
    uint32x4_t nibble = words.v;
    if constexpr (kIndex > 0) nibble = vshrq_n_u32(nibble, 4 * kIndex);
    nibble = vandq_u32(nibble, vdupq_n_u32(15));
    const uint32x4_t index = vmlaq_u32(vdupq_n_u32(0x1000ffffu), nibble, vdupq_n_u32(0x01010000u));
    return {vreinterpretq_f32_u8(vqtbl2q_u8(table, vreinterpretq_u8_u32(index)))};
}
// UE8M0 exponents of 4 outputs; 0 is 2^-127, a subnormal number.
inline Vec load_e8m0(const uint8_t* p) {
    uint32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    const uint32x4_t e = vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))));
    return {vreinterpretq_f32_u32(vbslq_u32(vceqzq_u32(e), vdupq_n_u32(0x400000), vshlq_n_u32(e, 23)))};
}

inline void prefetch(const void* p) { __builtin_prefetch(p); }

}  // namespace
}  // namespace deepground
