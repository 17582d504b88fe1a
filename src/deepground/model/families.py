"""Families: config.json to `ModelConfig` and back.

A family is one row of `FAMILIES`: its model_type, the architecture that Hugging Face loads it as, and a
function that reads what sets it apart. `read_config` and `write_config` are inverses; the weight names are
in `model.weights`. An option that would change results and is not implemented is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deepground.errors import UnsupportedModelError
from deepground.model import family_fields as of
from deepground.model.config import ModelConfig
from deepground.model.config_fields import Fields
from deepground.model.family_fields import MAX_ID, MAX_LAYERS
from deepground.model.quantization import check_quantization
from deepground.model.rope_fields import ROPE_KEYS

FAMILY_KEY = "deepground_family"
"""Names the family where it differs from the model_type that transformers can load."""


_REFUSED_WHEN_SET = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "attention_multiplier",
    "residual_multiplier",
    "embedding_multiplier",
    "logits_scaling",
    "query_pre_attn_scalar",
    "no_rope_layers",
    "attention_chunk_size",
)
_FULL_ATTENTION = ("full_attention", "indexed_attention")


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row of the table."""

    model_type: str
    """What stands in config.json."""
    saved_model_type: str
    """What is written, so that transformers can load the folder."""
    architecture: str
    read: Callable[[Fields, str], ModelConfig]
    """From fields and family name to the configuration."""
    write: Callable[[ModelConfig], dict[str, Any]]
    """What sets the family apart, as config.json fields."""


def read_config(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json describes.

    Args:
        raw: the JSON object.

    Returns:
        The configuration.

    Raises:
        ConfigError: a field is missing, of the wrong type or out of range; names it and what is allowed.
        UnsupportedModelError: a family or an option that is not implemented; names it.
    """
    fields = Fields(raw)
    family = find_family(fields)
    _refuse_unimplemented(fields)
    check_quantization(fields)
    return family.read(fields, family.model_type)


def write_config(config: ModelConfig, raw: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The config.json that describes a configuration; transformers loads it to the same model.

    Args:
        config: the configuration.
        raw: the config.json that it came from. Its unknown fields are carried over, except those that
            name code (`auto_map`) or another spelling of what is written here.

    Returns:
        The JSON object, without a quantization_config.
    """
    family = FAMILIES[config.family]
    kept = {key: value for key, value in (raw or {}).items() if key not in _REPLACED_KEYS}
    written: dict[str, Any] = {
        **kept,
        "architectures": [family.architecture],
        "model_type": family.saved_model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "hidden_act": "silu",
        "initializer_range": config.initializer_range,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": _write_ids(config.eos_token_ids),
        **family.write(config),
    }
    if family.saved_model_type != family.model_type:
        written[FAMILY_KEY] = family.model_type
    return written


def find_family(fields: Fields) -> Family:
    """The row of the table that a config.json asks for."""
    name = fields.text(FAMILY_KEY if fields.has(FAMILY_KEY) else "model_type")
    family = FAMILIES.get(name)
    if family is None:
        raise UnsupportedModelError(
            f"{fields.where}model_type is {name!r}, a family that is not implemented; known: {', '.join(FAMILIES)}"
        )
    return family


def _refuse_unimplemented(fields: Fields) -> None:
    activation = fields.text("hidden_act", default="silu")
    if activation != "silu":
        raise UnsupportedModelError(f"{fields.where}hidden_act is {activation!r}; implemented: 'silu'")
    for name in _REFUSED_WHEN_SET:
        if fields.has(name):
            raise UnsupportedModelError(f"{fields.where}{name} is set to {fields.values[name]!r}; not implemented")
    for kind in fields.texts("layer_types"):
        if kind not in _FULL_ATTENTION:
            raise UnsupportedModelError(f"{fields.where}layer_types holds {kind!r}; implemented: full attention only")
    if fields.boolean("use_sliding_window", default=False) and not fields.has("layer_types"):
        layers = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
        # Layers below max_window_layers attend fully, so a high value switches the window off.
        first = fields.integer("max_window_layers", 0, MAX_ID, default=0)
        if fields.has("sliding_window") and first < layers:
            raise UnsupportedModelError(
                f"{fields.where}use_sliding_window is true from layer {first} on; sliding windows are not implemented"
            )


def _write_ids(ids: tuple[int, ...]) -> int | list[int] | None:
    if not ids:
        return None
    return ids[0] if len(ids) == 1 else list(ids)


_ROWS = (
    ("deepseek_v2", "DeepseekV2ForCausalLM", of.read_deepseek_v2, of.write_deepseek_v2),
    ("deepseek_v3", "DeepseekV3ForCausalLM", of.read_deepseek_v3, of.write_deepseek_v3),
    ("kimi_k2", "DeepseekV3ForCausalLM", of.read_deepseek_v3, of.write_deepseek_v3),
    ("deepseek_v32", "DeepseekV32ForCausalLM", of.read_deepseek_v32, of.write_deepseek_v32),
    ("qwen2", "Qwen2ForCausalLM", of.read_qwen2, of.write_dense),
    ("qwen3", "Qwen3ForCausalLM", of.read_qwen3, of.write_dense),
    ("qwen3_moe", "Qwen3MoeForCausalLM", of.read_qwen3_moe, of.write_qwen3_moe),
    ("llama", "LlamaForCausalLM", of.read_llama, of.write_dense),
    ("glm4_moe", "Glm4MoeForCausalLM", of.read_glm4_moe, of.write_glm4_moe),
)
# transformers knows Kimi K2's architecture only under DeepSeek's name.
_SAVED_AS = {"kimi_k2": "deepseek_v3"}

FAMILIES: dict[str, Family] = {
    name: Family(
        model_type=name,
        saved_model_type=_SAVED_AS.get(name, name),
        architecture=architecture,
        read=read,
        write=write,
    )
    for name, architecture, read, write in _ROWS
}

_REPLACED_KEYS = frozenset(
    (
        *ROPE_KEYS,
        FAMILY_KEY,
        "auto_map",
        "dtype",
        "layer_types",
        "mlp_layer_types",
        "num_local_experts",
        "num_mtp_layers",
        "qk_head_dim",
        "quantization_config",
        "torch_dtype",
        "transformers_version",
    )
)
"""Fields of a loaded config.json that are written anew, or would contradict what is written."""
