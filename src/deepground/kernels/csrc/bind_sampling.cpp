// Drawing tokens, for Python (kernels/sampling.py).
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>
#include <vector>

#include "bindings.h"
#include "sampling.h"

namespace nb = nanobind;

namespace deepground {
namespace {

// Row, temperature, top-k, top-p, min-p, number.
using Fields = std::tuple<int64_t, float, int64_t, double, double, double>;

std::vector<int64_t> draw(uintptr_t logits, int64_t vocab, const std::vector<Fields>& fields) {
    std::vector<DrawOrder> orders;
    for (const auto& [row, temperature, top_k, top_p, min_p, number] : fields)
        orders.push_back({row, temperature, top_k, top_p, min_p, number});
    std::vector<int64_t> ids(orders.size());
    draw_tokens(machine(), at<const float>(logits), vocab, orders.data(), static_cast<int64_t>(orders.size()), ids.data());
    return ids;
}

}  // namespace

void bind_sampling(nb::module_& m) { m.def("draw_tokens", &draw, nb::call_guard<nb::gil_scoped_release>()); }

}  // namespace deepground
