"""quantization_config: what is read, what is refused, and that what is written is read back."""

from __future__ import annotations

from typing import Any

import pytest

from deepground.errors import ConfigError, UnsupportedModelError
from deepground.model.config_fields import Fields
from deepground.model.quantization import (
    Quantization,
    check_quantization,
    compressed_tensors_config,
    deepseek_config,
)


def _check(settings: dict[str, Any]) -> Quantization | None:
    return check_quantization(Fields({"quantization_config": settings}))


def _group(**weights: Any) -> dict[str, Any]:
    """A compressed-tensors configuration with one group; MXFP4 unless changed."""
    settings = compressed_tensors_config([(["Linear"], "mxfp4")])
    settings["config_groups"]["group_0"]["weights"] = settings["config_groups"]["group_0"]["weights"] | weights
    return settings


def test_nothing_is_nothing() -> None:
    assert check_quantization(Fields({})) is None
    assert check_quantization(Fields({"quantization_config": None})) is None


def test_deepseek_layout() -> None:
    assert _check({"quant_method": "fp8", "weight_block_size": [64, 32]}) == Quantization(block=(64, 32))
    assert _check(deepseek_config(["lm_head"])) == Quantization(block=(128, 128))


def test_compressed_tensors_layout() -> None:
    both = compressed_tensors_config([(["re:.*experts.*"], "mxfp4"), (["Linear"], "fp8-ue8m0")], ignore=["lm_head"])
    assert both["format"] == "mixed-precision"
    assert _check(both) == Quantization(block=(128, 128), mxfp4=True)
    one = compressed_tensors_config([(["re:.*experts.*"], "mxfp4"), (["Linear"], "mxfp4")])
    assert one["format"] == "mxfp4-pack-quantized"
    assert _check(one) == Quantization(block=None, mxfp4=True)


def test_activations_quantised_on_the_fly_are_accepted() -> None:
    settings = _group()
    settings["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "dynamic": "local"}
    assert _check(settings) == Quantization(block=None, mxfp4=True)


def _with_group(**changes: Any) -> dict[str, Any]:
    settings = _group()
    settings["config_groups"]["group_0"] |= changes
    return settings


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"quant_method": "awq"}, r"quant_method is 'awq'.*known: fp8, compressed-tensors"),
    "integers": (_group(type="int"), r"group_0\.weights\..*\('int', 4, 'group'\).*implemented: MXFP4"),
    "groups of 16": (_group(group_size=16), "implemented: MXFP4 in groups of 32"),
    "a scale per channel": (_group(num_bits=8, strategy="channel"), r"\('float', 8, 'channel'\)"),
    "zero points": (_group(symmetric=False), "symmetric is false"),
    "no block": (_group(num_bits=8, strategy="block"), "block_structure is None"),
    "static activations": (_with_group(input_activations={"num_bits": 8, "dynamic": False}), "dynamic is false"),
    "output activations": (_with_group(output_activations={"num_bits": 8}), "output_activations is set"),
    "no weights": (_with_group(weights=None), r"group_0\.weights is missing"),
    "no groups": ({"quant_method": "compressed-tensors"}, "config_groups is missing or empty"),
    "empty groups": ({"quant_method": "compressed-tensors", "config_groups": {}}, "config_groups is missing or empty"),
    "cache": (_group() | {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme is set"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_implemented_is_refused_by_name(name: str) -> None:
    settings, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message):
        _check(settings)


def test_blocks_that_differ_are_refused() -> None:
    settings = compressed_tensors_config([(["a"], "fp8-ue8m0"), (["b"], "fp8-ue8m0")])
    other = dict(settings["config_groups"]["group_1"]["weights"], block_structure=[64, 64])
    settings["config_groups"]["group_1"] = settings["config_groups"]["group_1"] | {"weights": other}
    with pytest.raises(UnsupportedModelError, match="block_structure differs"):
        _check(settings)


@pytest.mark.parametrize("groups", [7, {"group_0": 3}, {"group_0": {"weights": [1]}}])
def test_nonsense_is_refused(groups: object) -> None:
    with pytest.raises(ConfigError, match=r"quantization_config\.config_groups"):
        _check({"quant_method": "compressed-tensors", "config_groups": groups})
