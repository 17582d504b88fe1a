// Whether an instruction set that CPUID shows does what it should: virtual machines, emulators and operating systems
// have been seen that show one and fault on its first use.
#pragma once

#include <string>

#include "isa.h"

namespace deepground {

// Runs small products with the set's kernels in a child process, and compares them with plain C++. Takes a few
// milliseconds. Returns what went wrong, or nothing.
std::string self_test(Isa isa);

}  // namespace deepground
