from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from config_samples import REAL, TINY
from deepground.errors import ConfigError, UnsupportedModelError
from deepground.model import FAMILIES, load_config
from deepground.model.config import GqaConfig, LinearScaling, Llama3Scaling, MlaConfig, YarnScaling
from deepground.model.config_fields import Fields
from deepground.model.families import read_config, write_config
from deepground.model.quantization import check_quantization

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def _with(family: str, **changes: Any) -> dict[str, Any]:
    return {**TINY[family], **changes}


def test_every_family_has_a_sample() -> None:
    assert TINY.keys() == FAMILIES.keys()


@pytest.mark.parametrize("raw", [*TINY.values(), *REAL.values()], ids=[*TINY, *REAL])
def test_reading_what_was_written_gives_the_same_model(raw: dict[str, Any]) -> None:
    config = read_config(raw)
    assert read_config(write_config(config)) == config
    assert read_config(write_config(config, raw)) == config
    json.dumps(write_config(config, raw), allow_nan=False)


def test_deepseek_v3_as_released() -> None:
    config = read_config(REAL["DeepSeek-V3"])
    assert config.attention == MlaConfig(
        num_heads=128, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
    )
    assert config.moe is not None
    assert (config.moe.scoring, config.moe.group_score, config.moe.correction_bias) == ("sigmoid", "top2_sum", True)
    assert (config.moe.num_groups, config.moe.topk_groups, config.moe.shared_intermediate_size) == (8, 4, 2048)
    assert config.moe_layers == frozenset(range(3, 62))
    assert config.num_mtp_layers == 1
    assert config.rope.interleaved
    assert config.rope.scaling == YarnScaling(
        factor=40, original_max_positions=4096, mscale=1.0, mscale_all_dim=1.0, beta_fast=32, beta_slow=1
    )


def test_deepseek_v2_lite_as_released() -> None:
    config = read_config(REAL["DeepSeek-V2-Lite"])
    assert isinstance(config.attention, MlaConfig)
    assert config.attention.q_lora_rank is None
    assert config.moe is not None
    assert (config.moe.scoring, config.moe.correction_bias, config.moe.normalize_topk) == ("softmax", False, False)
    assert config.moe.shared_intermediate_size == 2816
    assert config.num_mtp_layers == 0


def test_distills_as_released() -> None:
    qwen = read_config(REAL["DeepSeek-R1-Distill-Qwen-1.5B"])
    assert qwen.attention == GqaConfig(num_heads=12, num_kv_heads=2, head_dim=128, qkv_bias=True)
    assert qwen.eos_token_ids == (151643,)
    llama = read_config(REAL["DeepSeek-R1-Distill-Llama-8B"])
    assert llama.attention == GqaConfig(num_heads=32, num_kv_heads=8, head_dim=128)
    assert llama.rope.scaling == Llama3Scaling(
        factor=8, low_freq_factor=1, high_freq_factor=4, original_max_positions=8192
    )


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize(
    "scaling", [None, {"rope_type": "linear", "factor": 2.0}, YARN], ids=["none", "linear", "yarn"]
)
def test_both_spellings_of_rope_mean_the_same(family: str, scaling: dict[str, Any] | None) -> None:
    old = _with(family, rope_theta=5000.0, rope_scaling=scaling)
    new = {key: value for key, value in old.items() if not key.startswith("rope") and key != "partial_rotary_factor"}
    new["rope_parameters"] = {"rope_type": "default", **(scaling or {}), "rope_theta": 5000.0}
    if "partial_rotary_factor" in old:
        new["rope_parameters"]["partial_rotary_factor"] = old["partial_rotary_factor"]
    older = {**old, "rope_scaling": scaling and {"type": scaling["rope_type"], **scaling}}
    assert read_config(old) == read_config(new) == read_config(older)


def test_rope_kinds() -> None:
    assert read_config(_with("qwen2", rope_scaling={"type": "linear", "factor": 2})).rope.scaling == LinearScaling(
        factor=2.0
    )
    assert read_config(_with("qwen2", rope_scaling={"rope_type": "default"})).rope.scaling is None
    scaling = read_config(_with("qwen2", rope_scaling={"type": "yarn", "factor": 4.0})).rope.scaling
    assert isinstance(scaling, YarnScaling)
    assert scaling.original_max_positions == 128
    assert read_config(TINY["glm4_moe"]).rope.rotary_dim == 8


