// BF16 pairs out of packed weights (the pairs layout of matrix.h), on AVX-512 with VBMI. Included into a namespace of
// one translation unit, after simd/avx512.h.
//
// As an E4M3 code without its sign has 128 values, two look-ups in tables of 128 bytes yield the two bytes of 64 numbers.
#pragma once
#include <immintrin.h>
#include <stdint.h>

#include "e4m3_words.h"

namespace deepground {
namespace {

// 16 pairs of BF16 numbers: the inputs k and k + 1 of 16 outputs, or of one row 16 times.
struct Pairs {
    __m512i v;
};
// Rows and vectors of an inner loop over pairs: their sums and totals stay in registers, beside a line of weights.
constexpr int kPairTile = 6, kPairVecs = 2;
constexpr int kSidePanelRows = 2;  // rows up to which two panels are computed side by side
constexpr int kGroupedRows = 32;   // rows up to which weights are unpacked in registers, once for a group of rows

// Into the second-level cache.
inline void prefetch_far(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

inline Pairs load_line(const uint16_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store_line(uint16_t* p, Pairs a) { _mm512_storeu_si512(p, a.v); }
// The numbers that stand first and second in their pairs.
inline Vec first_floats(Pairs a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16))}; }
inline Vec second_floats(Pairs a) {
    return {_mm512_castsi512_ps(_mm512_and_si512(a.v, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
inline Pairs broadcast_line(const uint16_t* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return {_mm512_set1_epi32(pair)};
}

// ---- FP8 E4M3 ------------------------------------------------------------------------------------------------

// What the exponent of a scale may be, for all scaled numbers to be normal ones (E4M3: 2^-9 .. 448).
constexpr int kE4m3MinExponent = -117, kE4m3MaxExponent = 119;

struct E4m3Tables {
    __m512i low[2], high[2];
};

// Tables of all values times 2^exponent.
inline E4m3Tables e4m3_tables(int exponent = 0) {
    const __m512i step = _mm512_set1_epi16(static_cast<short>(exponent * 128));
    E4m3Tables tables;
    for (int half = 0; half < 2; ++half) {
        __m256i low[2], high[2];
        for (int part = 0; part < 2; ++part) {
            const __m512i value = _mm512_load_si512(kE4m3Words.word + 64 * half + 32 * part);
            const __m512i words = _mm512_mask_add_epi16(value, _mm512_test_epi16_mask(value, value), value, step);
            low[part] = _mm512_cvtepi16_epi8(words);
            high[part] = _mm512_cvtepi16_epi8(_mm512_srli_epi16(words, 8));
        }
        tables.low[half] = _mm512_inserti64x4(_mm512_castsi256_si512(low[0]), low[1], 1);
        tables.high[half] = _mm512_inserti64x4(_mm512_castsi256_si512(high[0]), high[1], 1);
    }
    return tables;
}

// 64 codes, a line of the layout: two inputs of 32 outputs.
inline void e4m3_pairs(const uint8_t* line, const E4m3Tables& tables, Pairs* out) {
    const __m512i codes = _mm512_loadu_si512(line);
    const __m512i low = _mm512_permutex2var_epi8(tables.low[0], codes, tables.low[1]);
    const __m512i high = _mm512_permutex2var_epi8(tables.high[0], codes, tables.high[1]);
    // high | (codes & 0x80)
    const __m512i sign = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);
    out[0] = {_mm512_unpacklo_epi8(low, sign)};
    out[1] = {_mm512_unpackhi_epi8(low, sign)};
}

// ---- MXFP4 -----------------------------------------------------------------------------------------------------

// The sixteen values of E2M1, twice, as the look-up's index has five bits.
inline __m512i e2m1_table() {
    alignas(64) static constexpr uint16_t words[32] = {
        0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, 0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0,
        0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, 0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};
    return _mm512_load_si512(words);
}

// The same with exponents raised as far as they go, and +0 for both zeros: a saturating subtraction lowers them to
// the block's scale and leaves zero at zero.
constexpr int kE2m1Raised = 125;
inline __m512i e2m1_raised_table() {
    const __m512i words = e2m1_table();
    const __mmask32 some = _mm512_test_epi16_mask(words, _mm512_set1_epi16(0x7fff));
    return _mm512_maskz_add_epi16(some, words, _mm512_set1_epi16(kE2m1Raised << 7));
}

// UE8M0 exponents (biased by 127) for which all scaled numbers are normal ones (E2M1: 0.5 .. 6).
constexpr int kE2m1MinExponent = 2, kE2m1MaxExponent = 127 + kE2m1Raised;

// What to subtract from raised words, for 16 outputs.
inline __m512i e2m1_lowering(const uint8_t* exponents) {
    const __m512i e = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(exponents)));
    const __m512i by = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(kE2m1MaxExponent), e), 7);
    return _mm512_or_si512(by, _mm512_slli_epi32(by, 16));
}

// 16 words of eight inputs, and what their nibbles are looked up in.
using Fp4Line = __m512i;
using Fp4Table = __m512i;
inline Fp4Line load_fp4_line(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline Fp4Table fp4_table() { return e2m1_table(); }

// Inputs 2 * kPair and 2 * kPair + 1 of a line.
template <int kPair>
inline Pairs fp4_pairs(Fp4Line words, Fp4Table table) {
    return {_mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4 * kPair), table)};
}

}  // namespace
}  // namespace deepground
