// Attention over paged caches, for Python.
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <vector>

#include "attention.h"
#include "bindings.h"

namespace nb = nanobind;

namespace deepground {
namespace {

// Four numbers each: start, length, context, address of the slots.
std::vector<Span> spans_of(const std::vector<int64_t>& numbers) {
    std::vector<Span> spans;
    for (size_t i = 0; i + 3 < numbers.size(); i += 4)
        spans.push_back({numbers[i], numbers[i + 1], numbers[i + 2], at<const int64_t>(static_cast<uintptr_t>(numbers[i + 3]))});
    return spans;
}

MlaWeights mla_weights(int64_t nope, int64_t rope, const std::vector<const OwnedMatrix*>& key_up,
                       const std::vector<const OwnedMatrix*>& value_up) {
    if (key_up.empty() || key_up.size() != value_up.size()) throw std::invalid_argument("one key_up and one value_up for each head");
    MlaWeights weights;
    weights.heads = static_cast<int64_t>(key_up.size());
    weights.nope = nope;
    weights.rope = rope;
    weights.v_dim = value_up[0]->w.n;
    weights.kv_lora = value_up[0]->w.k;
    for (const OwnedMatrix* matrix : key_up) {
        if (matrix->w.n != weights.kv_lora || matrix->w.k != nope) throw std::invalid_argument("key_up must be (kv_lora, nope)");
        weights.key_up.push_back(&matrix->w);
    }
    for (const OwnedMatrix* matrix : value_up) {
        if (matrix->w.n != weights.v_dim || matrix->w.k != weights.kv_lora) throw std::invalid_argument("value_up must be (v_dim, kv_lora)");
        weights.value_up.push_back(&matrix->w);
    }
    return weights;
}

void gqa(const std::vector<int64_t>& spans, uintptr_t q, int64_t ldq, uintptr_t keys, uintptr_t values, bool bf16, int64_t heads,
         int64_t kv_heads, int64_t head_dim, int64_t v_dim, float scale, uintptr_t out, int64_t ldo) {
    const std::vector<Span> list = spans_of(spans);
    const CacheView key_view{at<void>(keys), bf16, kv_heads * head_dim}, value_view{at<void>(values), bf16, kv_heads * v_dim};
    gqa_attention(machine(), list.data(), static_cast<int64_t>(list.size()), at<float>(q), ldq, key_view, value_view, heads, kv_heads,
                  head_dim, v_dim, scale, at<float>(out), ldo);
}

void mla(const std::vector<int64_t>& spans, const MlaWeights& weights, uintptr_t q, int64_t ldq, uintptr_t latents, bool bf16,
         float scale, uintptr_t out, int64_t ldo) {
    const std::vector<Span> list = spans_of(spans);
    const CacheView view{at<void>(latents), bf16, weights.kv_lora + weights.rope};
    mla_attention(machine(), list.data(), static_cast<int64_t>(list.size()), weights, at<float>(q), ldq, view, scale, at<float>(out),
                  ldo);
}

}  // namespace

void bind_attention(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<MlaWeights>(m, "MlaWeights")
        .def("__init__",
             [](MlaWeights* self, int64_t nope, int64_t rope, const std::vector<const OwnedMatrix*>& key_up,
                const std::vector<const OwnedMatrix*>& value_up) { new (self) MlaWeights(mla_weights(nope, rope, key_up, value_up)); },
             "nope"_a, "rope"_a, "key_up"_a, "value_up"_a);
    m.def("gqa_attention", &gqa, "spans"_a, "q"_a, "ldq"_a, "keys"_a, "values"_a, "bf16"_a, "heads"_a, "kv_heads"_a, "head_dim"_a,
          "v_dim"_a, "scale"_a, "out"_a, "ldo"_a, nb::call_guard<nb::gil_scoped_release>());
    m.def("mla_attention", &mla, "spans"_a, "weights"_a, "q"_a, "ldq"_a, "latents"_a, "bf16"_a, "scale"_a, "out"_a, "ldo"_a,
          nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace deepground