def test_family_details() -> None:
    assert read_config(TINY["qwen3_moe"]).moe_layers == {0, 2}
    assert read_config(_with("qwen3_moe", decoder_sparse_step=2, mlp_only_layers=[])).moe_layers == {1}
    assert not read_config(_with("deepseek_v3", rope_interleave=False)).rope.interleaved
    sparse = read_config(_with("deepseek_v32", mlp_layer_types=["dense", "dense", "sparse"]))
    assert sparse.moe_layers == {2, 3}
    dense = read_config({key: value for key, value in TINY["deepseek_v3"].items() if key != "n_routed_experts"})
    assert dense.moe is None
    assert read_config(write_config(dense)) == dense
    assert read_config(_with("llama", eos_token_id=[1, 5])).eos_token_ids == (1, 5)
    assert read_config(_with("qwen2", max_window_layers=3, use_sliding_window=True, sliding_window=9)).num_layers == 3


def test_kimi_k2_is_written_under_the_name_that_transformers_knows() -> None:
    written = write_config(read_config(TINY["kimi_k2"]))
    assert written["model_type"] == "deepseek_v3"
    assert read_config(written).family == "kimi_k2"


def test_unknown_fields_are_carried_over_and_code_is_not() -> None:
    raw = _with("llama", my_note="kept", auto_map={"AutoModel": "evil.py"}, quantization_config=None, use_cache=True)
    written = write_config(read_config(raw), raw)
    assert written["my_note"] == "kept"
    assert written["use_cache"] is True
    assert "auto_map" not in written
    assert "quantization_config" not in written


BAD_VALUES: list[tuple[str, str, Any]] = [
    ("llama", "hidden_size", 10**9),
    ("llama", "hidden_size", 32.0),
    ("llama", "hidden_size", True),
    ("llama", "num_hidden_layers", -3),
    ("llama", "num_hidden_layers", 0),
    ("llama", "num_hidden_layers", 10**6),
    ("llama", "num_attention_heads", 0),
    ("llama", "num_attention_heads", 5),
    ("llama", "num_key_value_heads", 3),
    ("llama", "head_dim", 10**6),
    ("llama", "vocab_size", "64"),
    ("llama", "vocab_size", 2**40),
    ("llama", "intermediate_size", []),
    ("llama", "max_position_embeddings", 0),
    ("llama", "rms_norm_eps", float("nan")),
    ("llama", "rms_norm_eps", 0.0),
    ("llama", "rms_norm_eps", "1e-6"),
    ("llama", "rope_theta", float("inf")),
    ("llama", "rope_theta", -1),
    ("llama", "rope_scaling", "yarn"),
    ("llama", "tie_word_embeddings", "no"),
    ("llama", "eos_token_id", "</s>"),
    ("llama", "bos_token_id", -1),
    ("llama", "initializer_range", -0.1),
    ("llama", "hidden_act", 3),
    ("llama", "layer_types", "full_attention"),
    ("llama", "model_type", 7),
    ("llama", "quantization_config", "fp8"),
    ("deepseek_v3", "num_experts_per_tok", 9),
    ("deepseek_v3", "num_experts_per_tok", 5),
    ("deepseek_v3", "n_group", 3),
    ("deepseek_v3", "topk_group", 3),
    ("deepseek_v3", "n_routed_experts", 10**7),
    ("deepseek_v3", "n_shared_experts", -1),
    ("deepseek_v3", "routed_scaling_factor", float("nan")),
    ("deepseek_v3", "kv_lora_rank", 0),
    ("deepseek_v3", "q_lora_rank", "none"),
    ("deepseek_v3", "num_nextn_predict_layers", 1000),
    ("deepseek_v3", "first_k_dense_replace", None),
    ("deepseek_v3", "mlp_layer_types", ["sparse"]),
    ("deepseek_v32", "index_topk", 0),
    ("deepseek_v32", "index_head_dim", 4),
    ("deepseek_v32", "q_lora_rank", None),
    ("glm4_moe", "partial_rotary_factor", 1.5),
]


@pytest.mark.parametrize(("family", "name", "value"), BAD_VALUES)
def test_a_value_out_of_range_is_named_with_what_is_allowed(family: str, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"config.json: .*{name}") as caught:
        read_config(_with(family, **{name: value}))
    assert "allowed:" in str(caught.value) or "is missing" in str(caught.value)


