"""The native matrix product of this build by number format and rows, as a share of the machine's own limits.

    python benchmarks/linear_rows.py

24 matrices of 8960 x 1536 (the feed-forward of R1-Distill-Qwen-1.5B), one after the other, so that weights come from
memory as they do in a model; random weights, medians of seven rounds. GFLOP/s, and in brackets the share of the
arithmetic peak of the instruction set in use, measured just before. Run it on a quiet machine.
"""

from __future__ import annotations

import statistics
import time

import torch

from deepground.kernels import PackedMatrix, measure_limits, native_linear, pack_matrix

OUTPUTS, INPUTS, MATRICES = 8960, 1536, 24
ROWS = (1, 2, 4, 8, 9, 12, 16, 24, 32, 64, 512)


def matrix(name: str, dice: torch.Generator) -> PackedMatrix:
    """Random weights in a number format."""
    if name == "mxfp4":
        codes = torch.randint(0, 256, (OUTPUTS, INPUTS // 2), dtype=torch.uint8, generator=dice)
        return pack_matrix("mxfp4", codes, torch.full((OUTPUTS, INPUTS // 32), 127, dtype=torch.uint8), columns=INPUTS)
    plain = torch.randn(OUTPUTS, INPUTS, generator=dice)
    if name == "bf16":
        return pack_matrix("bf16", plain.bfloat16())
    return pack_matrix("fp8", plain.to(torch.float8_e4m3fn), torch.ones(OUTPUTS // 128, INPUTS // 128))


def seconds(matrices: list[PackedMatrix], rows: int) -> float:
    """Of one product."""
    x_TK = torch.randn(rows, INPUTS)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        for matrix in matrices:
            native_linear(x_TK, matrix)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) / len(matrices)


def main() -> None:
    """Measure and print a table."""
    limits, dice = measure_limits(), torch.Generator().manual_seed(0)
    print(f"{limits.instruction_set}, {limits.threads} threads, {limits.flops_per_s / 1e9:.0f} GFLOP/s")
    print(f"| rows | {' | '.join(map(str, ROWS))} |\n|---|{'---|' * len(ROWS)}")
    for name in ("bf16", "fp8", "mxfp4"):
        matrices = [matrix(name, dice) for _ in range(MATRICES)]
        speeds = [2 * rows * OUTPUTS * INPUTS / seconds(matrices, rows) for rows in ROWS]
        cells = (f"{speed / 1e9:.0f} ({speed / limits.flops_per_s:.0%})" for speed in speeds)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
