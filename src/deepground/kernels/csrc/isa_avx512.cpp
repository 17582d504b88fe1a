#include "kernels.h"

#include "simd/avx512.h"

#include "impl/elementwise.inl"
#include "impl/linear.inl"

namespace deepground {
extern const Kernels kernels_avx512;
const Kernels kernels_avx512 = {
    Isa::avx512,
    kLanes,
    {false, linear_scratch_bytes, linear, unpack},
    {rms_norm, silu_mul, add_scaled, rope, float_to_bf16, bf16_to_float, read_sum, peak_flops},
    nullptr,
};
}  // namespace deepground
