"""Instruction sets: the choice, the forced ones, linear maps on each, and the kernels' own tests.

Legend: T tokens, N outputs, K inputs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepground.errors import EngineError
from deepground.kernels import _native
from deepground.kernels.native import start_native

ROOT = Path(__file__).parents[2]
SUPPORTED = _native.supported()
EMULATED = _native.emulated()
HALF_PRECISION = {"avx512_bf16", "amx", *EMULATED}
"""They round activations to bfloat16."""

FORMATS = ("f32", "bf16", "fp8", "mxfp4")
E2M1 = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float64)


@pytest.fixture
def forced(request: pytest.FixtureRequest) -> Iterator[str]:
    """The kernels run on one instruction set; afterwards on the one that was in use before."""
    before = start_native()
    _native.start(request.param, 2, [])
    yield request.param
    _native.start(before.isa, before.threads, [])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pack(number_format: str, n: int, k: int, *, any_scale: bool = False) -> tuple[_native.Matrix, Tensor]:
    """A packed matrix of random codes, every FP8 and FP4 value among them, and what it holds, float64 (N, K)."""
    matrix = _native.Matrix(number_format, n, k)
    generator = torch.Generator().manual_seed(n * k)
    if number_format in ("f32", "bf16"):
        weight_NK = random(n, k).to(torch.float32 if number_format == "f32" else torch.bfloat16)
        matrix.pack(weight_NK.data_ptr(), k, 0, 0, 0)
        return matrix, weight_NK.double()
    if number_format == "fp8":
        codes_NK = torch.randint(0, 256, (n, k), dtype=torch.uint8, generator=generator)
        codes_NK[(codes_NK & 0x7F) == 0x7F] = 1
        exponent_hw = 8 * torch.rand(-(-n // 128), -(-k // 128), generator=generator) - 4
        scale_hw = torch.exp2(exponent_hw if any_scale else exponent_hw.round())
        matrix.pack(codes_NK.data_ptr(), k, scale_hw.data_ptr(), scale_hw.shape[1], 128)
        scale_NK = scale_hw.repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]
        return matrix, codes_NK.view(torch.float8_e4m3fn).double() * scale_NK
    codes_Nk = torch.randint(0, 256, (n, (k + 1) // 2), dtype=torch.uint8, generator=generator)
    biased_Nb = torch.randint(90, 160, (n, -(-k // 32)), dtype=torch.uint8, generator=generator)
    if any_scale:
        biased_Nb[:, 0] = 0  # 2^-127: beyond the exponents of scaled bfloat16 numbers
    matrix.pack(codes_Nk.data_ptr(), codes_Nk.shape[1], biased_Nb.data_ptr(), biased_Nb.shape[1], 0)
    nibbles_NK = torch.stack((codes_Nk & 15, codes_Nk >> 4), dim=-1).view(n, -1)[:, :k]
    scale_NK = torch.exp2(biased_Nb.double() - 127).repeat_interleave(32, 1)[:, :k]
    return matrix, E2M1[nibbles_NK.long()] * scale_NK


def linear(matrix: _native.Matrix, x_TK: Tensor) -> Tensor:
    out_TN = torch.full((x_TK.shape[0], matrix.n), torch.nan)
    _native.linear(matrix, x_TK.data_ptr(), x_TK.shape[1], x_TK.shape[0], out_TN.data_ptr(), matrix.n)
    return out_TN


def relative_error(out_TN: Tensor, x_TK: Tensor, weight_NK: Tensor) -> float:
    """The largest error as a share of the sum of the products' magnitudes."""
    exact_TN = x_TK.double() @ weight_NK.T
    size_TN = x_TK.double().abs() @ weight_NK.abs().T
    return float(((out_TN - exact_TN).abs() / (size_TN + 1e-30)).max())


@pytest.mark.parametrize("forced", [*SUPPORTED, *EMULATED], indirect=True)
@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (33, 77), (64, 256), (70, 1100)], ids=str)
@pytest.mark.parametrize("any_scale", [False, True])
def test_linear(forced: str, number_format: str, shape: tuple[int, int], any_scale: bool) -> None:
    """Right with one row and with many, and bit for bit the same: batches do not change results."""
    n, k = shape
    matrix, weight_NK = pack(number_format, n, k, any_scale=any_scale)
    x_TK = random(40, k, seed=1)
    exact_TK = x_TK.bfloat16().float()  # what sets that round activations see of x
    whole_TN = linear(matrix, exact_TK)
    assert relative_error(whole_TN, exact_TK, weight_NK) < 1e-6
    rounded = forced in HALF_PRECISION and number_format != "f32"
    if rounded:
        assert torch.equal(linear(matrix, x_TK), whole_TN)
    assert relative_error(linear(matrix, x_TK), x_TK, weight_NK) < (2**-8 if rounded else 1e-6)
    for rows in (1, 3, 9, 17, 33):
        assert torch.equal(linear(matrix, exact_TK[:rows].contiguous()), whole_TN[:rows])


