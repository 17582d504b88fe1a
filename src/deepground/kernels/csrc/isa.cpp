// CPUID, XGETBV and (for AMX) the kernel's permission; source: Intel SDM vol. 1 chapters 13 and 18,
// Linux Documentation/arch/x86/xstate.rst.
#include "isa.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace deepground {
namespace {

constexpr Isa kAll[] = {Isa::generic, Isa::neon, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx};

#if defined(__x86_64__)
struct Cpu {
    bool avx2 = false, avx512 = false, avx512_bf16 = false, amx = false;
};

unsigned long long enabled_state() {
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<unsigned long long>(high) << 32) | low;
}

bool bit(unsigned word, int index) { return (word >> index) & 1u; }

Cpu read_cpu() {
    Cpu cpu;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27)) return cpu;  // bit 27: XGETBV may be used
    const unsigned c1 = c;
    const unsigned long long state = enabled_state();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return cpu;
    const unsigned b7 = b, d7 = d;
    unsigned a71 = 0;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) a71 = a;
    const bool ymm = (state & 0x6) == 0x6, zmm = (state & 0xe6) == 0xe6;
    const bool tiles = (state & 0x60000) == 0x60000;
    cpu.avx2 = ymm && bit(c1, 12) && bit(c1, 29) && bit(b7, 5);  // FMA, F16C, AVX2
    cpu.avx512 = cpu.avx2 && zmm && bit(b7, 16) && bit(b7, 17) && bit(b7, 30) && bit(b7, 31);  // F, DQ, BW, VL
    cpu.avx512_bf16 = cpu.avx512 && bit(a71, 5);
    cpu.amx = cpu.avx512_bf16 && tiles && bit(d7, 24) && bit(d7, 22);
    if (cpu.amx) {
        constexpr int arch_req_xcomp_perm = 0x1023, tile_data = 18;
        cpu.amx = syscall(SYS_arch_prctl, arch_req_xcomp_perm, tile_data) == 0;
    }
    return cpu;
}

bool machine_has(Isa isa) {
    static const Cpu cpu = read_cpu();
    switch (isa) {
        case Isa::generic: return true;
        case Isa::neon: return false;
        case Isa::avx2: return cpu.avx2;
        case Isa::avx512: return cpu.avx512;
        case Isa::avx512_bf16: return cpu.avx512_bf16;
        case Isa::amx: return cpu.amx;
    }
    return false;
}
#elif defined(__aarch64__)
bool machine_has(Isa isa) { return isa == Isa::generic || isa == Isa::neon; }  // NEON is part of ARMv8-A
#else
bool machine_has(Isa isa) { return isa == Isa::generic; }
#endif

}  // namespace

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::generic: return "generic";
        case Isa::neon: return "neon";
        case Isa::avx2: return "avx2";
        case Isa::avx512: return "avx512";
        case Isa::avx512_bf16: return "avx512_bf16";
        case Isa::amx: return "amx";
    }
    return "unknown";
}

bool isa_supported(Isa isa) { return machine_has(isa) && kernels_for(isa) != nullptr; }

Isa best_isa() {
    Isa best = Isa::generic;
    for (Isa isa : kAll)
        if (isa_supported(isa)) best = isa;
    return best;
}

Isa isa_by_name(const char* name) {
    std::string supported;
    for (Isa isa : kAll) {
        if (!isa_supported(isa)) continue;
        if (std::strcmp(name, isa_name(isa)) == 0) return isa;
        supported += supported.empty() ? isa_name(isa) : std::string(", ") + isa_name(isa);
    }
    throw std::invalid_argument("DEEPGROUND_ISA is \"" + std::string(name) + "\", which this machine does not run; choose one of: " +
                                supported);
}

}  // namespace deepground
