// The dot product of BF16 pairs and the rounding to BF16, as AVX512_BF16 has them.
#pragma once
#include "avx512_bf16_unpack.h"

namespace deepground {
namespace {

// acc[i] + x[i][0] * w[i][0] + x[i][1] * w[i][1].
inline Vec dot(Vec acc, Pairs x, Pairs w) {
    return {_mm512_dpbf16_ps(acc.v, reinterpret_cast<__m512bh>(x.v), reinterpret_cast<__m512bh>(w.v))};
}

// 32 floats to BF16: to nearest, ties to even, subnormal numbers to zero.
inline Pairs round_pairs(Vec first, Vec second) {
    return {reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second.v, first.v))};
}

}  // namespace
}  // namespace deepground
