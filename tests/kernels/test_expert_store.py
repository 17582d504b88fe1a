"""Experts on disk give the same results, bit for bit, as the same experts in memory.

Legend: T tokens, D model width, F inner width, K experts per token; N rows, K columns of a weight.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepground.errors import OutOfMemoryError, WeightsError
from deepground.kernels import (
    DensePart,
    ExpertBank,
    ExpertStore,
    FilePlace,
    PackedFormat,
    PackedMatrix,
    StoredExpert,
    StoredMatrix,
    StreamedBank,
    pack_matrix,
    quantize_fp8_ue8m0,
    quantize_mxfp4,
    start_native,
    supported_isas,
)
from deepground.kernels.native import native_module

LAYERS, EXPERTS, WIDTH, INNER = 3, 6, 160, 70
FORMATS: list[PackedFormat] = ["f32", "bf16", "fp8", "mxfp4"]


@pytest.fixture(autouse=True)
def _started() -> None:
    start_native(2)


class Weights:
    """Random experts of some layers: packed in memory, and written to a file in odd order and at odd offsets."""

    def __init__(self, folder: Path, number_format: PackedFormat, scale_dtype: torch.dtype = torch.float32) -> None:
        self.path = folder / "experts.bin"
        self.bytes = bytearray(b"odd")
        self.format, self.scale_dtype = number_format, scale_dtype
        self.resident: list[ExpertBank] = []
        self.stored: list[list[StoredExpert]] = []
        generator = torch.Generator().manual_seed(0)
        for _ in range(LAYERS):
            packed, stored = [], []
            for _ in range(EXPERTS):
                shapes = {"gate": (INNER, WIDTH), "up": (INNER, WIDTH), "down": (WIDTH, INNER)}
                pairs = {name: self._add(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}
                packed.append(DensePart(**{name: pair[0] for name, pair in pairs.items()}))
                stored.append(StoredExpert(**{name: pair[1] for name, pair in pairs.items()}))
            self.resident.append(ExpertBank(packed))
            self.stored.append(stored)
        self.path.write_bytes(self.bytes)

    def _add(self, weight_NK: Tensor) -> tuple[PackedMatrix, StoredMatrix]:
        shape = (weight_NK.shape[0], weight_NK.shape[1])
        if self.format in ("f32", "bf16"):
            codes = weight_NK if self.format == "f32" else weight_NK.bfloat16()
            stored = StoredMatrix(format=self.format, shape=shape, codes=self._write(codes))
            return pack_matrix(self.format, codes), stored
        if self.format == "fp8":
            codes, scales = quantize_fp8_ue8m0(weight_NK)
            written = scales.to(self.scale_dtype)
            kind = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float8_e8m0fnu: "e8m0"}[self.scale_dtype]
            packed = pack_matrix("fp8", codes, scales)
        else:
            codes, scales = quantize_mxfp4(weight_NK)
            written, kind = scales, "e8m0"
            packed = pack_matrix("mxfp4", codes, scales, columns=shape[1])
        place = self._write(written)  # scales before codes
        return packed, StoredMatrix(
            format=self.format,
            shape=shape,
            codes=self._write(codes),
            scales=place,
            scale_type=kind,  # type: ignore[arg-type]
            block_rows=128 if self.format == "fp8" else 0,
        )

    def _write(self, tensor: Tensor) -> FilePlace:
        place = FilePlace(path=self.path, offset=len(self.bytes))
        self.bytes += tensor.contiguous().view(torch.uint8).numpy().tobytes()
        return place

    def store(self, slots: float, **options: int) -> ExpertStore:
        one = ExpertStore(self.stored, budget_bytes=2**40).stats().slot_bytes
        return ExpertStore(self.stored, budget_bytes=int(slots * one), **options)


def run(bank: ExpertBank | StreamedBank, tokens: int, top_k: int, seed: int, experts: int = EXPERTS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x_TD = torch.randn(tokens, WIDTH, generator=generator)
    order = torch.rand(tokens, experts, generator=generator).argsort(1)
    ids_TK = order[:, :top_k].to(torch.int32).contiguous()
    weights_TK = torch.rand(tokens, top_k, generator=generator)
    out_TD = torch.full((tokens, WIDTH), float("nan"))
    addresses = (ids_TK.data_ptr(), weights_TK.data_ptr(), top_k, out_TD.data_ptr(), WIDTH, False)
    native_module().moe_experts(bank.handle, None, x_TD.data_ptr(), WIDTH, tokens, *addresses)
    return out_TD


@pytest.mark.parametrize("slots", [1, 2.5, 7, 100])
@pytest.mark.parametrize("number_format", FORMATS)
def test_streamed_experts_equal_resident_ones(tmp_path: Path, number_format: PackedFormat, slots: float) -> None:
    weights = Weights(tmp_path, number_format)
    store = weights.store(slots)
    for step, (tokens, top_k) in enumerate([(1, 2), (1, 2), (5, 3), (60, 6), (1, 1), (17, 2)]):
        for layer in range(LAYERS):
            wanted_TD = run(weights.resident[layer], tokens, top_k, seed=step)
            assert torch.equal(run(store.banks[layer], tokens, top_k, seed=step), wanted_TD)
    stats = store.stats()
    uses = stats.hits + stats.misses
    assert stats.slots == min(int(slots), LAYERS * EXPERTS)
    assert 0 < stats.slots_used <= stats.slots
    assert uses > LAYERS * EXPERTS
    if slots == 100:
        assert stats.misses == LAYERS * EXPERTS, "each expert is read once where all fit"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
def test_fp8_scales_in_every_stored_type(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = Weights(tmp_path, "fp8", dtype)
    assert torch.equal(run(weights.store(4).banks[1], 20, 3, seed=1), run(weights.resident[1], 20, 3, seed=1))


@pytest.mark.parametrize("isa", supported_isas())
def test_every_instruction_set(tmp_path: Path, isa: str) -> None:
    start_native(2, isa=isa)
    for number_format in FORMATS:
        weights = Weights(tmp_path, number_format)
        assert torch.equal(run(weights.store(3).banks[2], 9, 4, seed=2), run(weights.resident[2], 9, 4, seed=2))


def test_a_shared_expert_is_added_last_whether_or_not_the_others_arrive_together(tmp_path: Path) -> None:
    weights = Weights(tmp_path, "bf16")
    part = weights.resident[0]._kept[0]
    shared = native_module().Expert(part.gate.handle, part.up.handle, part.down.handle)
    x_TD = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))
    ids_TK = torch.tensor([[0, 3, 5]] * 4, dtype=torch.int32)
    weights_TK = torch.rand(4, 3, generator=torch.Generator().manual_seed(2))
    outs = []
    for bank in (weights.resident[1], weights.store(1).banks[1], weights.store(100).banks[1]):
        for add in (False, True):
            out_TD = torch.ones(4, WIDTH)
            addresses = (ids_TK.data_ptr(), weights_TK.data_ptr(), 3, out_TD.data_ptr(), WIDTH, add)
            native_module().moe_experts(bank.handle, shared, x_TD.data_ptr(), WIDTH, 4, *addresses)
            outs.append(out_TD)
    assert not torch.equal(outs[0], outs[1])
    for plain, added in zip(outs[2::2], outs[3::2], strict=True):
        assert torch.equal(plain, outs[0])
        assert torch.equal(added, outs[1])


def test_what_is_used_often_stays_in_memory(tmp_path: Path) -> None:
    """Where the least recently used expert were dropped, six others passing through four slots would drop all."""
    store = Weights(tmp_path, "bf16").store(4)
    for step in range(10):
        run(store.banks[0], 1, 2, seed=step, experts=2)  # experts 0 and 1, always
    for layer in (1, 2):
        for experts in (2, 4, 6):
            run(store.banks[layer], 1, 2, seed=experts, experts=experts)
    before = store.stats()
    run(store.banks[0], 1, 2, seed=0, experts=2)
    assert before.misses >= 2 + 6
    assert store.stats().misses == before.misses
    assert store.stats().hits == before.hits + 2
    assert store.stats().hit_rate == store.stats().hits / (store.stats().hits + store.stats().misses)


def test_a_file_truncated_at_the_start_is_refused(tmp_path: Path) -> None:
    weights = Weights(tmp_path, "fp8")
    os.truncate(weights.path, len(weights.bytes) - 1)
    with pytest.raises(WeightsError, match=r"experts\.bin is truncated"):
        weights.store(2)


@pytest.mark.parametrize("number_format", FORMATS)
def test_a_file_truncated_in_use_is_an_error_and_no_garbage(tmp_path: Path, number_format: PackedFormat) -> None:
    weights = Weights(tmp_path, number_format)
    store = weights.store(4)
    run(store.banks[0], 1, 2, seed=0)
    os.truncate(weights.path, len(weights.bytes) // 4)
    with pytest.raises(WeightsError, match=r"experts\.bin was (truncated|changed) while it was in use; restore it"):
        run(store.banks[2], 4, 6, seed=0)
    with pytest.raises(WeightsError, match=r"experts\.bin was"):
        run(store.banks[2], 4, 6, seed=0)


def test_after_a_failed_read_the_store_goes_on(tmp_path: Path) -> None:
    weights = Weights(tmp_path, "bf16")
    store = weights.store(3)
    time_ns = weights.path.stat().st_mtime_ns
    os.utime(weights.path, ns=(time_ns, time_ns + 1))
    for _ in range(5):
        with pytest.raises(WeightsError, match="was changed while it was in use"):
            run(store.banks[0], 3, 6, seed=0)
    os.utime(weights.path, ns=(time_ns, time_ns))
    for layer in range(LAYERS):
        assert torch.equal(run(store.banks[layer], 30, 6, seed=4), run(weights.resident[layer], 30, 6, seed=4))


def test_a_file_that_is_replaced_stays_the_old_one(tmp_path: Path) -> None:
    """Tools that write anew and rename do not disturb what is open."""
    weights = Weights(tmp_path, "bf16")
    store = weights.store(2)
    other = tmp_path / "other"
    other.write_bytes(bytes(len(weights.bytes)))
    other.replace(weights.path)
    assert torch.equal(run(store.banks[1], 3, 4, seed=1), run(weights.resident[1], 3, 4, seed=1))


@pytest.mark.parametrize(
    ("number_format", "part", "value"), [("fp8", "codes", 0x7F), ("fp8", "scales", 0xFF), ("mxfp4", "scales", 0xFF)]
)
def test_damaged_values_are_refused(tmp_path: Path, number_format: PackedFormat, part: str, value: int) -> None:
    weights = Weights(tmp_path, number_format, torch.float8_e8m0fnu)
    place = getattr(weights.stored[1][2].down, part)
    weights.bytes[place.offset + 1] = value
    weights.path.write_bytes(weights.bytes)
    store = weights.store(3)
    with pytest.raises(WeightsError, match=r"experts\.bin holds NaN"):
        run(store.banks[1], 20, 6, seed=0)
    assert torch.equal(run(store.banks[0], 20, 6, seed=0), run(weights.resident[0], 20, 6, seed=0))


def test_a_missing_file_and_too_little_memory_are_named(tmp_path: Path) -> None:
    weights = Weights(tmp_path, "bf16")
    with pytest.raises(OutOfMemoryError, match=r"less than the \d+ of one expert; raise the memory limit"):
        weights.store(0.9)
    weights.path.unlink()
    with pytest.raises(WeightsError, match=r"experts\.bin cannot be opened \(No such file"):
        ExpertStore(weights.stored, budget_bytes=2**30)


def test_descriptions_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    weights = Weights(tmp_path, "fp8")
    expert = weights.stored[0][0]
    for wrong in (
        replace(expert.gate, block_rows=48),
        replace(expert.gate, scale_type="none"),
        replace(expert.gate, shape=(0, WIDTH)),
        replace(expert.gate, codes=replace(expert.gate.codes, offset=-1)),
    ):
        with pytest.raises(ValueError, match="FP8|makes no sense"):
            ExpertStore([[replace(expert, gate=wrong)]], budget_bytes=2**30)
    with pytest.raises(ValueError, match="same shape"):
        ExpertStore([[replace(expert, up=replace(expert.up, shape=(INNER - 2, WIDTH)))]], budget_bytes=2**30)


@pytest.mark.parametrize("io_threads", [1, 7])
def test_many_callers_at_once(tmp_path: Path, io_threads: int) -> None:
    weights = Weights(tmp_path, "mxfp4")
    store = weights.store(3, io_threads=io_threads)
    wanted = {(layer, seed): run(weights.resident[layer], 3, 3, seed) for layer in range(LAYERS) for seed in range(8)}

    def check(caller: int) -> None:
        for seed in range(8):
            layer = (seed + caller) % LAYERS
            assert torch.equal(run(store.banks[layer], 3, 3, seed), wanted[layer, seed])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(check, range(4)))


def test_closing_while_reads_are_queued_does_not_hang(tmp_path: Path) -> None:
    weights = Weights(tmp_path, "bf16")
    for _ in range(20):
        store = weights.store(EXPERTS, io_threads=2)
        time_ns = weights.path.stat().st_mtime_ns
        os.utime(weights.path, ns=(time_ns, time_ns + 1))
        with pytest.raises(WeightsError):
            run(store.banks[0], 2, 6, seed=0)  # gives up at the first failure, with others on their way
        os.utime(weights.path, ns=(time_ns, time_ns))
        del store
