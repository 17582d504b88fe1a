// AVX512_BF16's two instructions in plain AVX-512, bit for bit as documented, so that kernels over them are tested
// on processors without. Source: Intel SDM vol. 2, VDPBF16PS and VCVTNE2PS2BF16: fused multiply-adds, the pair's
// second product first, to nearest even; subnormal numbers are zero, going in and coming out.
#pragma once
#include "avx512_bf16_unpack.h"

namespace deepground {
namespace {

inline __m512 flush_subnormal(__m512 a) {
    const __m512i exponent = _mm512_set1_epi32(0x7f800000), sign = _mm512_set1_epi32(INT32_MIN);
    const __m512i bits = _mm512_castps_si512(a);
    const __mmask16 normal = _mm512_test_epi32_mask(bits, exponent);
    return _mm512_castsi512_ps(_mm512_mask_and_epi32(bits, static_cast<__mmask16>(~normal), bits, sign));
}
inline __m512 first_of_pairs(__m512i pairs) { return flush_subnormal(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))); }
inline __m512 second_of_pairs(__m512i pairs) {
    return flush_subnormal(_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))));
}
inline __m512 fma_flushed(__m512 a, __m512 b, __m512 c) { return flush_subnormal(_mm512_fmadd_ps(a, b, c)); }

inline Vec dot(Vec acc, Pairs x, Pairs w) {
    const __m512 half = fma_flushed(second_of_pairs(x.v), second_of_pairs(w.v), flush_subnormal(acc.v));
    return {fma_flushed(first_of_pairs(x.v), first_of_pairs(w.v), half)};
}

inline Pairs round_pairs(Vec first, Vec second) {
    alignas(64) uint16_t words[32];
    store_bf16(words, {flush_subnormal(first.v)});
    store_bf16(words + 16, {flush_subnormal(second.v)});
    return load_line(words);
}

}  // namespace
}  // namespace deepground
