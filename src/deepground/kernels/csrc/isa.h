// Which instruction set the kernels use: found out once, at run time.
#pragma once

#include <string>

namespace deepground {

// Weakest first. `generic` is portable C++ for processors that have none of the others. The emulated ones run the
// kernels of avx512_bf16 and amx with those sets' own instructions worked out in plain AVX-512: for tests.
enum class Isa { generic, neon, neon_bf16, avx2, avx512, avx512_bf16, amx, avx512_bf16_emulated, amx_emulated };

constexpr Isa kAllIsas[] = {Isa::generic,     Isa::neon, Isa::neon_bf16,            Isa::avx2,        Isa::avx512,
                            Isa::avx512_bf16, Isa::amx,  Isa::avx512_bf16_emulated, Isa::amx_emulated};

const char* isa_name(Isa isa);

bool isa_emulated(Isa isa);

// Whether this processor and its operating system run the instruction set, and this library holds code for it.
bool isa_supported(Isa isa);

// A choice, and why a better one was passed over (empty: it was not).
struct IsaChoice {
    Isa isa;
    std::string fallback_reason;
};

// The best that `supported` has. Sets that few machines have are tried out first: where `trial` says what is wrong with
// one, the next weaker follows.
IsaChoice choose_isa(bool (*supported)(Isa), std::string (*trial)(Isa));

// The choice for this machine, made once.
const IsaChoice& best_isa();

// By name, as in the environment variable DEEPGROUND_ISA. Throws std::invalid_argument where the name is
// unknown or the machine lacks it; the message names those that would do.
Isa isa_by_name(const char* name);

}  // namespace deepground
