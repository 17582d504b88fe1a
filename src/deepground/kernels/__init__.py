"""The door to the hardware: what the upper rooms compute with."""

from deepground.kernels.quant import dequantize_fp8_blocks, fake_quantize_activations, quantize_fp8_ue8m0
from deepground.kernels.reference import apply_rope, attention, linear, moe_experts, rms_norm, swiglu

__all__ = [
    "apply_rope",
    "attention",
    "dequantize_fp8_blocks",
    "fake_quantize_activations",
    "linear",
    "moe_experts",
    "quantize_fp8_ue8m0",
    "rms_norm",
    "swiglu",
]
