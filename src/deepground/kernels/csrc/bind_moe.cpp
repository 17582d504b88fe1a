// Routers and experts, for Python.
#include <nanobind/stl/string.h>

#include <algorithm>
#include <stdexcept>

#include "bindings.h"
#include "moe.h"

namespace nb = nanobind;

namespace deepground {
namespace {

// Keeps the Python objects whose memory its experts use.
class BoundExperts : public ResidentExperts {
  public:
    explicit BoundExperts(const nb::list& experts) : ResidentExperts(unwrap(experts)), owners_(nb::tuple(experts)) {}

  private:
    static std::vector<Expert> unwrap(const nb::list& experts) {
        std::vector<Expert> unwrapped;
        for (nb::handle expert : experts) unwrapped.push_back(nb::cast<const Expert&>(expert));
        return unwrapped;
    }
    nb::object owners_;
};

void make_expert(Expert* self, const OwnedMatrix& gate, const OwnedMatrix& up, const OwnedMatrix& down) {
    const bool fits = gate.w.n == up.w.n && gate.w.k == up.w.k && down.w.k == gate.w.n && down.w.n == gate.w.k;
    if (!fits) throw std::invalid_argument("an expert needs gate and up of one shape (F, D), and down of the shape (D, F)");
    new (self) Expert{gate.w, up.w, down.w};
}

void make_router(Router* self, const OwnedMatrix& gate, int64_t top_k, int64_t groups, int64_t topk_groups, bool sigmoid,
                 bool top2_sum, bool normalize, float scaling, uintptr_t bias) {
    Router router{gate.w, top_k, groups, topk_groups, sigmoid, top2_sum, normalize, scaling, {}};
    if (bias != 0) router.bias.assign(at<float>(bias), at<float>(bias) + gate.w.n);
    router.check();
    new (self) Router(std::move(router));
}

void check_ids(const ExpertSet& experts, const int32_t* ids, int64_t count) {
    if (std::any_of(ids, ids + count, [&](int32_t id) { return id < 0 || id >= experts.size(); }))
        throw std::invalid_argument("an expert id lies outside 0 .. " + std::to_string(experts.size() - 1));
}

}  // namespace

void bind_moe(nb::module_& m) {
    nb::class_<Expert>(m, "Expert")
        .def("__init__", &make_expert, nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>());
    nb::class_<ExpertSet>(m, "ExpertSet").def("__len__", &ExpertSet::size);
    nb::class_<BoundExperts, ExpertSet>(m, "Experts").def(nb::init<const nb::list&>());
    nb::class_<Router>(m, "Router")
        .def("__init__", &make_router, nb::keep_alive<1, 2>(), nb::arg("gate"), nb::kw_only(), nb::arg("top_k"),
             nb::arg("groups"), nb::arg("topk_groups"), nb::arg("sigmoid"), nb::arg("top2_sum"), nb::arg("normalize"),
             nb::arg("scaling"), nb::arg("bias"));
    m.def(
        "route",
        [](const Router& router, uintptr_t x, int64_t ldx, int64_t rows, uintptr_t ids, uintptr_t weights) {
            route(machine(), router, at<float>(x), ldx, rows, at<int32_t>(ids), at<float>(weights));
        },
        nb::call_guard<nb::gil_scoped_release>());
    m.def(
        "moe_experts",
        [](ExpertSet& experts, const Expert* shared, uintptr_t x, int64_t ldx, int64_t rows, uintptr_t ids, uintptr_t weights,
           int64_t top_k, uintptr_t out, int64_t ldo, bool add) {
            check_ids(experts, at<int32_t>(ids), rows * top_k);
            moe_experts(machine(), experts, shared, at<float>(x), ldx, rows, at<int32_t>(ids), at<float>(weights), top_k,
                        at<float>(out), ldo, add);
        },
        nb::arg("experts"), nb::arg("shared").none(), nb::arg("x"), nb::arg("ldx"), nb::arg("rows"), nb::arg("ids"),
        nb::arg("weights"), nb::arg("top_k"), nb::arg("out"), nb::arg("ldo"), nb::arg("add"),
        nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace deepground
