// The extension module: start-up, and the parts of the other binding files.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <vector>

#include "bindings.h"
#include "self_test.h"

namespace nb = nanobind;

namespace deepground {
namespace {

// The instruction set and the threads in use; one for the process.
struct Runtime {
    Isa isa = Isa::generic;
    std::unique_ptr<Pool> pool;
};

Runtime& runtime() {
    static Runtime instance;
    return instance;
}

void start(const std::string& isa, int threads, const std::vector<int>& cpus) {
    Runtime& r = runtime();
    const Isa chosen = isa.empty() ? best_isa().isa : isa_by_name(isa.c_str());
    if (r.pool && chosen == r.isa && r.pool->threads() == threads) return;
    r.pool.reset();
    r.isa = chosen;
    r.pool = std::make_unique<Pool>(threads, cpus);
}

// Names of the sets that run here; the emulated ones are for tests.
std::vector<std::string> supported(bool emulated) {
    std::vector<std::string> names;
    for (Isa isa : kAllIsas)
        if (isa_supported(isa) && isa_emulated(isa) == emulated) names.emplace_back(isa_name(isa));
    return names;
}

// What is wrong with a set, of whatever machine; empty where it works. Unsupported ones are tried out too.
std::string self_test_by_name(const std::string& name) {
    for (Isa isa : kAllIsas)
        if (name == isa_name(isa)) return self_test(isa);
    throw std::invalid_argument("unknown instruction set " + name);
}

void read_bandwidth_pass(uintptr_t memory, int64_t words) {
    const Machine on = machine();
    on.pool->split(words / 64, [&](int64_t begin, int64_t end, int) {
        volatile uint64_t kept = on.kernels->elementwise.read_sum(at<uint64_t>(memory) + begin * 64, (end - begin) * 64);
        (void)kept;
    });
}

double peak_flops_pass(int64_t rounds) {
    const Machine on = machine();
    std::vector<double> flops(static_cast<size_t>(on.pool->threads()));
    on.pool->run([&](int thread) { flops[static_cast<size_t>(thread)] = on.kernels->elementwise.peak_flops(rounds); });
    double total = 0;
    for (double f : flops) total += f;
    return total;
}

}  // namespace

Machine machine() {
    Runtime& r = runtime();
    if (!r.pool) throw std::runtime_error("the native kernels are not started");
    return {kernels_for(r.isa), r.pool.get()};
}

}  // namespace deepground

NB_MODULE(_native, m) {
    using namespace deepground;
    nb::set_leak_warnings(false);  // a program may end with its decoder alive
    m.def("start", &start, nb::arg("isa"), nb::arg("threads"), nb::arg("cpus"));
    m.def("supported", [] { return supported(false); });
    m.def("emulated", [] { return supported(true); });
    m.def("fallback_reason", [] { return best_isa().fallback_reason; });
    m.def("self_test", &self_test_by_name);
    m.def("isa", [] { return std::string(isa_name(machine().kernels->isa)); });
    m.def("threads", [] { return machine().pool->threads(); });
    m.def("read_bandwidth_pass", &read_bandwidth_pass, nb::call_guard<nb::gil_scoped_release>());
    m.def("peak_flops_pass", &peak_flops_pass, nb::call_guard<nb::gil_scoped_release>());
    bind_linear(m);
    bind_attention(m);
    bind_moe(m);
    bind_expert_store(m);
    bind_program(m);
    bind_sampling(m);
}
