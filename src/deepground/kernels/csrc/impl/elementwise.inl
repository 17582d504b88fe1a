// Elementwise kernels, written once over the vector type.

namespace deepground {
namespace {

// e^x to about one unit in the last place for x in [-87, 88]; below it falls to 0, above it saturates; NaN stays NaN.
// Cody-Waite reduction by ln 2 and a polynomial of degree 6 (minimax on [-ln2/2, ln2/2], as in Cephes' expf).
inline Vec vexp(Vec x) {
    x = vmin(set1(88.0f), vmax(set1(-88.0f), x));  // of two operands the second is kept where one is NaN
    const Vec n = round_even(mul(x, set1(1.44269504f)));
    Vec r = fma(n, set1(-0.693359375f), x);
    r = fma(n, set1(2.12194440e-4f), r);
    Vec p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = add(fma(p, mul(r, r), r), set1(1.0f));
    return mul(p, pow2(n));
}

// Loads and stores of the last, partial vector.
inline Vec load_part(const float* x, int64_t count) {
    float part[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) part[i] = x[i];
    return load(part);
}
inline void store_part(float* out, Vec a, int64_t count) {
    float part[kLanes];
    store(part, a);
    for (int64_t i = 0; i < count; ++i) out[i] = part[i];
}

template <typename Body>
inline void for_vectors(int64_t n, const Body& body) {  // body(offset, count)
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) body(i, static_cast<int64_t>(kLanes));
    if (i < n) body(i, n - i);
}
inline Vec load_any(const float* x, int64_t count) { return count == kLanes ? load(x) : load_part(x, count); }
inline void store_any(float* out, Vec a, int64_t count) {
    if (count == kLanes) store(out, a);
    else store_part(out, a, count);
}

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
    Vec squares = zero();
    for_vectors(n, [&](int64_t i, int64_t count) {
        const Vec v = load_any(x + i, count);
        squares = fma(v, v, squares);
    });
    const float mean = sum(squares) / static_cast<float>(n) + eps;
    const Vec factor = div(set1(1.0f), set1(__builtin_sqrtf(mean)));
    for_vectors(n, [&](int64_t i, int64_t count) {
        store_any(out + i, mul(mul(load_any(x + i, count), factor), load_any(weight + i, count)), count);
    });
}

void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
    for_vectors(n, [&](int64_t i, int64_t count) {
        const Vec g = load_any(gate + i, count);
        const Vec silu = div(g, add(set1(1.0f), vexp(sub(zero(), g))));
        store_any(out + i, mul(silu, load_any(up + i, count)), count);
    });
}

void add_scaled(const float* x, float scale, int64_t n, float* out) {
    const Vec factor = set1(scale);
    for_vectors(n, [&](int64_t i, int64_t count) {
        store_any(out + i, fma(load_any(x + i, count), factor, load_any(out + i, count)), count);
    });
}

void rope(float* x, const float* cos, const float* sin, int64_t n, bool interleaved) {
    constexpr int64_t kMaxWidth = 1024;
    float first[kMaxWidth / 2], second[kMaxWidth / 2];
    const int64_t half = n / 2;
    for (int64_t i = 0; i < half; ++i) {
        first[i] = interleaved ? x[2 * i] : x[i];
        second[i] = interleaved ? x[2 * i + 1] : x[i + half];
    }
    for (int64_t i = 0; i < half; ++i) {
        x[i] = first[i] * cos[i] - second[i] * sin[i];
        x[i + half] = second[i] * cos[i] + first[i] * sin[i];
    }
}

void float_to_bf16(const float* x, int64_t n, uint16_t* out) {
    for_vectors(n, [&](int64_t i, int64_t count) {
        if (count == kLanes) {
            store_bf16(out + i, load(x + i));
            return;
        }
        uint16_t part[kLanes];
        store_bf16(part, load_part(x + i, count));
        for (int64_t j = 0; j < count; ++j) out[i + j] = part[j];
    });
}

