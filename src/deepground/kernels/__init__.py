"""The door to the hardware: what the upper rooms compute with."""

from deepground.kernels.machine import (
    Machine,
    has_fast_bf16,
    measure_matmul_rate,
    measure_memory_bandwidth,
    read_machine,
)
from deepground.kernels.quant import dequantize_fp8_blocks, quantize_fp8_ue8m0
from deepground.kernels.reference import apply_rope, attention, linear, moe_experts, rms_norm, swiglu

__all__ = [
    "Machine",
    "apply_rope",
    "attention",
    "dequantize_fp8_blocks",
    "has_fast_bf16",
    "linear",
    "measure_matmul_rate",
    "measure_memory_bandwidth",
    "moe_experts",
    "quantize_fp8_ue8m0",
    "read_machine",
    "rms_norm",
    "swiglu",
]
