// Vectors of 4 floats in portable C++, for processors without a path of their own and for sanitizer builds.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

namespace deepground {
namespace {

struct Vec {
    float v[4];
};
constexpr int kLanes = 4;
constexpr int kDirectRows = 1;
constexpr int kTileRows = 4, kTileVecs = 2;

inline float bits_to_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
inline uint32_t float_to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
template <typename F>
inline Vec make(F f) {
    Vec out;
    for (int i = 0; i < 4; ++i) out.v[i] = f(i);
    return out;
}
inline Vec zero() { return {{0, 0, 0, 0}}; }
inline Vec set1(float x) { return {{x, x, x, x}}; }
inline Vec load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
inline void store(float* p, Vec a) { memcpy(p, a.v, sizeof a.v); }
inline Vec add(Vec a, Vec b) { return make([&](int i) { return a.v[i] + b.v[i]; }); }
inline Vec sub(Vec a, Vec b) { return make([&](int i) { return a.v[i] - b.v[i]; }); }
inline Vec mul(Vec a, Vec b) { return make([&](int i) { return a.v[i] * b.v[i]; }); }
inline Vec div(Vec a, Vec b) { return make([&](int i) { return a.v[i] / b.v[i]; }); }
inline Vec vmax(Vec a, Vec b) { return make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline Vec vmin(Vec a, Vec b) { return make([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
inline Vec fma(Vec a, Vec b, Vec c) { return make([&](int i) { return a.v[i] * b.v[i] + c.v[i]; }); }
inline float sum(Vec a) { return (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]); }
inline float maximum(Vec a) {
    float best = a.v[0];
    for (int i = 1; i < 4; ++i) best = a.v[i] > best ? a.v[i] : best;
    return best;
}
inline Vec round_even(Vec a) { return make([&](int i) { return nearbyintf(a.v[i]); }); }
inline Vec pow2(Vec n) {
    return make([&](int i) { return bits_to_float(static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23); });
}
inline Vec load_bf16(const uint16_t* p) {
    return make([&](int i) { return bits_to_float(static_cast<uint32_t>(p[i]) << 16); });
}
inline Vec load_pairs(const uint16_t* p) {
    Vec out;
    memcpy(out.v, p, sizeof out.v);
    return out;
}
inline Vec even_bf16(Vec pairs) {
    return make([&](int i) { return bits_to_float(float_to_bits(pairs.v[i]) << 16); });
}
inline Vec odd_bf16(Vec pairs) {
    return make([&](int i) { return bits_to_float(float_to_bits(pairs.v[i]) & 0xffff0000u); });
}
inline void transpose(Vec* rows) {
    for (int i = 0; i < kLanes; ++i)
        for (int j = 0; j < i; ++j) {
            const float x = rows[i].v[j];
            rows[i].v[j] = rows[j].v[i];
            rows[j].v[i] = x;
        }
}
inline void store_bf16(uint16_t* p, Vec a) {
    for (int i = 0; i < 4; ++i) {
        const uint32_t bits = float_to_bits(a.v[i]);
        const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
        p[i] = static_cast<uint16_t>((nan ? (bits | 0x400000u) : (bits + 0x7fffu + ((bits >> 16) & 1u))) >> 16);
    }
}
constexpr float kE4m3Factor = 1.0f;
inline float e4m3(uint8_t code) {
    const uint32_t magnitude = code & 0x7fu;
    const float value = magnitude < 8 ? static_cast<float>(magnitude) * 0.001953125f : bits_to_float((magnitude << 20) + (120u << 23));
    return code & 0x80u ? -value : value;
}
inline void load_e4m3(const uint8_t* p, Vec* out) {  // 32 codes
    for (int part = 0; part < 8; ++part) out[part] = make([&](int i) { return e4m3(p[4 * part + i]); });
}
struct Fp4Words {
    uint32_t v[4];
};
inline Fp4Words load_fp4(const uint32_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
template <int kIndex>
inline Vec fp4_value(Fp4Words words) {
    const float table[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
    return make([&](int i) {
        const uint32_t nibble = (words.v[i] >> (4 * kIndex)) & 15u;
        return nibble & 8u ? -table[nibble & 7u] : table[nibble & 7u];
    });
}
inline Vec load_e8m0(const uint8_t* p) {
    return make([&](int i) { return bits_to_float(p[i] ? static_cast<uint32_t>(p[i]) << 23 : 0x400000u); });
}
inline void prefetch(const void*) {}

}  // namespace
}  // namespace deepground
