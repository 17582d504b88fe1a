// Tests of the kernels without Python: for sanitizers, and for processors that are emulated.
//
//   kernel_tests [--trap] [--pool] [NAME ...]
//
// Tests the named instruction sets, or all that this machine supports. --pool tests the threads alone (for
// ThreadSanitizer). --trap runs the real kernels of sets that the processor lacks, instruction by
// instruction (trap.h), and compares them with the emulated ones, bit for bit.
#include <atomic>
#include <thread>

#include "check.h"
#include "self_test.h"
#include "trap.h"

namespace deepground::tests {

void test_pool() {
    for (int threads : {1, 2, 3}) {
        Pool pool(threads, {});
        const auto stress = [&](int64_t rounds) {
            for (int64_t round = 0; round < rounds; ++round) {
                std::atomic<int64_t> sum{0};
                const int64_t count = round % 23;
                pool.split(count, [&](int64_t begin, int64_t end, int) {
                    for (int64_t i = begin; i < end; ++i) sum += i + 1;
                });
                std::vector<int> hits(static_cast<size_t>(count));
                pool.share(count, 3, [&](int64_t begin, int64_t end, int) {
                    for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
                });
                std::atomic<int> runs{0};
                pool.run([&](int thread) {
                    static_cast<char*>(pool.scratch(thread, 64 + round))[round] = 1;
                    ++runs;
                });
                bool once = true;
                for (int hit : hits) once = once && hit == 1;
                if (sum != count * (count + 1) / 2 || !once || runs != threads) expect(false, "the pool lost work");
            }
            expect(true, "");
        };
        stress(500);
        if (threads == 1) continue;  // one thread has no lock: its caller computes
        std::thread other([&] { stress(300); });
        stress(300);
        other.join();
        std::this_thread::sleep_for(std::chrono::milliseconds(5));  // the workers sleep
        stress(10);
    }
}

void test_choice() {
    const auto all = [](Isa isa) { return !isa_emulated(isa); };
    const auto sound = [](Isa) { return std::string(); };
    const auto broken_tiles = [](Isa isa) { return isa == Isa::amx ? std::string("wrong") : std::string(); };
    const auto broken = [](Isa) { return std::string("wrong"); };
    expect(choose_isa(all, sound).isa == Isa::amx && choose_isa(all, sound).fallback_reason.empty(), "the best set is chosen");
    expect(choose_isa(all, broken_tiles).isa == Isa::avx512_bf16, "a set that fails its trial is passed over");
    expect(choose_isa(all, broken_tiles).fallback_reason == "amx: wrong", "and the reason is kept");
    expect(choose_isa(all, broken).isa == Isa::avx512, "sets that need no trial are left");
    expect(choose_isa([](Isa isa) { return isa == Isa::generic; }, sound).isa == Isa::generic, "generic is always there");
    for (Isa isa : kAllIsas) {
        if (kernels_for(isa) == nullptr) continue;
        const std::string wrong = self_test(isa);
        if (isa_supported(isa)) expect(wrong.empty(), std::string(isa_name(isa)) + ": " + wrong);
        else expect(wrong.find("signal") != std::string::npos, std::string(isa_name(isa)) + " is lacking and passes its trial: " + wrong);
    }
}

namespace {

void test_all(const Kernels& table) {
    test_linear(table);
    test_elementwise(table);
    test_attention(table);
    test_moe(table);
    std::printf("%s: %ld checks, %ld failed\n", isa_name(table.isa), tally().done, tally().failed);
}

void test_trapped(Isa real, Isa emulated) {
    if (kernels_for(real) == nullptr) return;
    const long before = trapped_instructions();
    test_layouts_agree(*kernels_for(real), *kernels_for(emulated));
    const long instructions = trapped_instructions() - before;
    if (!isa_supported(real)) expect(instructions > 0, std::string(isa_name(real)) + " uses none of its own instructions");
    std::printf("%s as compiled: %ld instructions carried out for it\n", isa_name(real), instructions);
}

bool wanted(Isa isa, const std::vector<std::string>& names) {
    if (names.empty()) return true;
    for (const std::string& name : names)
        if (name == isa_name(isa)) return true;
    return false;
}

}  // namespace
}  // namespace deepground::tests

int main(int argc, char** argv) {
    using namespace deepground;
    using namespace deepground::tests;
    std::vector<std::string> names;
    bool trap = false, pool_only = false;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument == "--trap") trap = true;
        else if (argument == "--pool") pool_only = true;
        else names.push_back(argument);
    }
    test_pool();
    if (!pool_only && names.empty()) test_choice();
    if (!pool_only)
        for (Isa isa : kAllIsas)
            if (isa_supported(isa) && wanted(isa, names)) test_all(*kernels_for(isa));
    if (trap && isa_supported(Isa::amx_emulated) && trap_illegal_instructions()) {
        test_trapped(Isa::avx512_bf16, Isa::avx512_bf16_emulated);
        test_trapped(Isa::amx, Isa::amx_emulated);
    }
    std::printf("%ld checks, %ld failed\n", tally().done, tally().failed);
    return tally().failed == 0 && tally().done > 0 ? 0 : 1;
}
