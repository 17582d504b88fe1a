// Runs instructions that this processor lacks: an illegal AMX or AVX512_BF16 instruction is decoded and carried out in
// the signal handler, in plain C++. So the kernels of those sets are tested as compiled: their encodings, their
// registers and their tile configurations.
#pragma once

namespace deepground::tests {

// Installs the handler, for as long as the process lives. One thread may use it. False where it does not exist.
bool trap_illegal_instructions();

// Instructions carried out so far.
long trapped_instructions();

}  // namespace deepground::tests
