// CPUID, XGETBV and (for AMX) the kernel's permission; source: Intel SDM vol. 1 chapters 13 and 18 and vol. 2
// CPUID (leaves 1, 7 and 1DH), Linux Documentation/arch/x86/xstate.rst. On ARM the operating system is asked; source:
// Linux Documentation/arch/arm64/elf_hwcaps.rst, Apple's "Determining instruction set characteristics".
#include "isa.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"
#include "self_test.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace deepground {
namespace {

#if defined(__x86_64__)
struct Cpu {
    bool avx2 = false, avx512 = false, avx512_vbmi = false, avx512_bf16 = false, amx = false;
};

unsigned long long enabled_state() {
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<unsigned long long>(high) << 32) | low;
}

bool bit(unsigned word, int index) { return (word >> index) & 1u; }

// Eight tiles of 16 rows of 64 bytes, as the kernels configure them.
bool has_tile_palette() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(0x1d, 1, &a, &b, &c, &d)) return false;
    return (a >> 16) >= 1024 && (b & 0xffff) >= 64 && (b >> 16) >= 8 && (c & 0xffff) >= 16;
}

bool may_use_tiles() {
#if defined(__linux__)
    constexpr int arch_req_xcomp_perm = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, arch_req_xcomp_perm, tile_data) == 0;
#else
    return false;
#endif
}

Cpu read_cpu() {
    Cpu cpu;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27)) return cpu;  // bit 27: XGETBV may be used
    const unsigned c1 = c;
    const unsigned long long state = enabled_state();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return cpu;
    const unsigned b7 = b, c7 = c, d7 = d;
    unsigned a71 = 0;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) a71 = a;
    // The operating system saves these registers; a virtual machine may hide them from it although CPUID shows the set.
    const bool ymm = (state & 0x6) == 0x6, zmm = (state & 0xe6) == 0xe6, tiles = (state & 0x60000) == 0x60000;
    cpu.avx2 = ymm && bit(c1, 12) && bit(c1, 28) && bit(c1, 29) && bit(b7, 5);  // FMA, AVX, F16C, AVX2
    cpu.avx512 = cpu.avx2 && zmm && bit(b7, 16) && bit(b7, 17) && bit(b7, 30) && bit(b7, 31);  // F, DQ, BW, VL
    cpu.avx512_vbmi = cpu.avx512 && bit(c7, 1);
    cpu.avx512_bf16 = cpu.avx512_vbmi && bit(a71, 5);
    cpu.amx = cpu.avx512_bf16 && tiles && bit(d7, 22) && bit(d7, 24) && has_tile_palette() && may_use_tiles();  // BF16, TILE
    return cpu;
}

bool machine_has(Isa isa) {
    static const Cpu cpu = read_cpu();
    switch (isa) {
        case Isa::generic: return true;
        case Isa::neon:
        case Isa::neon_bf16: return false;
        case Isa::avx2: return cpu.avx2;
        case Isa::avx512: return cpu.avx512;
        case Isa::avx512_bf16: return cpu.avx512_bf16;
        case Isa::amx: return cpu.amx;
        case Isa::avx512_bf16_emulated:
        case Isa::amx_emulated: return cpu.avx512_vbmi;
    }
    return false;
}
#elif defined(__aarch64__)
bool has_bf16() {
#if defined(__linux__)
    constexpr unsigned long bf16 = 1ul << 14;  // HWCAP2_BF16
    return (getauxval(AT_HWCAP2) & bf16) != 0;
#elif defined(__APPLE__)
    int present = 0;
    size_t size = sizeof present;
    return sysctlbyname("hw.optional.arm.FEAT_BF16", &present, &size, nullptr, 0) == 0 && present != 0;
#else
    return false;
#endif
}

bool machine_has(Isa isa) {
    static const bool bf16 = has_bf16();
    return isa == Isa::generic || isa == Isa::neon || (isa == Isa::neon_bf16 && bf16);  // NEON is part of ARMv8-A
}
#else
bool machine_has(Isa isa) { return isa == Isa::generic; }
#endif

}  // namespace

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::generic: return "generic";
        case Isa::neon: return "neon";
        case Isa::neon_bf16: return "neon_bf16";
        case Isa::avx2: return "avx2";
        case Isa::avx512: return "avx512";
        case Isa::avx512_bf16: return "avx512_bf16";
        case Isa::amx: return "amx";
        case Isa::avx512_bf16_emulated: return "avx512_bf16_emulated";
        case Isa::amx_emulated: return "amx_emulated";
    }
    return "unknown";
}

bool isa_emulated(Isa isa) { return isa == Isa::avx512_bf16_emulated || isa == Isa::amx_emulated; }

bool isa_supported(Isa isa) { return machine_has(isa) && kernels_for(isa) != nullptr; }

IsaChoice choose_isa(bool (*supported)(Isa), std::string (*trial)(Isa)) {
    std::string reasons;
    for (Isa isa : {Isa::amx, Isa::avx512_bf16, Isa::neon_bf16}) {
        if (!supported(isa)) continue;
        const std::string wrong = trial(isa);
        if (wrong.empty()) return {isa, reasons};
        reasons += (reasons.empty() ? "" : "; ") + std::string(isa_name(isa)) + ": " + wrong;
    }
    for (Isa isa : {Isa::avx512, Isa::avx2, Isa::neon})
        if (supported(isa)) return {isa, reasons};
    return {Isa::generic, reasons};
}

const IsaChoice& best_isa() {
    static const IsaChoice choice = choose_isa(isa_supported, self_test);
    return choice;
}

Isa isa_by_name(const char* name) {
    std::string supported;
    for (Isa isa : kAllIsas) {
        if (!isa_supported(isa)) continue;
        if (std::strcmp(name, isa_name(isa)) == 0) return isa;
        if (isa_emulated(isa)) continue;
        supported += supported.empty() ? isa_name(isa) : std::string(", ") + isa_name(isa);
    }
    throw std::invalid_argument("DEEPGROUND_ISA is \"" + std::string(name) + "\", which this machine does not run; choose one of: " +
                                supported);
}

}  // namespace deepground
