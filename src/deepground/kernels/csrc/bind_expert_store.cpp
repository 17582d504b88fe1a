// Experts on disk, for Python.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <tuple>

#include <nanobind/stl/tuple.h>

#include "bindings.h"
#include "expert_store.h"

namespace nb = nanobind;

namespace deepground {
namespace {

ScaleType scale_type_by_name(const std::string& name) {
    if (name == "none") return ScaleType::none;
    if (name == "f32") return ScaleType::f32;
    if (name == "bf16") return ScaleType::bf16;
    if (name == "e8m0") return ScaleType::e8m0;
    throw std::invalid_argument("unknown scale type " + name);
}

using Place = std::tuple<int, int64_t>;  // file, offset in bytes
using Parts = std::tuple<StoredMatrix, StoredMatrix, StoredMatrix>;

std::shared_ptr<ExpertStore> make_store(const std::vector<std::string>& paths, const std::vector<std::vector<Parts>>& layers,
                                        int64_t budget, int threads) {
    std::vector<std::vector<StoredExpert>> stored;
    for (const auto& layer : layers) {
        std::vector<StoredExpert>& experts = stored.emplace_back();
        for (const auto& [gate, up, down] : layer) experts.push_back({{gate, up, down}});
    }
    return std::make_shared<ExpertStore>(paths, std::move(stored), budget, threads, machine().kernels->linear.pairs);
}

}  // namespace

void bind_expert_store(nb::module_& m) {
    const nb::object errors = nb::module_::import_("deepground.errors");
    nb::exception<ExpertReadError>(m, "ExpertReadError", errors.attr("WeightsError"));
    nb::class_<StoredMatrix>(m, "StoredMatrix")
        .def(
            "__init__",
            [](StoredMatrix* self, const std::string& format, int64_t n, int64_t k, const Place& codes, const Place& scales,
               const std::string& scale_type, int64_t block_n) {
                new (self) StoredMatrix{format_by_name(format), n, k, std::get<0>(codes), std::get<1>(codes), std::get<0>(scales),
                                        std::get<1>(scales), scale_type_by_name(scale_type), block_n};
            },
            nb::arg("format"), nb::arg("n"), nb::arg("k"), nb::arg("codes"), nb::arg("scales"), nb::arg("scale_type"),
            nb::arg("block_n"));
    nb::class_<StoreStats>(m, "StoreStats")
        .def_ro("hits", &StoreStats::hits)
        .def_ro("misses", &StoreStats::misses)
        .def_ro("bytes_read", &StoreStats::bytes_read)
        .def_ro("wait_seconds", &StoreStats::wait_seconds)
        .def_ro("slots", &StoreStats::slots)
        .def_ro("slots_used", &StoreStats::slots_used)
        .def_ro("slot_bytes", &StoreStats::slot_bytes);
    nb::class_<ExpertStore>(m, "ExpertStore")
        .def(nb::new_(&make_store), nb::arg("paths"), nb::arg("layers"), nb::arg("budget"), nb::arg("threads"))
        .def("stats", &ExpertStore::stats, nb::call_guard<nb::gil_scoped_release>());
    nb::class_<StreamedExperts, ExpertSet>(m, "StreamedExperts")
        .def(nb::init<std::shared_ptr<ExpertStore>, int64_t>(), nb::arg("store"), nb::arg("layer"));
}

}  // namespace deepground
