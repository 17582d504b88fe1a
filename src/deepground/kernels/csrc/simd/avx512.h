// Vectors of 16 floats on AVX-512 (F, BW, DQ, VL). Included into a namespace of one translation unit.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace deepground {
namespace {

struct Vec {
    __m512 v;
};
constexpr int kLanes = 16;
constexpr int kDirectRows = 8;   // rows that a pass over packed weights serves without unpacking them
constexpr int kTileRows = 12, kTileVecs = 2;

inline Vec zero() { return {_mm512_setzero_ps()}; }
inline Vec set1(float x) { return {_mm512_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec vmax(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec vmin(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
inline float maximum(Vec a) { return _mm512_reduce_max_ps(a.v); }
inline Vec round_even(Vec a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// 2^n for whole n in [-127, 127]; 0 at -127.
inline Vec pow2(Vec n) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
}

inline Vec load_bf16(const uint16_t* p) {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16))};
}
// Pairs of bf16 as they lie in memory, and the floats of their first and second halves.
inline Vec load_pairs(const uint16_t* p) { return {_mm512_castsi512_ps(_mm512_loadu_si512(p))}; }
inline Vec even_bf16(Vec pairs) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs.v), 16))}; }
inline Vec odd_bf16(Vec pairs) {
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs.v), _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
// rows[i][j] <-> rows[j][i], bits untouched.
inline void transpose(Vec* rows) {
    __m512 a[kLanes];
    for (int i = 0; i < kLanes; i += 2) {
        a[i] = _mm512_unpacklo_ps(rows[i].v, rows[i + 1].v);
        a[i + 1] = _mm512_unpackhi_ps(rows[i].v, rows[i + 1].v);
    }
    __m512 b[kLanes];  // b[4 g + c]: in quarter q, column 4 q + c of rows 4 g .. 4 g + 3
    for (int i = 0; i < kLanes; i += 4) {
        b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    for (int c = 0; c < 4; ++c) {
        const __m512 even_low = _mm512_shuffle_f32x4(b[c], b[4 + c], 0x88), odd_low = _mm512_shuffle_f32x4(b[c], b[4 + c], 0xdd);
        const __m512 even_high = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0x88);
        const __m512 odd_high = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0xdd);
        rows[c] = {_mm512_shuffle_f32x4(even_low, even_high, 0x88)};
        rows[4 + c] = {_mm512_shuffle_f32x4(odd_low, odd_high, 0x88)};
        rows[8 + c] = {_mm512_shuffle_f32x4(even_low, even_high, 0xdd)};
        rows[12 + c] = {_mm512_shuffle_f32x4(odd_low, odd_high, 0xdd)};
    }
}
// To nearest, ties to even; NaN stays NaN.
inline void store_bf16(uint16_t* p, Vec a) {
    const __m512i bits = _mm512_castps_si512(a.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

// E4M3 codes as half floats are 2^-8 of their value: the exponent's bias is 15 instead of 7. The conversion from
// half floats handles subnormal numbers at full speed. NaN codes become 480: matrices are packed without any.
constexpr float kE4m3Factor = 256.0f;
inline void load_e4m3(const uint8_t* p, Vec* out) {  // 32 codes
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m512i high = _mm512_slli_epi16(_mm512_cvtepu8_epi16(bytes), 8);
    const __m512i half = _mm512_and_si512(_mm512_srai_epi16(high, 1), _mm512_set1_epi16(static_cast<short>(0xbfff)));
    out[0] = {_mm512_cvtph_ps(_mm512_castsi512_si256(half))};
    out[1] = {_mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1))};
}

// E2M1: the nibble is the index into a table of its sixteen values.
struct Fp4Words {
    __m512i v;
};
inline Fp4Words load_fp4(const uint32_t* p) { return {_mm512_loadu_si512(p)}; }
template <int kIndex>
inline Vec fp4_value(Fp4Words words) {
    const __m512 table = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f, -1.0f, -1.5f, -2.0f,
                                        -3.0f, -4.0f, -6.0f);
    return {_mm512_permutexvar_ps(_mm512_srli_epi32(words.v, 4 * kIndex), table)};
}
// UE8M0 exponents of 16 outputs; 0 is 2^-127, a subnormal number.
inline Vec load_e8m0(const uint8_t* p) {
    const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m512i bits = _mm512_slli_epi32(e, 23);
    return {_mm512_castsi512_ps(_mm512_mask_blend_epi32(_mm512_test_epi32_mask(e, e), _mm512_set1_epi32(0x400000), bits))};
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace
}  // namespace deepground
