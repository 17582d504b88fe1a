// Which instruction set the kernels use: found out once, at run time.
#pragma once

namespace deepground {

// Weakest first. `generic` is portable C++ for processors that have none of the others.
enum class Isa { generic, neon, avx2, avx512, avx512_bf16, amx };

const char* isa_name(Isa isa);

// Whether this processor and its operating system run the instruction set, and this library holds code for it.
bool isa_supported(Isa isa);

// The best supported one.
Isa best_isa();

// By name, as in the environment variable DEEPGROUND_ISA. Throws std::invalid_argument where the name is
// unknown or the machine lacks it; the message names those that would do.
Isa isa_by_name(const char* name);

}  // namespace deepground
