from __future__ import annotations

import pytest
import torch

from config_samples import REAL, TINY
from deepground.errors import OutOfMemoryError
from deepground.kernels.machine import Machine
from deepground.model import Decoder, available_memory, check_fits, choose_dtype, model_size
from deepground.model.families import read_config

GIB = 2**30


def _machine(*sets: str, gib: float) -> Machine:
    return Machine(
        cpu="a test processor",
        architecture="x86_64",
        instruction_sets=sets,
        cores=2,
        memory_total=int(gib * GIB),
        memory_available=int(gib * GIB),
    )


@pytest.mark.parametrize(
    ("name", "billions", "active"),
    [
        # The model cards' own figures.
        ("DeepSeek-V3", 671.0, 37.5),
        ("DeepSeek-V2-Lite", 15.7, 2.66),
        ("DeepSeek-R1-Distill-Qwen-1.5B", 1.78, 1.78),
        ("DeepSeek-R1-Distill-Llama-8B", 8.03, 8.03),
    ],
)
def test_counts_of_released_models(name: str, billions: float, active: float) -> None:
    size = model_size(read_config(REAL[name]), torch.bfloat16)
    assert size.parameters / 1e9 == pytest.approx(billions, rel=0.005)
    assert size.active_parameters / 1e9 == pytest.approx(active, rel=0.005)


def test_deepseek_v3_in_detail() -> None:
    config = read_config(REAL["DeepSeek-V3"])
    size = model_size(config, torch.bfloat16)
    # 14B on disk are 11.5B and the copies of embedding and head.
    assert size.mtp_parameters / 1e9 == pytest.approx(11.5, rel=0.01)
    # 576 values per token and layer: 61 layers, and the one of multi-token prediction.
    assert size.cache_bytes_per_token == 2 * 576 * 62
    assert model_size(config, torch.bfloat16, cache_dtype=torch.float32).cache_bytes_per_token == 4 * 576 * 62
    assert size.bytes_for_context(1000) - size.bytes_for_context(0) == 2 * 576 * 62 * 1000


def test_cache_of_v2_lite() -> None:
    assert model_size(read_config(REAL["DeepSeek-V2-Lite"]), torch.bfloat16).cache_bytes_per_token == 31_104


@pytest.mark.parametrize("family", TINY)
def test_bytes_are_those_of_the_decoder(family: str) -> None:
    config = read_config(TINY[family])
    decoder = Decoder(config)
    size = model_size(config, torch.float32)
    assert size.weight_bytes == sum(value.nbytes for value in decoder.state_dict().values())
    assert size.parameters + size.mtp_parameters == sum(value.numel() for value in decoder.state_dict().values())
    assert size.load_bytes > size.weight_bytes


def test_what_does_not_fit_is_refused_with_the_sizes() -> None:
    config = read_config(REAL["DeepSeek-R1-Distill-Llama-8B"])
    with pytest.raises(OutOfMemoryError, match=r"needs 32\.\d GiB .*4\.0 GiB are available: free memory"):
        check_fits(config, torch.float32, available=4 * GIB)
    with pytest.raises(OutOfMemoryError, match='dtype="bfloat16", which would fit'):
        check_fits(config, torch.float32, available=20 * GIB)
    check_fits(config, torch.float32, available=40 * GIB)


def test_automatic_format() -> None:
    config = read_config(REAL["DeepSeek-R1-Distill-Llama-8B"])
    amx = choose_dtype(config, machine=_machine("AVX-512", "AMX BF16", gib=64))
    assert (amx.dtype, amx.reason) == (torch.bfloat16, "bfloat16: the processor has instructions for it")
    roomy = choose_dtype(config, machine=_machine("AVX-512", gib=64))
    assert roomy.dtype == torch.float32
    assert "64.0 GiB available" in roomy.reason
    narrow = choose_dtype(config, machine=_machine("AVX-512", gib=24))
    assert narrow.dtype == torch.bfloat16
    assert "does not fit" in narrow.reason
    asked = choose_dtype(config, "float32", machine=_machine("AMX BF16", gib=1))
    assert asked.dtype == torch.float32
    assert choose_dtype(config, device="cuda").dtype == torch.bfloat16


def test_memory_of_this_machine_is_read() -> None:
    assert available_memory() > 0
