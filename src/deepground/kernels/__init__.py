"""The door to the hardware: what the upper rooms compute with."""

from deepground.kernels.reference import apply_rope, attention, linear, moe_experts, rms_norm, swiglu

__all__ = ["apply_rope", "attention", "linear", "moe_experts", "rms_norm", "swiglu"]
