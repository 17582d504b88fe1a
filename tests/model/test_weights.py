from __future__ import annotations

import re

import pytest
import torch

from config_samples import REAL, TINY
from deepground.errors import WeightsError
from deepground.model import Decoder
from deepground.model.config import ModelConfig
from deepground.model.families import read_config
from deepground.model.saving import checkpoint_tensors
from deepground.model.weights import has_mtp, match, parameters, tensors


def _config(family: str) -> ModelConfig:
    return read_config(TINY[family])


@pytest.mark.parametrize("raw", [*TINY.values(), *REAL.values()], ids=[*TINY, *REAL])
def test_the_table_lists_exactly_the_decoders_parameters(raw: dict[str, object]) -> None:
    config = read_config(raw)
    with torch.device("meta"):
        decoder = Decoder(config)
    ours = {name: tuple(value.shape) for name, value in decoder.state_dict().items()}
    assert {spec.name: spec.shape for spec in parameters(config)} == ours


@pytest.mark.parametrize("family", TINY)
def test_a_round_trip_through_checkpoint_names_is_bitwise(family: str) -> None:
    config = _config(family)
    decoder = Decoder(config)
    decoder.init_weights(3)
    file = dict(checkpoint_tensors(decoder, "float32"))
    restored = {name: torch.full_like(value, torch.nan) for name, value in decoder.state_dict().items()}
    for row in match(config, file):
        assert file[row.name].shape == row.shape
        target = restored[row.parameter]
        if row.expert is not None:
            target = target[row.expert]
        if row.rows is not None:
            target = target[row.rows[0] : row.rows[1]]
        if row.duplicate:
            assert torch.equal(target, file[row.name])
        target.copy_(file[row.name])
    for name, value in decoder.state_dict().items():
        assert torch.equal(restored[name], value), name


def test_deepseek_v3_names_and_shapes_as_released() -> None:
    shapes = {spec.name: spec.shape for spec in tensors(read_config(REAL["DeepSeek-V3"]))}
    released = {
        "model.layers.0.self_attn.q_a_proj.weight": (1536, 7168),
        "model.layers.0.self_attn.q_b_proj.weight": (24576, 1536),
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight": (576, 7168),
        "model.layers.0.self_attn.kv_b_proj.weight": (32768, 512),
        "model.layers.0.self_attn.o_proj.weight": (7168, 16384),
        "model.layers.2.mlp.down_proj.weight": (7168, 18432),
        "model.layers.3.mlp.gate.weight": (256, 7168),
        "model.layers.3.mlp.gate.e_score_correction_bias": (256,),
        "model.layers.60.mlp.experts.255.down_proj.weight": (7168, 2048),
        "model.layers.60.mlp.shared_experts.up_proj.weight": (2048, 7168),
        "model.layers.61.embed_tokens.weight": (129280, 7168),
        "model.layers.61.eh_proj.weight": (7168, 14336),
        "model.layers.61.shared_head.norm.weight": (7168,),
        "model.layers.61.shared_head.head.weight": (129280, 7168),
        "model.layers.61.mlp.experts.0.gate_proj.weight": (2048, 7168),
        "lm_head.weight": (129280, 7168),
    }
    assert {name: shapes[name] for name in released} == released


def test_deepseek_v32_has_as_many_tensors_as_released() -> None:
    indexer = {"model_type": "deepseek_v32", "index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048}
    rows = list(tensors(read_config({**REAL["DeepSeek-V3"], **indexer})))
    scales = [row for row in rows if row.role in ("matrix", "experts")]
    assert len(rows) + len(scales) == 92_425


def test_stacked_experts_are_accepted_as_transformers_holds_them() -> None:
    config = _config("qwen3_moe")
    names = {spec.name for spec in tensors(config)}
    stacked = {re.sub(r"experts\.\d+\.(gate|up)_proj\.weight", "experts.gate_up_proj", name) for name in names}
    stacked = {re.sub(r"experts\.\d+\.down_proj\.weight", "experts.down_proj", name) for name in stacked}
    rows = {row.name: row for row in match(config, stacked)}
    assert rows.keys() == stacked
    assert rows["model.layers.0.mlp.experts.gate_up_proj"].shape == (8, 32, 32)


def test_copies_of_embedding_and_head_may_be_absent() -> None:
    config = _config("deepseek_v3")
    names = {spec.name for spec in tensors(config) if not spec.duplicate}
    assert {row.name for row in match(config, names)} == names
    assert has_mtp(config, names)
    assert not has_mtp(config, {name for name in names if not name.startswith("model.layers.3.")})


def test_a_head_beside_tied_embeddings_counts_as_their_copy() -> None:
    config = _config("qwen2")
    names = {spec.name for spec in tensors(config)} | {"lm_head.weight"}
    rows = {row.name: row for row in match(config, names)}
    assert rows["lm_head.weight"].duplicate


def test_missing_and_unknown_tensors_are_named_and_counted() -> None:
    config = _config("llama")
    names = [spec.name for spec in tensors(config)]
    with pytest.raises(WeightsError, match=r"1 tensor \(model.norm.weight\) is missing"):
        match(config, [name for name in names if name != "model.norm.weight"])
    with pytest.raises(WeightsError, match=r"\d+ tensors \(model.embed_tokens.weight, .*, \.\.\.\) are missing"):
        match(config, [])
    with pytest.raises(WeightsError, match=r"1 tensor \(model.layers.0.lora_A\) is unknown to the family llama"):
        match(config, [*names, "model.layers.0.lora_A"])
    with pytest.raises(WeightsError, match=r"model\.layers\.3\.input_layernorm\.weight"):
        match(config, [*names, "model.layers.3.input_layernorm.weight"])


def test_derived_tensors_of_old_checkpoints_are_harmless() -> None:
    config = _config("llama")
    names = [spec.name for spec in tensors(config)]
    rows = match(config, [*names, "model.layers.0.self_attn.rotary_emb.inv_freq"])
    assert len(rows) == len(names)


def test_an_absurd_config_does_not_list_millions_of_tensors() -> None:
    raw = {**TINY["deepseek_v3"], "num_hidden_layers": 1024, "n_routed_experts": 2**14}
    with pytest.raises(WeightsError, match="at least 10000 tensors"):
        match(read_config(raw), ["model.embed_tokens.weight"])
