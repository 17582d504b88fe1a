// Forward passes over packed weights, for Python (model/native_decoder.py).
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>
#include <vector>

#include "bindings.h"
#include "program.h"

namespace nb = nanobind;

namespace deepground {
namespace {

const Matrix* matrix(const OwnedMatrix* m) { return m == nullptr ? nullptr : &m->w; }
LinearWeights weights(const OwnedMatrix* m, uintptr_t bias) { return {matrix(m), at<const float>(bias)}; }

// The caches of all layers, as base addresses; made once for a KVCache.
struct Caches {
    std::vector<LayerCache> layers;
};

Caches make_caches(const std::vector<std::tuple<uintptr_t, int64_t, uintptr_t, int64_t>>& layers, bool bf16) {
    Caches caches;
    for (const auto& [first, first_width, second, second_width] : layers)
        caches.layers.push_back({{at<void>(first), bf16, first_width}, {at<void>(second), bf16, second_width}});
    return caches;
}

// spans: four numbers each: start, length, context, address of the slots.
Pass make_pass(int64_t tokens, uintptr_t positions, uintptr_t cos, uintptr_t sin, const std::vector<int64_t>& spans,
               const Caches& caches) {
    Pass pass;
    pass.tokens = tokens;
    pass.positions = at<const int64_t>(positions);
    pass.cos = at<const float>(cos);
    pass.sin = at<const float>(sin);
    for (size_t i = 0; i + 3 < spans.size(); i += 4)
        pass.spans.push_back({spans[i], spans[i + 1], spans[i + 2], at<const int64_t>(static_cast<uintptr_t>(spans[i + 3]))});
    pass.caches = caches.layers;
    return pass;
}

void forward(Program& program, int64_t tokens, uintptr_t positions, uintptr_t cos, uintptr_t sin, const std::vector<int64_t>& spans,
             const Caches& caches, uintptr_t x) {
    program.forward(machine(), make_pass(tokens, positions, cos, sin, spans, caches), at<float>(x));
}

void mtp_forward(Program& program, int64_t tokens, uintptr_t positions, uintptr_t cos, uintptr_t sin,
                 const std::vector<int64_t>& spans, const Caches& caches, int depth, uintptr_t hidden, uintptr_t x) {
    program.mtp_forward(machine(), make_pass(tokens, positions, cos, sin, spans, caches), depth, at<const float>(hidden), at<float>(x));
}

std::vector<std::vector<int64_t>> mtp_draft(Program& program, int64_t tokens, uintptr_t positions, uintptr_t cos, uintptr_t sin,
                                            const std::vector<int64_t>& spans, const Caches& caches, int depth, uintptr_t hidden,
                                            uintptr_t x, uintptr_t embedding, bool bf16, float least,
                                            const std::vector<int64_t>& wanted) {
    std::vector<DraftOrder> orders;
    for (const int64_t count : wanted) orders.push_back({count, {}});
    program.mtp_draft(machine(), make_pass(tokens, positions, cos, sin, spans, caches), depth, at<const float>(hidden), at<float>(x),
                      at<const void>(embedding), bf16, least, orders);
    std::vector<std::vector<int64_t>> ids;
    for (DraftOrder& order : orders) ids.push_back(std::move(order.ids));
    return ids;
}

void set_gqa(Layer& layer, const std::vector<const OwnedMatrix*>& qkvo, const std::vector<uintptr_t>& biases, uintptr_t q_norm,
             uintptr_t k_norm, int heads, int kv_heads, int head_dim, int rotary_dim, float scale) {
    GqaLayer& gqa = layer.gqa;
    gqa.q = weights(qkvo[0], biases[0]);
    gqa.k = weights(qkvo[1], biases[1]);
    gqa.v = weights(qkvo[2], biases[2]);
    gqa.o = weights(qkvo[3], biases[3]);
    gqa.q_norm = at<const float>(q_norm);
    gqa.k_norm = at<const float>(k_norm);
    gqa.heads = heads;
    gqa.kv_heads = kv_heads;
    gqa.head_dim = head_dim;
    gqa.rotary_dim = rotary_dim;
    gqa.scale = scale;
}

void set_mla(Layer& layer, const OwnedMatrix* q, const OwnedMatrix* q_a, uintptr_t q_a_bias, uintptr_t q_a_norm,
             const OwnedMatrix* kv_a, uintptr_t kv_a_bias, uintptr_t kv_a_norm, const OwnedMatrix* o, uintptr_t o_bias,
             const MlaWeights& mla, float scale, float latent_eps) {
    layer.is_mla = true;
    layer.mla.q = weights(q, 0);
    layer.mla.q_a = weights(q_a, q_a_bias);
    layer.mla.q_a_norm = at<const float>(q_a_norm);
    layer.mla.kv_a = weights(kv_a, kv_a_bias);
    layer.mla.kv_a_norm = at<const float>(kv_a_norm);
    layer.mla.o = weights(o, o_bias);
    layer.mla.weights = mla;
    layer.mla.scale = scale;
    layer.mla.latent_eps = latent_eps;
}

DenseLayer dense(const OwnedMatrix* gate, const OwnedMatrix* up, const OwnedMatrix* down) {
    return {matrix(gate), matrix(up), matrix(down)};
}

}  // namespace

void bind_program(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<Caches>(m, "Caches").def("__init__", [](Caches* self, const std::vector<std::tuple<uintptr_t, int64_t, uintptr_t, int64_t>>& layers,
                                                       bool bf16) { new (self) Caches(make_caches(layers, bf16)); });
    nb::class_<Layer>(m, "Layer")
        .def("__init__",
             [](Layer* self, uintptr_t input_norm, uintptr_t post_norm) {
                 new (self) Layer();
                 self->input_norm = at<const float>(input_norm);
                 self->post_norm = at<const float>(post_norm);
             })
        .def("set_gqa", &set_gqa, "qkvo"_a, "biases"_a, "q_norm"_a, "k_norm"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "rotary_dim"_a, "scale"_a)
        .def("set_mla", &set_mla, "q"_a.none(), "q_a"_a.none(), "q_a_bias"_a, "q_a_norm"_a, "kv_a"_a, "kv_a_bias"_a, "kv_a_norm"_a, "o"_a,
             "o_bias"_a, "weights"_a, "scale"_a, "latent_eps"_a)
        .def("set_dense", [](Layer& self, const OwnedMatrix* gate, const OwnedMatrix* up, const OwnedMatrix* down) { self.dense = dense(gate, up, down); })
        .def(
            "set_moe",
            [](Layer& self, const Router& router, ExpertSet* experts, const Expert* shared) {
                self.is_moe = true;
                self.moe = {router, experts, shared};
            },
            "router"_a, "experts"_a, "shared"_a.none());
    nb::class_<Program>(m, "Program")
        .def("__init__",
             [](Program* self, int hidden_size, int rotary_pairs, bool interleaved, float eps, uintptr_t norm) {
                 new (self) Program();
                 self->hidden_size = hidden_size;
                 self->rotary_pairs = rotary_pairs;
                 self->interleaved = interleaved;
                 self->eps = eps;
                 self->norm = at<const float>(norm);
             })
        .def("set_head", [](Program& self, const OwnedMatrix* head) { self.head = weights(head, 0); })
        .def("add_layer", [](Program& self, const Layer& layer) { self.layers.push_back(layer); })
        .def("add_mtp_layer",
             [](Program& self, const Layer& layer, uintptr_t enorm, uintptr_t hnorm, uintptr_t head_norm, const OwnedMatrix* eh_proj) {
                 self.mtp_layers.push_back({layer, at<const float>(enorm), at<const float>(hnorm), at<const float>(head_norm), weights(eh_proj, 0)});
             })
        .def("forward", &forward, nb::call_guard<nb::gil_scoped_release>())
        .def("mtp_forward", &mtp_forward, nb::call_guard<nb::gil_scoped_release>())
        .def("mtp_draft", &mtp_draft, nb::call_guard<nb::gil_scoped_release>())
        .def(
            "logits",
            [](Program& self, uintptr_t hidden, int64_t rows, uintptr_t out) {
                self.logits(machine(), at<const float>(hidden), rows, at<float>(out));
            },
            nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace deepground
