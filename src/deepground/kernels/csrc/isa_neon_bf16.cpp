#include "attention_task.h"
#include "kernels.h"

#include "simd/neon.h"
#include "simd/neon_bf16.h"

#include "impl/elementwise.inl"
#include "impl/linear.inl"
#include "impl/pairs.inl"
#include "impl/attention.inl"

namespace deepground {
extern const Kernels kernels_neon_bf16;
const Kernels kernels_neon_bf16 = {
    Isa::neon_bf16,
    kLanes,
    {true, linear_pairs_scratch_bytes, linear_pairs, unpack_pairs},
    {rms_norm, silu_mul, add_scaled, rope, float_to_bf16, bf16_to_float, most_likely, block_maxima, block_weights, read_sum, peak_flops_pairs},
    &kAttention,
};
}  // namespace deepground
