"""The machine's limits as measured."""

from __future__ import annotations

import pytest

from deepground.kernels import measure_limits, native_available, supported_isas


def test_limits_are_of_this_machine() -> None:
    """From a tenth of a slow core to more than any processor has: wrong units would show."""
    limits = measure_limits(1, megabytes=64)
    assert limits.threads == 1
    assert 1e8 < limits.read_bytes_per_s < 1e12
    assert 1e8 < limits.flops_per_s < 1e14


@pytest.mark.skipif(not native_available(), reason="the native kernels were not built")
def test_the_instruction_set_is_the_one_in_use() -> None:
    assert measure_limits(1, megabytes=16).instruction_set in supported_isas()
