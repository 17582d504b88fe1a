#include "attention_task.h"
#include "kernels.h"

#include "simd/avx512.h"

#include "impl/elementwise.inl"
#include "impl/linear.inl"
#include "impl/attention.inl"

namespace deepground {
extern const Kernels kernels_avx512;
const Kernels kernels_avx512 = {
    Isa::avx512,
    kLanes,
    {false, linear_scratch_bytes, linear, unpack},
    {rms_norm, silu_mul, add_scaled, rope, float_to_bf16, bf16_to_float, most_likely, block_maxima, block_weights, read_sum, peak_flops},
    &kAttention,
};
}  // namespace deepground
