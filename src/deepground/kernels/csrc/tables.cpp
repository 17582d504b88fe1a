#include "kernels.h"

namespace deepground {

extern const Kernels kernels_generic;
#if defined(__x86_64__)
extern const Kernels kernels_avx2, kernels_avx512, kernels_avx512_bf16_emulated, kernels_amx_emulated;
#if defined(DEEPGROUND_X86_BF16)
extern const Kernels kernels_avx512_bf16, kernels_amx;
#endif
#elif defined(__aarch64__)
extern const Kernels kernels_neon;
#if defined(DEEPGROUND_ARM_BF16)
extern const Kernels kernels_neon_bf16;
#endif
#endif

const Kernels* kernels_for(Isa isa) {
    switch (isa) {
        case Isa::generic: return &kernels_generic;
#if defined(__x86_64__)
        case Isa::avx2: return &kernels_avx2;
        case Isa::avx512: return &kernels_avx512;
        case Isa::avx512_bf16_emulated: return &kernels_avx512_bf16_emulated;
        case Isa::amx_emulated: return &kernels_amx_emulated;
#if defined(DEEPGROUND_X86_BF16)
        case Isa::avx512_bf16: return &kernels_avx512_bf16;
        case Isa::amx: return &kernels_amx;
#endif
#elif defined(__aarch64__)
        case Isa::neon: return &kernels_neon;
#if defined(DEEPGROUND_ARM_BF16)
        case Isa::neon_bf16: return &kernels_neon_bf16;
#endif
#endif
        default: return nullptr;
    }
}

}  // namespace deepground
