// Elementwise kernels, attention and the mixture of experts against double loops.
#include <algorithm>

#include "attention.h"
#include "check.h"
#include "moe.h"

namespace deepground::tests {
namespace {

// A matrix in use beside others: what it multiplies is rounded to BF16 by the sets that have a pairs layout.
double tolerance(const Kernels& table) { return table.linear.pairs ? 2e-2 : 2e-5; }

std::vector<float> random_values(int64_t count, uint64_t seed) {
    Random random(seed);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = random.uniform();
    return values;
}

double silu(double x) { return x / (1 + std::exp(-x)); }

bool close(float value, double expected, double relative) { return std::fabs(value - expected) <= relative * std::fabs(expected) + 1e-6; }

void check_values(const std::vector<float>& out, const std::vector<double>& expected, double limit, const std::string& name) {
    double largest = 1e-30, worst = 0;
    for (double value : expected) largest = std::max(largest, std::fabs(value));
    for (size_t i = 0; i < expected.size(); ++i) {
        const double off = std::fabs(out[i] - expected[i]) / largest;
        worst = off <= worst ? worst : off;
    }
    expect(worst <= limit, name + ": error " + std::to_string(worst));
}

void check_sizes(const Kernels& table, int64_t n) {
    const ElementwiseKernels& ops = table.elementwise;
    const std::string name = std::string(isa_name(table.isa)) + " " + std::to_string(n) + " ";
    const std::vector<float> a = random_values(n, 1), b = random_values(n, 2);
    std::vector<float> normed(a.size()), gated(a.size()), added = b, back(a.size());
    std::vector<uint16_t> words(a.size());
    double squares = 0;
    for (float v : a) squares += static_cast<double>(v) * v;
    const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-6);
    ops.rms_norm(a.data(), b.data(), 1e-6f, n, normed.data());
    ops.silu_mul(a.data(), b.data(), n, gated.data());
    ops.add_scaled(a.data(), 0.5f, n, added.data());
    ops.float_to_bf16(a.data(), n, words.data());
    ops.bf16_to_float(words.data(), n, back.data());
    bool right = true, rounds = true;
    for (size_t i = 0; i < a.size(); ++i) {
        right = right && close(normed[i], a[i] * factor * b[i], 1e-5) && close(gated[i], silu(a[i]) * b[i], 1e-5) && close(added[i], b[i] + 0.5 * a[i], 1e-5);
        rounds = rounds && words[i] == to_bf16(a[i]) && back[i] == bf16_value(words[i]);
    }
    expect(right, name + "elementwise");
    expect(rounds, name + "bf16");
}

// slots of two sequences in a cache of `slots` rows, scattered.
struct Scene {
    std::vector<int64_t> slots[2];
    std::vector<Span> spans;
    int64_t tokens = 0;
};

Scene make_scene(int64_t size) {
    Scene scene;
    std::vector<int64_t> order(static_cast<size_t>(size));
    Random random(3);
    for (int64_t i = 0; i < size; ++i) order[static_cast<size_t>(i)] = i;
    for (int64_t i = size - 1; i > 0; --i) std::swap(order[static_cast<size_t>(i)], order[random.bits() % static_cast<uint32_t>(i + 1)]);
    const int64_t contexts[] = {0, 66}, lengths[] = {5, 2};
    size_t used = 0;
    for (int s = 0; s < 2; ++s) {
        for (int64_t i = 0; i < contexts[s] + lengths[s]; ++i) scene.slots[s].push_back(order[used++]);
        scene.spans.push_back({scene.tokens, lengths[s], contexts[s], scene.slots[s].data()});
        scene.tokens += lengths[s];
    }
    return scene;
}

// One query against the first `seen` slots. keys, values: rows of `width` floats.
std::vector<double> attend(const std::vector<double>& query, const float* keys, const float* values, int64_t width, int64_t value_width,
                           int64_t value_dim, const int64_t* slots, int64_t seen, double scale) {
    std::vector<double> weights, mix(static_cast<size_t>(value_dim));
    double top = -1e300, total = 0;
    for (int64_t i = 0; i < seen; ++i) {
        double score = 0;
        for (size_t d = 0; d < query.size(); ++d) score += query[d] * keys[slots[i] * width + static_cast<int64_t>(d)];
        weights.push_back(score * scale);
        top = std::max(top, score * scale);
    }
    for (double& weight : weights) total += weight = std::exp(weight - top);
    for (int64_t i = 0; i < seen; ++i)
        for (int64_t d = 0; d < value_dim; ++d) mix[static_cast<size_t>(d)] += weights[static_cast<size_t>(i)] / total * values[slots[i] * value_width + d];
    return mix;
}

void check_gqa(const Kernels& table, Pool& pool) {
    constexpr int64_t heads = 4, kv_heads = 2, dim = 20, v_dim = 12, size = 90;
    const Scene scene = make_scene(size);
    const std::vector<float> q = random_values(scene.tokens * heads * dim, 4), keys = random_values(size * kv_heads * dim, 5),
                             values = random_values(size * kv_heads * v_dim, 6);
    std::vector<float> out(static_cast<size_t>(scene.tokens * heads * v_dim));
    gqa_attention({&table, &pool}, scene.spans.data(), 2, q.data(), heads * dim, {keys.data(), false, kv_heads * dim},
                  {values.data(), false, kv_heads * v_dim}, heads, kv_heads, dim, v_dim, 0.3f, out.data(), heads * v_dim);
    std::vector<double> expected;
    for (const Span& span : scene.spans)
        for (int64_t t = 0; t < span.length; ++t)
            for (int64_t h = 0; h < heads; ++h) {
                const float* query = q.data() + ((span.start + t) * heads + h) * dim;
                const int64_t group = h / (heads / kv_heads);
                const auto mix = attend({query, query + dim}, keys.data() + group * dim, values.data() + group * v_dim, kv_heads * dim,
                                        kv_heads * v_dim, v_dim, span.slots, span.context + t + 1, 0.3f);
                expected.insert(expected.end(), mix.begin(), mix.end());
            }
    check_values(out, expected, 2e-5, std::string(isa_name(table.isa)) + " gqa");
}

std::vector<double> multiply(const TestMatrix& m, const std::vector<double>& x) {
    std::vector<double> out(static_cast<size_t>(m.w.n));
    for (size_t i = 0; i < out.size(); ++i)
        for (size_t k = 0; k < x.size(); ++k) out[i] += m.weights[i * x.size() + k] * x[k];
    return out;
}

void check_mla(const Kernels& table, Pool& pool) {
    constexpr int64_t heads = 3, nope = 32, rope = 8, v_dim = 24, lora = 64, size = 90, width = lora + rope;
    const Scene scene = make_scene(size);
    const std::vector<float> q = random_values(scene.tokens * heads * (nope + rope), 7), latents = random_values(size * width, 8);
    std::vector<TestMatrix> key_up, value_up;
    for (uint64_t h = 0; h < heads; ++h) {
        key_up.push_back(make_matrix(table, Format::bf16, lora, nope, Scales::power_of_two, 20 + h));
        value_up.push_back(make_matrix(table, Format::bf16, v_dim, lora, Scales::power_of_two, 30 + h));
    }
    MlaWeights weights{heads, nope, rope, v_dim, lora, {}, {}};
    for (size_t h = 0; h < heads; ++h) {
        weights.key_up.push_back(&key_up[h].w);
        weights.value_up.push_back(&value_up[h].w);
    }
    std::vector<float> out(static_cast<size_t>(scene.tokens * heads * v_dim));
    mla_attention({&table, &pool}, scene.spans.data(), 2, weights, q.data(), heads * (nope + rope), {latents.data(), false, width}, 0.1f,
                  out.data(), heads * v_dim);
    std::vector<double> expected;
    for (const Span& span : scene.spans)
        for (int64_t t = 0; t < span.length; ++t)
            for (size_t h = 0; h < heads; ++h) {
                const float* head = q.data() + ((span.start + t) * heads + static_cast<int64_t>(h)) * (nope + rope);
                std::vector<double> query = multiply(key_up[h], {head, head + nope});
                query.insert(query.end(), head + nope, head + nope + rope);
                const auto mix = attend(query, latents.data(), latents.data(), width, width, lora, span.slots, span.context + t + 1, 0.1f);
                const auto value = multiply(value_up[h], mix);
                expected.insert(expected.end(), value.begin(), value.end());
            }
    check_values(out, expected, tolerance(table), std::string(isa_name(table.isa)) + " mla");
}

}  // namespace

