"""One configuration for every family: what a decoder is built from.

A family's mapping from Hugging Face's config.json to `ModelConfig` lives in `model.families`; nothing
here knows a family's field names. Sizes are in elements, never bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class YarnScaling:
    """YaRN context extension (arXiv 2309.00071), with DeepSeek's two mscale fields."""

    factor: float
    original_max_positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    """Numerator of the extra factor on cos and sin."""
    mscale_all_dim: float = 0.0
    """Denominator of that factor; MLA also multiplies the softmax scale by its square. 0: absent."""
    attention_factor: float | None = None
    """Overrides the factor on cos and sin when the config gives one."""
    truncate: bool = True
    """Round the correction range to whole dimensions."""


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1 frequency scaling."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Positions divided by a factor."""

    factor: float


RopeScaling = YarnScaling | Llama3Scaling | LinearScaling


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding."""

    theta: float
    rotary_dim: int
    """Leading (GQA) or dedicated (MLA) dimensions of a head that rotate; the rest pass through."""
    interleaved: bool
    """True: pairs (2i, 2i+1), as DeepSeek's MLA. False: pairs (i, i + rotary_dim/2)."""
    scaling: RopeScaling | None = None


@dataclass(frozen=True, kw_only=True)
class GqaConfig:
    """Grouped-query attention."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    """RMSNorm over head_dim on queries and keys, before RoPE."""


@dataclass(frozen=True, kw_only=True)
class IndexerConfig:
    """DeepSeek V3.2's lightning indexer: which earlier tokens a query may attend to."""

    num_heads: int
    head_dim: int
    topk: int
    """Most tokens that a query attends to."""


@dataclass(frozen=True, kw_only=True)
class MlaConfig:
    """Multi-head latent attention (DeepSeek-V2 report, section 2.1)."""

    num_heads: int
    q_lora_rank: int | None
    """None: queries are projected directly."""
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    attention_bias: bool = False
    indexer: IndexerConfig | None = None


@dataclass(frozen=True, kw_only=True)
class MoeConfig:
    """Mixture of experts (DeepSeekMoE and its relatives)."""

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    """Hidden width of one routed expert."""
    shared_intermediate_size: int
    """Hidden width of all shared experts together; 0: there are none."""
    scoring: Literal["sigmoid", "softmax"]
    correction_bias: bool
    """Selection uses score + e_score_correction_bias; weights use the bare score."""
    num_groups: int = 1
    topk_groups: int = 1
    group_score: Literal["max", "top2_sum"] = "max"
    normalize_topk: bool
    """Divide the chosen experts' weights by their sum."""
    routed_scaling_factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that the decoder needs to know."""

    family: str
    """Hugging Face's model_type, such as deepseek_v3."""
    vocab_size: int
    hidden_size: int
    num_layers: int
    intermediate_size: int
    """Hidden width of a dense feed-forward block."""
    max_positions: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention: GqaConfig | MlaConfig
    rope: RopeConfig
    moe: MoeConfig | None = None
    moe_layers: frozenset[int] = frozenset()
    """Indices of the layers that carry `moe`; the others are dense. MTP layers are num_layers and on."""
    mlp_bias: bool = False
    num_mtp_layers: int = 0
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    initializer_range: float = 0.02
