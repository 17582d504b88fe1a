// What the kernel tests share: counting checks, random numbers that repeat, memory with nothing behind it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels.h"
#include "ops.h"
#include "pack.h"

namespace deepground::tests {

struct Tally {
    long done = 0, failed = 0;
};
inline Tally& tally() {
    static Tally instance;
    return instance;
}

inline void expect(bool right, const std::string& what) {
    static std::mutex one_at_a_time;
    const std::lock_guard<std::mutex> held(one_at_a_time);
    Tally& t = tally();
    ++t.done;
    if (right) return;
    if (++t.failed <= 40) std::printf("FAILED %s\n", what.c_str());
}

// xorshift; Marsaglia, 2003.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 2654435769u + 88172645463325252u) {}
    uint32_t bits() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return static_cast<uint32_t>(state_ >> 16);
    }
    int below(int n) { return static_cast<int>(bits() % static_cast<uint32_t>(n)); }
    float uniform() { return static_cast<float>(bits() >> 8) / 8388608.0f - 1.0f; }  // [-1, 1)

  private:
    uint64_t state_;
};

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};
template <typename T>
using Aligned = std::unique_ptr<T[], Free>;

// 64-byte aligned; nothing usable behind it but what fills the last line.
template <typename T>
Aligned<T> aligned(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return Aligned<T>(static_cast<T*>(std::aligned_alloc(64, bytes == 0 ? 64 : bytes)));
}

inline float bf16_value(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}
inline uint16_t to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline float e4m3_value(uint8_t code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9) : std::ldexp(8.0f + static_cast<float>(mantissa), exponent - 10);
    return code & 0x80 ? -magnitude : magnitude;
}
inline float e2m1_value(int code) {
    const float values[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    return code & 8 ? -values[code & 7] : values[code & 7];
}

// A packed matrix and its weights as doubles, row-major.
struct TestMatrix {
    Aligned<uint8_t> memory;
    Matrix w;
    std::vector<double> weights;
    std::string name;
};
enum class Scales { power_of_two, any, extreme };
TestMatrix make_matrix(const Kernels& table, Format format, int64_t n, int64_t k, Scales scales, uint64_t seed);

void test_linear(const Kernels& table);
void test_layouts_agree(const Kernels& table, const Kernels& other);
void test_elementwise(const Kernels& table);
void test_attention(const Kernels& table);
void test_moe(const Kernels& table);
void test_pool();
void test_choice();

}  // namespace deepground::tests
