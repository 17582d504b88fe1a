"""What the machine can do: plausible here, and right for other machines' files."""

from __future__ import annotations

from deepground.kernels import Machine, measure_matmul_rate, measure_memory_bandwidth, read_machine


def test_this_machine_is_plausible() -> None:
    machine = read_machine()
    assert machine.cores >= 1
    assert 0 <= machine.memory_available <= machine.memory_total
    assert machine.architecture
    assert len(machine.instruction_sets) == len(set(machine.instruction_sets))


def test_bf16_needs_its_own_instructions() -> None:
    def machine(*sets: str) -> Machine:
        return Machine(
            cpu="x", architecture="x86_64", instruction_sets=sets, cores=1, memory_total=1, memory_available=1
        )

    assert not machine("AVX2", "AVX-512", "AVX-512 VNNI").has_bf16
    assert machine("AVX-512", "AVX-512 BF16").has_bf16
    assert machine("AMX", "AMX BF16").has_bf16
    assert machine("NEON", "BF16").has_bf16


def test_measured_limits_are_physical() -> None:
    """Between a slow board and the fastest server there is: catches errors of units, not of speed."""
    assert 2e8 < measure_memory_bandwidth(megabytes=64, repeats=1) < 5e12
    assert 1e8 < measure_matmul_rate(size=256, repeats=2) < 1e15
