"""Tiny configurations of every family, for comparison with transformers.

The shapes vary on purpose: groups of experts, leading dense layers, one key/value head, heads that are not
hidden / heads wide, value heads wider and narrower than query heads, every kind of rotary scaling, and both
spellings of config.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

VOCAB = 131
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32,
    "beta_slow": 1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration."""

    name: str
    family: str
    """model_type in config.json, as we read it."""
    hf: str
    """Name of transformers' classes: {hf}Config and {hf}ForCausalLM."""
    fields: dict[str, Any]
    old_spelling: bool = False
    """Rewrite rope_parameters to rope_theta and rope_scaling, as checkpoints before transformers 5 have it."""
    config_edits: dict[str, Any] = field(default_factory=dict)
    """Written over config.json after transformers saved it."""


_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_MLA: dict[str, Any] = {
    **_COMMON,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
}
_V2: dict[str, Any] = {
    **_MLA,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": False,
    "topk_method": "greedy",
    "n_group": 1,
    "topk_group": 1,
}
_GQA: dict[str, Any] = {**_COMMON, "num_attention_heads": 4, "num_key_value_heads": 2}
# With few index heads many scores are exactly zero (ReLU), and which of equal scores torch.topk keeps depends on
# the row's length: transformers' own prefill and decode then differ from each other.
_INDEX: dict[str, Any] = {"index_n_heads": 16, "index_head_dim": 16, "index_topk": 10}

CASES: tuple[Case, ...] = (
    Case(
        name="deepseek_v2-lite",
        family="deepseek_v2",
        hf="DeepseekV2",
        fields={
            **_V2,
            "q_lora_rank": None,
            "rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
        },
        old_spelling=True,
    ),
    Case(
        name="deepseek_v2-groups",
        family="deepseek_v2",
        hf="DeepseekV2",
        fields={
            **_V2,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 16.0,
            "attention_bias": True,
            "first_k_dense_replace": 0,
        },
    ),
    Case(
        name="deepseek_v3-yarn",
        family="deepseek_v3",
        hf="DeepseekV3",
        fields={**_MLA, "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}},
        old_spelling=True,
    ),
    Case(
        name="deepseek_v3-direct",
        family="deepseek_v3",
        hf="DeepseekV3",
        fields={
            **_MLA,
            "q_lora_rank": None,
            "v_head_dim": 24,
            "first_k_dense_replace": 0,
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": False,
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    Case(
        name="deepseek_v3-mscale",
        family="deepseek_v3",
        hf="DeepseekV3",
        fields={
            **_MLA,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 4,
            "first_k_dense_replace": 2,
            "rope_interleave": False,
            "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False},
        },
    ),
    Case(
        name="kimi_k2",
        family="kimi_k2",
        hf="DeepseekV3",
        fields={
            **_MLA,
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 2.827,
            "rope_parameters": {**YARN, "rope_theta": 50000.0, "mscale": 1.0, "mscale_all_dim": 1.0},
        },
        old_spelling=True,
        config_edits={"model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"]},
    ),
    Case(
        name="deepseek_v32",
        family="deepseek_v32",
        hf="DeepseekV32",
        fields={**_MLA, **_INDEX, "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}},
    ),
    Case(
        name="deepseek_v32-short",
        family="deepseek_v32",
        hf="DeepseekV32",
        fields={
            **_MLA,
            **_INDEX,
            "index_n_heads": 20,
            "index_head_dim": 8,
            "index_topk": 3,
            "first_k_dense_replace": 0,
        },
    ),
    Case(
        name="qwen2",
        family="qwen2",
        hf="Qwen2",
        fields={**_GQA, "use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1},
        old_spelling=True,
    ),
    Case(
        name="qwen2-yarn-tied",
        family="qwen2",
        hf="Qwen2",
        fields={
            **_GQA,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rope_parameters": {**YARN, "rope_theta": 1000000.0},
        },
    ),
    Case(
        name="qwen3",
        family="qwen3",
        hf="Qwen3",
        fields={**_GQA, "head_dim": 20, "attention_bias": True, "tie_word_embeddings": True},
    ),
    Case(
        name="qwen3-plain",
        family="qwen3",
        hf="Qwen3",
        fields={**_GQA, "head_dim": 8, "num_attention_heads": 6, "num_key_value_heads": 3},
        old_spelling=True,
    ),
    Case(
        name="qwen3_moe",
        family="qwen3_moe",
        hf="Qwen3Moe",
        fields={
            **_GQA,
            "head_dim": 16,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
    ),
    Case(
        name="qwen3_moe-sparse_step",
        family="qwen3_moe",
        hf="Qwen3Moe",
        fields={
            **_GQA,
            "num_key_value_heads": 1,
            "num_experts": 5,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 20,
            "norm_topk_prob": False,
            "decoder_sparse_step": 2,
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
        old_spelling=True,
    ),
    Case(
        name="llama3",
        family="llama",
        hf="Llama",
        fields={**_GQA, "rope_parameters": LLAMA3, "rms_norm_eps": 1e-5},
        old_spelling=True,
    ),
    Case(
        name="llama-biased-tied",
        family="llama",
        hf="Llama",
        fields={
            **_GQA,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
        },
    ),
    Case(
        name="glm4_moe",
        family="glm4_moe",
        hf="Glm4Moe",
        fields={
            **_GQA,
            "head_dim": 16,
            "attention_bias": True,
            "use_qk_norm": True,
            "moe_intermediate_size": 24,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "num_experts_per_tok": 3,
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 1.5,
            "norm_topk_prob": True,
            "first_k_dense_replace": 1,
        },
    ),
    Case(
        name="glm4_moe-groups",
        family="glm4_moe",
        hf="Glm4Moe",
        fields={
            **_GQA,
            "head_dim": 12,
            "use_qk_norm": False,
            "moe_intermediate_size": 24,
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "routed_scaling_factor": 1.0,
            "norm_topk_prob": False,
            "first_k_dense_replace": 0,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
        old_spelling=True,
    ),
)