@pytest.mark.parametrize("forced", [*SUPPORTED, *EMULATED], indirect=True)
@pytest.mark.parametrize("number_format", FORMATS)
def test_special_activations(forced: str, number_format: str) -> None:
    """Zeros, subnormal, huge and infinite activations, and NaN, stay within their row."""
    matrix, weight_NK = pack(number_format, 40, 96)
    x_TK = random(6, 96).bfloat16().float()
    x_TK[1] = 0
    x_TK[2] = 1e-40
    x_TK[3] *= 2.0**60
    x_TK[4, 5] = torch.inf
    x_TK[5, 7] = torch.nan
    out_TN = linear(matrix, x_TK)
    for row in (0, 3):
        assert relative_error(out_TN[row : row + 1], x_TK[row : row + 1], weight_NK) < 1e-6
    assert bool((out_TN[1] == 0).all())
    assert bool((out_TN[2].abs() < 1e-25).all())
    assert not bool(torch.isfinite(out_TN[4]).all())
    assert bool(torch.isnan(out_TN[5]).all())


def test_choice_is_the_strongest_sound_set() -> None:
    """The sets that few machines have are tried out; one that fails is passed over with its reason."""
    _native.start("", 1, [])
    assert _native.isa() in SUPPORTED
    assert (_native.isa() == SUPPORTED[-1]) == (_native.fallback_reason() == "")
    assert not set(SUPPORTED) & set(EMULATED)
    start_native()


@pytest.mark.parametrize("isa", [*SUPPORTED, *EMULATED])
def test_self_test_passes(isa: str) -> None:
    assert _native.self_test(isa) == ""


@pytest.mark.parametrize("isa", ["avx512_bf16", "amx"])
def test_self_test_survives_a_set_that_is_lacking(isa: str) -> None:
    """A processor that shows a set and faults on it ends the trial's child, not this process."""
    if isa in SUPPORTED:
        pytest.skip("this machine has it")
    outcome = _native.self_test(isa)
    assert "signal" in outcome or "no code" in outcome


@pytest.mark.parametrize("name", ["amx2", "AVX2", "neon" if "avx2" in SUPPORTED else "avx2"])
def test_unsupported_set_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="DEEPGROUND_ISA") as caught:
        _native.start(name, 1, [])
    assert name in str(caught.value)
    assert all(isa in str(caught.value) for isa in SUPPORTED)


@pytest.mark.parametrize("isa", SUPPORTED)
def test_environment_variable_forces_the_set(isa: str) -> None:
    code = "from deepground.kernels.native import start_native; print(start_native(threads=1).isa)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DEEPGROUND_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == isa


def test_environment_variable_with_a_set_that_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPGROUND_ISA", "sse9")
    with pytest.raises(EngineError, match="sse9"):
        start_native(threads=1)


def make(target: str, *needed: str) -> str:
    """Run a target of the Makefile; what it printed."""
    lacking = [tool for tool in ("make", *needed) if shutil.which(tool) is None]
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}")
    venv = Path(sys.prefix)
    done = subprocess.run(["make", target, f"VENV={venv}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " 0 failed" in done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kernels_without_python() -> None:
    """All sets against double loops; AMX and AVX512_BF16 code as compiled, on every processor with AVX-512."""
    printed = make("native-test", "c++")
    if "amx_emulated" in EMULATED:
        assert "amx as compiled" in printed
        assert "avx512_bf16 as compiled" in printed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kernels_under_address_and_undefined_behaviour_sanitizers() -> None:
    make("native-asan", "c++")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_threads_under_thread_sanitizer() -> None:
    make("native-tsan", "c++")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kernels_on_arm() -> None:
    printed = make("native-arm", "aarch64-linux-gnu-g++", "qemu-aarch64")
    assert "neon:" in printed
    assert "neon_bf16:" in printed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_instruction_leaves_its_set() -> None:
    """Wide registers only in the files of their set, and from those files nothing that the linker could share."""
    make("native-test", "c++", "objdump", "nm")
    objects = list((ROOT / "build" / "native-test").rglob("*.cpp.o"))
    assert any(path.name.startswith("isa_generic") for path in objects)
    for path in objects:
        code = subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", str(path)], capture_output=True, text=True, check=True
        ).stdout
        own = path.name.startswith("isa_") and not path.name.startswith("isa_generic")
        if not own:
            assert not any(register in code for register in ("%ymm", "%zmm", "%tmm", "%k1")), path.name
            continue
        symbols = subprocess.run(["nm", "--defined-only", str(path)], capture_output=True, text=True, check=True).stdout
        assert not [line for line in symbols.splitlines() if line.split()[1] in "WVu"], path.name
        assert ("tdpbf16ps" in code and "ldtilecfg" in code) == (path.name == "isa_amx.cpp.o"), path.name
        with_products = (
            "isa_avx512_bf16.cpp.o",
            "isa_amx.cpp.o",
        )  # the second set is chosen only where there is the first
        assert ("vdpbf16ps" in code) == (path.name in with_products), path.name
