"""The native matrix product of this build by number format and rows, as a share of the machine's own limits.

    python benchmarks/linear_rows.py

One matrix of 8960 x 1536 (the feed-forward of R1-Distill-Qwen-1.5B), random weights, medians of up to 40 passes; the
share is of the arithmetic peak of the instruction set in use, measured just before. Run it on a quiet machine.
"""

from __future__ import annotations

import statistics
import time

import torch

from deepground.kernels import PackedMatrix, measure_limits, native_linear, pack_matrix

OUTPUTS, INPUTS = 8960, 1536
ROWS = (1, 2, 4, 8, 9, 12, 16, 32, 64, 512)


def matrices() -> dict[str, PackedMatrix]:
    """The same shape in each format."""
    dice = torch.Generator().manual_seed(0)
    plain = torch.randn(OUTPUTS, INPUTS, generator=dice)
    codes = torch.randint(0, 256, (OUTPUTS, INPUTS // 2), dtype=torch.uint8, generator=dice)
    exponents = torch.full((OUTPUTS, INPUTS // 32), 127, dtype=torch.uint8)
    return {
        "bf16": pack_matrix("bf16", plain.bfloat16()),
        "fp8": pack_matrix("fp8", plain.to(torch.float8_e4m3fn), torch.ones(OUTPUTS // 128, INPUTS // 128)),
        "mxfp4": pack_matrix("mxfp4", codes, exponents, columns=INPUTS),
    }


def seconds(matrix: PackedMatrix, rows: int) -> float:
    """Of one product."""
    x_TK = torch.randn(rows, INPUTS)
    native_linear(x_TK, matrix)
    passes = max(3, min(40, int(8e9 / (rows * OUTPUTS * INPUTS))))
    times = []
    for _ in range(passes):
        start = time.perf_counter()
        native_linear(x_TK, matrix)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Measure and print a table."""
    limits = measure_limits()
    print(f"{limits.instruction_set}, {limits.threads} threads, {limits.flops_per_s / 1e9:.0f} GFLOP/s")
    print(f"| rows | {' | '.join(map(str, ROWS))} |\n|---|{'---|' * len(ROWS)}")
    for name, matrix in matrices().items():
        shares = [2 * rows * OUTPUTS * INPUTS / seconds(matrix, rows) / limits.flops_per_s for rows in ROWS]
        print(f"| {name} | {' | '.join(f'{share:.0%}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    main()