void bf16_to_float(const uint16_t* x, int64_t n, float* out) {
    for_vectors(n, [&](int64_t i, int64_t count) {
        if (count == kLanes) {
            store(out + i, load_bf16(x + i));
            return;
        }
        uint16_t part[kLanes] = {};
        for (int64_t j = 0; j < count; ++j) part[j] = x[i + j];
        store_part(out + i, load_bf16(part), count);
    });
}

int64_t most_likely(const float* x, int64_t n, float* share) {
    const float lowest = -__builtin_inff();
    Vec largest = set1(lowest);
    int64_t whole = n / kLanes * kLanes;
    for (int64_t i = 0; i < whole; i += kLanes) largest = vmax(load(x + i), largest);
    float top = maximum(largest);
    for (int64_t i = whole; i < n; ++i) top = x[i] > top ? x[i] : top;
    int64_t best = 0;
    while (best < n - 1 && x[best] != top) ++best;
    const Vec base = set1(top);
    Vec total = zero();
    for (int64_t i = 0; i < whole; i += kLanes) total = add(total, vexp(sub(load(x + i), base)));
    float all = sum(total);
    if (whole < n) {
        float part[kLanes];
        for (int64_t i = 0; i < kLanes; ++i) part[i] = whole + i < n ? x[whole + i] : lowest;
        all += sum(vexp(sub(load(part), base)));
    }
    *share = 1.0f / all;
    return best;
}

static_assert(kDrawBlock % kLanes == 0);

// Block by block; the places of a last block that do not exist are -infinity.
template <typename Body>
inline void for_draw_blocks(const float* x, int64_t n, const Body& body) {
    int64_t block = 0;
    for (; (block + 1) * kDrawBlock <= n; ++block) body(block, x + block * kDrawBlock);
    if (block * kDrawBlock == n) return;
    float part[kDrawBlock];
    for (int64_t i = 0; i < kDrawBlock; ++i) part[i] = block * kDrawBlock + i < n ? x[block * kDrawBlock + i] : -__builtin_inff();
    body(block, part);
}

void block_maxima(const float* x, int64_t n, float* out) {
    for_draw_blocks(x, n, [&](int64_t block, const float* values) {
        Vec largest = load(values);
        for (int64_t i = kLanes; i < kDrawBlock; i += kLanes) largest = vmax(load(values + i), largest);
        out[block] = maximum(largest);
    });
}

void block_weights(const float* x, int64_t n, float base, float factor, float* out) {
    for_draw_blocks(x, n, [&](int64_t block, const float* values) {
        Vec total = zero();
        for (int64_t i = 0; i < kDrawBlock; i += kLanes)
            total = add(total, vexp(mul(sub(load(values + i), set1(base)), set1(factor))));
        out[block] = sum(total);
    });
}

uint64_t read_sum(const uint64_t* x, int64_t n) {
    uint64_t sums[8] = {};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; ++j) sums[j] += x[i + j];
    for (; i < n; ++i) sums[0] += x[i];
    uint64_t total = 0;
    for (int j = 0; j < 8; ++j) total += sums[j];
    return total;
}

[[maybe_unused]] double peak_flops(int64_t rounds) {
    constexpr int kChains = 10;
    Vec sums[kChains];
    for (int i = 0; i < kChains; ++i) sums[i] = set1(static_cast<float>(i));
    const Vec a = set1(0.999f), b = set1(1e-3f);
    for (int64_t round = 0; round < rounds; ++round)
        for (int i = 0; i < kChains; ++i) sums[i] = fma(sums[i], a, b);
    Vec total = zero();
    for (int i = 0; i < kChains; ++i) total = add(total, sums[i]);
    volatile float kept = sum(total);  // the result is used, so that the loop is not removed
    (void)kept;
    return 2.0 * kLanes * kChains * static_cast<double>(rounds);
}

}  // namespace
}  // namespace deepground
