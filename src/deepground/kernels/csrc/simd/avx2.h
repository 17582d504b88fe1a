// Vectors of 8 floats on AVX2 with FMA and F16C. Included into a namespace of one translation unit.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace deepground {
namespace {

struct Vec {
    __m256 v;
};
constexpr int kLanes = 8;
constexpr int kDirectRows = 2;
constexpr int kTileRows = 6, kTileVecs = 2;

inline Vec zero() { return {_mm256_setzero_ps()}; }
inline Vec set1(float x) { return {_mm256_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec vmax(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec vmin(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline float sum(Vec a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
inline float maximum(Vec a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
inline Vec round_even(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Vec pow2(Vec n) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23))};
}

inline Vec load_bf16(const uint16_t* p) {
    const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16))};
}
inline Vec load_pairs(const uint16_t* p) {
    return {_mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Vec even_bf16(Vec pairs) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pairs.v), 16))}; }
inline Vec odd_bf16(Vec pairs) {
    return {_mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(pairs.v), _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
}
inline void transpose(Vec* rows) {
    __m256 a[kLanes];
    for (int i = 0; i < kLanes; i += 2) {
        a[i] = _mm256_unpacklo_ps(rows[i].v, rows[i + 1].v);
        a[i + 1] = _mm256_unpackhi_ps(rows[i].v, rows[i + 1].v);
    }
    __m256 b[kLanes];  // b[4 g + c]: in half q, column 4 q + c of rows 4 g .. 4 g + 3
    for (int i = 0; i < kLanes; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    for (int c = 0; c < 4; ++c) {
        rows[c] = {_mm256_permute2f128_ps(b[c], b[4 + c], 0x20)};
        rows[4 + c] = {_mm256_permute2f128_ps(b[c], b[4 + c], 0x31)};
    }
}
inline void store_bf16(uint16_t* p, Vec a) {
    const __m256i bits = _mm256_castps_si256(a.v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256 nan = _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q);
    const __m256i chosen = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan)), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(chosen, chosen), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}

// As on AVX-512: half floats of 2^-8 the value.
constexpr float kE4m3Factor = 256.0f;
inline void load_e4m3(const uint8_t* p, Vec* out) {  // 32 codes
    for (int part = 0; part < 2; ++part) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * part));
        const __m256i high = _mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 8);
        const __m256i half = _mm256_and_si256(_mm256_srai_epi16(high, 1), _mm256_set1_epi16(static_cast<short>(0xbfff)));
        out[2 * part] = {_mm256_cvtph_ps(_mm256_castsi256_si128(half))};
        out[2 * part + 1] = {_mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
    }
}

// E2M1: three bits index a table of eight magnitudes, the fourth is the sign.
struct Fp4Words {
    __m256i v;
};
inline Fp4Words load_fp4(const uint32_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
template <int kIndex>
inline Vec fp4_value(Fp4Words words) {
    const __m256 table = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
    const __m256 magnitude = _mm256_permutevar8x32_ps(table, _mm256_srli_epi32(words.v, 4 * kIndex));
    const __m256i sign = _mm256_and_si256(_mm256_slli_epi32(words.v, 28 - 4 * kIndex), _mm256_set1_epi32(INT32_MIN));
    return {_mm256_or_ps(magnitude, _mm256_castsi256_ps(sign))};
}
inline Vec load_e8m0(const uint8_t* p) {
    const __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m256i subnormal = _mm256_cmpeq_epi32(e, _mm256_setzero_si256());
    const __m256i bits = _mm256_slli_epi32(e, 23);
    return {_mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_and_si256(subnormal, _mm256_set1_epi32(0x400000))))};
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

}  // namespace
}  // namespace deepground
