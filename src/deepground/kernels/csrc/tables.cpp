#include "kernels.h"

namespace deepground {

extern const Kernels kernels_generic;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

const Kernels* kernels_for(Isa isa) {
    switch (isa) {
        case Isa::generic: return &kernels_generic;
#if defined(__x86_64__)
        case Isa::avx2: return &kernels_avx2;
        case Isa::avx512: return &kernels_avx512;
#endif
        default: return nullptr;
    }
}

}  // namespace deepground