def test_groups_must_hold_the_two_experts_that_score_them() -> None:
    with pytest.raises(ConfigError, match="n_group is 8; allowed: at most 4"):
        read_config(_with("deepseek_v3", n_group=8, topk_group=2))


@pytest.mark.parametrize("name", ["model_type", "hidden_size", "vocab_size", "rms_norm_eps", "num_attention_heads"])
def test_a_missing_field_is_named(name: str) -> None:
    raw = {key: value for key, value in TINY["llama"].items() if key != name}
    with pytest.raises(ConfigError, match=f"{name} is missing"):
        read_config(raw)


BAD_ROPE: list[tuple[dict[str, Any], str]] = [
    ({"rope_type": "yarn"}, "factor"),
    ({"rope_type": "yarn", "factor": float("nan")}, "factor"),
    ({"rope_type": "linear", "factor": 0}, "factor"),
    ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": -1}, "original_max_position_embeddings"),
    ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}, "high_freq_factor"),
    ({"rope_type": 3}, "rope_type"),
]


@pytest.mark.parametrize(("rope", "name"), BAD_ROPE)
def test_bad_rope_scaling_is_named(rope: dict[str, Any], name: str) -> None:
    if name == "factor" and "factor" not in rope:
        rope = {**rope, "original_max_position_embeddings": 10**9}
        name = "original_max_position_embeddings"
    with pytest.raises(ConfigError, match=rf"rope_scaling\.{name}"):
        read_config(_with("llama", rope_scaling=rope))


UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ("llama", {"layer_types": ["sliding_attention"] * 3}, "sliding_attention"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "use_sliding_window"),
    ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
    ("llama", {"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "short_factor"),
    ("qwen2", {"rope_scaling": {"type": "mrope", "mrope_section": [1]}}, "mrope_section"),
    ("llama", {"rope_scaling": None, "rope_parameters": {"full_attention": {}}}, "full_attention"),
    ("llama", {"quantization_config": {"quant_method": "awq", "bits": 4}}, "quant_method is 'awq'"),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quant_method is 'gptq'"),
    ("llama", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quant_method is 'bitsandbytes'"),
    ("llama", {"quantization_config": {"quant_method": "fp8", "fmt": "e5m2"}}, "fmt is 'e5m2'"),
    ("llama", {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}}, "activation_scheme"),
    ("llama", {"quantization_config": {"quant_method": "fp8"}}, "weight_block_size"),
    ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method is 'noaux_tc'"),
    ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob"),
    ("deepseek_v2", {"scoring_func": "sigmoid"}, "scoring_func is 'sigmoid'"),
    ("deepseek_v2", {"mlp_bias": True}, "mlp_bias"),
    ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func is 'softmax'"),
    ("deepseek_v3", {"topk_method": "greedy"}, "topk_method is 'greedy'"),
    ("deepseek_v3", {"moe_layer_freq": 2}, "moe_layer_freq"),
    ("deepseek_v32", {"rope_interleave": False}, "rope_interleave"),
]


@pytest.mark.parametrize(("family", "changes", "named"), UNSUPPORTED)
def test_options_that_would_change_results_are_refused_by_name(
    family: str, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        read_config(_with(family, **changes))


def test_an_unknown_family_gets_the_list_of_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'mamba'.*known: deepseek_v2, deepseek_v3, kimi_k2"):
        read_config(_with("llama", model_type="mamba"))


def test_layers_that_a_family_cannot_express_are_not_written() -> None:
    config = read_config(_with("deepseek_v32", mlp_layer_types=["sparse", "dense", "sparse"]))
    with pytest.raises(UnsupportedModelError, match="leading dense layers"):
        write_config(config)


def test_block_sizes() -> None:
    raw = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 32]}}
    quantization = check_quantization(Fields(raw))
    assert quantization is not None
    assert quantization.block == (64, 32)
    assert check_quantization(Fields({})) is None


def test_config_files(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    cases: list[tuple[bytes, str]] = [
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[1]", "a list, not a JSON object"),
        (b'{"a": 1, "a": 2}', "'a' stands twice"),
        (b"[" * 100_000, "not valid JSON"),
        (b" " * (10 * 2**20 + 1), "more than the 10485760"),
    ]
    for content, message in cases:
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            load_config(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match=r"config\.json does not exist"):
        load_config(tmp_path)
    path.mkdir()
    with pytest.raises(ConfigError, match="not a regular file"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="does not exist; give the path"):
        load_config(tmp_path / "nowhere")