void test_elementwise(const Kernels& table) {
    for (int64_t n : {1, 2, 7, 16, 33, 250}) check_sizes(table, n);
    std::vector<float> x = random_values(12, 9), cos = random_values(6, 10), sin = random_values(6, 11);
    for (bool interleaved : {false, true}) {
        std::vector<float> turned = x;
        table.elementwise.rope(turned.data(), cos.data(), sin.data(), 12, interleaved);
        bool right = true;
        for (size_t i = 0; i < 6; ++i) {
            const double a = interleaved ? x[2 * i] : x[i], b = interleaved ? x[2 * i + 1] : x[i + 6];
            right = right && close(turned[i], a * cos[i] - b * sin[i], 1e-5) && close(turned[i + 6], b * cos[i] + a * sin[i], 1e-5);
        }
        expect(right, std::string(isa_name(table.isa)) + " rope");
    }
}

void test_attention(const Kernels& table) {
    Pool pool(2, {});
    check_gqa(table, pool);
    check_mla(table, pool);
}

void test_moe(const Kernels& table) {
    constexpr int64_t experts = 5, hidden = 72, width = 40, top_k = 2, tokens = 9;
    Pool pool(2, {});
    std::vector<TestMatrix> gates, ups, downs;
    std::vector<Expert> list;
    for (uint64_t e = 0; e < experts; ++e) {
        gates.push_back(make_matrix(table, Format::bf16, width, hidden, Scales::power_of_two, 40 + e));
        ups.push_back(make_matrix(table, Format::bf16, width, hidden, Scales::power_of_two, 50 + e));
        downs.push_back(make_matrix(table, Format::bf16, hidden, width, Scales::power_of_two, 60 + e));
        list.push_back({gates.back().w, ups.back().w, downs.back().w});
    }
    ResidentExperts set(list);
    const std::vector<float> x = random_values(tokens * hidden, 12), weights = random_values(tokens * top_k, 13);
    std::vector<int32_t> ids;
    for (int32_t t = 0; t < tokens; ++t) {
        const int32_t a = t % experts, b = (t * 2 + 1) % experts;
        ids.push_back(std::min(a, b == a ? (a + 1) % static_cast<int32_t>(experts) : b));
        ids.push_back(std::max(a, b == a ? (a + 1) % static_cast<int32_t>(experts) : b));
    }
    std::vector<double> expected;
    for (int64_t t = 0; t < tokens; ++t) {
        const std::vector<double> row(x.begin() + t * hidden, x.begin() + (t + 1) * hidden);
        std::vector<double> sum(static_cast<size_t>(hidden));
        for (int64_t k = 0; k < top_k; ++k) {
            const size_t e = static_cast<size_t>(ids[static_cast<size_t>(t * top_k + k)]);
            std::vector<double> inner = multiply(gates[e], row);
            const std::vector<double> up = multiply(ups[e], row);
            for (size_t i = 0; i < inner.size(); ++i) inner[i] = silu(inner[i]) * up[i];
            const std::vector<double> out = multiply(downs[e], inner);
            for (size_t i = 0; i < out.size(); ++i) sum[i] += weights[static_cast<size_t>(t * top_k + k)] * out[i];
        }
        expected.insert(expected.end(), sum.begin(), sum.end());
    }
    std::vector<float> out(static_cast<size_t>(tokens * hidden));
    moe_experts({&table, &pool}, set, nullptr, x.data(), hidden, tokens, ids.data(), weights.data(), top_k, out.data(), hidden, false);
    check_values(out, expected, tolerance(table), std::string(isa_name(table.isa)) + " moe");
    std::vector<float> alone(static_cast<size_t>(hidden));
    moe_experts({&table, &pool}, set, nullptr, x.data(), hidden, 1, ids.data(), weights.data(), top_k, alone.data(), hidden, false);
    expect(std::memcmp(alone.data(), out.data(), alone.size() * 4) == 0, std::string(isa_name(table.isa)) + " moe differs from a token alone");
}

}  // namespace deepground::tests
