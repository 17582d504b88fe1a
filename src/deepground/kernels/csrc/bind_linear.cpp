// Packed matrices and linear maps, for Python.
#include <nanobind/stl/string.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "bindings.h"
#include "pack.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace nb = nanobind;

namespace deepground {
namespace {

void pack(OwnedMatrix& m, uintptr_t source, int64_t stride, uintptr_t scales, int64_t scale_stride, int64_t block_n) {
    std::atomic<bool> valid{true};
    machine().pool->split(m.w.panels(), [&](int64_t begin, int64_t end, int) {
        switch (m.w.format) {
            case Format::f32: pack_f32(m.w, at<float>(source), stride, begin, end); break;
            case Format::bf16: pack_bf16(m.w, at<uint16_t>(source), stride, begin, end); break;
            case Format::fp8:
                if (!pack_fp8(m.w, at<uint8_t>(source), stride, at<float>(scales), scale_stride, block_n, begin, end)) valid = false;
                break;
            case Format::mxfp4:
                pack_mxfp4(m.w, at<uint8_t>(source), stride, at<uint8_t>(scales), scale_stride, begin, end);
                break;
        }
    });
    if (!valid) throw std::invalid_argument("the FP8 tensor holds NaN");
}

// Large matrices ask for huge pages: with small ones, looking up addresses takes a tenth of the time of reading.
uint8_t* allocate(int64_t bytes) {
    constexpr int64_t kHugePage = 2 << 20;
    const bool huge = bytes >= kHugePage;
    void* memory = nullptr;
    if (posix_memalign(&memory, huge ? kHugePage : 64, static_cast<size_t>(bytes)) != 0) throw std::bad_alloc();
#if defined(__linux__)
    if (huge) madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // where it is refused, small pages do
#endif
    return static_cast<uint8_t*>(memory);
}

void linear_one(const OwnedMatrix& w, uintptr_t x, int64_t ldx, int64_t rows, uintptr_t out, int64_t ldo) {
    const LinearTask task{&w.w, at<float>(out), ldo};
    linear(machine(), &task, 1, at<float>(x), ldx, rows);
}

}  // namespace

Format format_by_name(const std::string& name) {
    if (name == "f32") return Format::f32;
    if (name == "bf16") return Format::bf16;
    if (name == "fp8") return Format::fp8;
    if (name == "mxfp4") return Format::mxfp4;
    throw std::invalid_argument("unknown format " + name);
}

OwnedMatrix::OwnedMatrix(const std::string& format, int64_t n, int64_t k) {
    const Format f = format_by_name(format);
    const bool pairs = machine().kernels->linear.pairs;
    bytes_ = packed_bytes(f, pairs, n, k);
    memory_ = allocate(bytes_);
    w = matrix_over(memory_, f, pairs, n, k);
}

OwnedMatrix::~OwnedMatrix() { std::free(memory_); }

void bind_linear(nb::module_& m) {
    nb::class_<OwnedMatrix>(m, "Matrix")
        .def(nb::init<const std::string&, int64_t, int64_t>())
        .def("pack", &pack, nb::call_guard<nb::gil_scoped_release>())
        .def("unpack_panel",
             [](const OwnedMatrix& self, int64_t panel, uintptr_t out) {
                 machine().kernels->linear.unpack(self.w, panel, at<float>(out));
             })
        .def_prop_ro("n", [](const OwnedMatrix& self) { return self.w.n; })
        .def_prop_ro("k", [](const OwnedMatrix& self) { return self.w.k; })
        .def_prop_ro("k_padded", [](const OwnedMatrix& self) { return self.w.k_padded; })
        .def_prop_ro("panels", [](const OwnedMatrix& self) { return self.w.panels(); })
        .def_prop_ro("nbytes", &OwnedMatrix::bytes);
    m.def("linear", &linear_one, nb::call_guard<nb::gil_scoped_release>());
    m.def(
        "gate_up",
        [](const OwnedMatrix& gate, const OwnedMatrix& up, uintptr_t x, int64_t ldx, int64_t rows, uintptr_t out, int64_t ldo) {
            gate_up(machine(), gate.w, up.w, at<float>(x), ldx, rows, at<float>(out), ldo);
        },
        nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace deepground
