"""What sets the families apart in config.json: attention, experts, depth; read and written.

Each `read_*` takes fields and a family's name and returns the configuration; each `write_*` returns the
fields that say the same. The table that names them is `model.families.FAMILIES`.
"""

from __future__ import annotations

from typing import Any, Literal

from deepground.errors import UnsupportedModelError
from deepground.model.config import GqaConfig, IndexerConfig, MlaConfig, ModelConfig, MoeConfig
from deepground.model.config_fields import Fields
from deepground.model.rope_fields import read_rope, write_rope

MAX_LAYERS = 2**10
MAX_WIDTH = 2**20
_MAX_HIDDEN = 2**17
_MAX_HEADS = 2**12
_MAX_HEAD_DIM = 2**13
_MAX_EXPERTS = 2**14
_MAX_VOCAB = 2**24
_MAX_POSITIONS = 2**27
_MAX_MTP_LAYERS = 16
MAX_ID = 2**31 - 1

# What all families share -----------------------------------------------------------------------------


def _read_common(fields: Fields, family: str) -> dict[str, Any]:
    return {
        "family": family,
        "vocab_size": fields.integer("vocab_size", 1, _MAX_VOCAB),
        "hidden_size": fields.integer("hidden_size", 1, _MAX_HIDDEN),
        "num_layers": fields.integer("num_hidden_layers", 1, MAX_LAYERS),
        "intermediate_size": fields.integer("intermediate_size", 1, MAX_WIDTH),
        "max_positions": fields.integer("max_position_embeddings", 1, _MAX_POSITIONS),
        "rms_norm_eps": fields.number("rms_norm_eps", 1e-12, 0.1),
        "tie_word_embeddings": fields.boolean("tie_word_embeddings", default=False),
        "bos_token_id": fields.optional_integer("bos_token_id", 0, MAX_ID),
        "eos_token_ids": fields.integers("eos_token_id", 0, MAX_ID),
        "initializer_range": fields.number("initializer_range", 0.0, 10.0, default=0.02),
    }


# Dense and Qwen-style families: grouped-query attention ------------------------------------------------


def _read_gqa(
    fields: Fields, *, qkv_bias: bool, output_bias: bool, qk_norm: bool, head_dim: int | None = None
) -> GqaConfig:
    heads = fields.integer("num_attention_heads", 1, _MAX_HEADS)
    kv_heads = fields.integer("num_key_value_heads", 1, _MAX_HEADS, default=heads)
    if heads % kv_heads:
        raise fields.fail("num_key_value_heads", f"a divisor of num_attention_heads, which is {heads}")
    hidden = fields.integer("hidden_size", 1, _MAX_HIDDEN)
    if fields.has("head_dim") or head_dim is not None:
        width = fields.integer("head_dim", 1, _MAX_HEAD_DIM, default=head_dim or 1)
    elif hidden % heads:
        raise fields.fail("num_attention_heads", f"a divisor of hidden_size, which is {hidden}, or a head_dim given")
    else:
        width = hidden // heads
    return GqaConfig(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=width,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        qk_norm=qk_norm,
    )


def _gqa_model(
    fields: Fields, family: str, attention: GqaConfig, *, partial_default: float | None = None, **extra: Any
) -> ModelConfig:
    common = _read_common(fields, family)
    rope = read_rope(
        fields,
        head_dim=attention.head_dim,
        max_positions=common["max_positions"],
        interleaved=False,
        partial=partial_default is not None,
        partial_default=partial_default or 1.0,
    )
    return ModelConfig(**common, attention=attention, rope=rope, **extra)


def _write_gqa(config: ModelConfig, *, partial: bool = False) -> dict[str, Any]:
    attention = config.attention
    if not isinstance(attention, GqaConfig):
        raise UnsupportedModelError(f"the family {config.family} has grouped-query attention; this model has not")
    return {
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads,
        "head_dim": attention.head_dim,
        "attention_bias": attention.qkv_bias,
        **write_rope(config.rope, head_dim=attention.head_dim, partial=partial),
    }


def write_dense(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_llama`, `read_qwen2` and `read_qwen3`."""
    return {**_write_gqa(config), "mlp_bias": config.mlp_bias}


def write_qwen3_moe(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_qwen3_moe`."""
    if config.moe is None:
        raise UnsupportedModelError(f"the family {config.family} has routed experts; this model has not")
    dense = [i for i in range(config.num_layers) if i not in config.moe_layers]
    return {
        **_write_gqa(config),
        **_write_moe(config.moe, "num_experts"),
        "decoder_sparse_step": 1,
        "mlp_only_layers": dense,
    }


def write_glm4_moe(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_glm4_moe`."""
    if config.moe is None or not isinstance(config.attention, GqaConfig):
        raise UnsupportedModelError(f"the family {config.family} has routed experts; this model has not")
    return {
        **_write_gqa(config, partial=True),
        **_write_deepseek_moe(config.moe),
        **_write_depth(config),
        "use_qk_norm": config.attention.qk_norm,
    }


def read_llama(fields: Fields, family: str) -> ModelConfig:
    """Llama 3: optional biases."""
    bias = fields.boolean("attention_bias", default=False)
    attention = _read_gqa(fields, qkv_bias=bias, output_bias=bias, qk_norm=False)
    return _gqa_model(fields, family, attention, mlp_bias=fields.boolean("mlp_bias", default=False))


def read_qwen2(fields: Fields, family: str) -> ModelConfig:
    """Qwen2 and the R1 distills of it: biased queries, keys and values."""
    return _gqa_model(fields, family, _read_gqa(fields, qkv_bias=True, output_bias=False, qk_norm=False))


def read_qwen3(fields: Fields, family: str) -> ModelConfig:
    """Qwen3: normed queries and keys."""
    bias = fields.boolean("attention_bias", default=False)
    attention = _read_gqa(fields, qkv_bias=bias, output_bias=bias, qk_norm=True, head_dim=128)
    return _gqa_model(fields, family, attention)


def read_qwen3_moe(fields: Fields, family: str) -> ModelConfig:
    """Qwen3-MoE: softmax routing without shared experts."""
    bias = fields.boolean("attention_bias", default=False)
    attention = _read_gqa(fields, qkv_bias=bias, output_bias=bias, qk_norm=True)
    layers = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
    step = fields.integer("decoder_sparse_step", 1, MAX_LAYERS, default=1)
    dense = set(fields.integers("mlp_only_layers", 0, MAX_LAYERS))
    # transformers 5 writes num_local_experts, the released checkpoints num_experts.
    name = "num_experts" if fields.has("num_experts") else "num_local_experts"
    moe = _read_moe(fields, experts_name=name, scoring="softmax", grouped=False, scaled=False)
    return _gqa_model(
        fields,
        family,
        attention,
        moe=moe,
        moe_layers=frozenset(i for i in range(layers) if i not in dense and (i + 1) % step == 0),
    )


def read_glm4_moe(fields: Fields, family: str) -> ModelConfig:
    """GLM-4.5: half-rotated heads, DeepSeek-V3 routing."""
    bias = fields.boolean("attention_bias", default=False)
    qk_norm = fields.boolean("use_qk_norm", default=False)
    attention = _read_gqa(fields, qkv_bias=bias, output_bias=False, qk_norm=qk_norm)
    moe = _read_moe(fields, experts_name="n_routed_experts", scoring="sigmoid", grouped=True)
    return _gqa_model(fields, family, attention, partial_default=0.5, moe=moe, **_read_depth(fields))


# Mixture of experts ------------------------------------------------------------------------------------


def _read_moe(
    fields: Fields, *, experts_name: str, scoring: Literal["sigmoid", "softmax"], grouped: bool, scaled: bool = True
) -> MoeConfig:
    """Experts of a family; where the sigmoid families' defaults differ between libraries, a field is required."""
    sigmoid = scoring == "sigmoid"
    experts = fields.integer(experts_name, 1, _MAX_EXPERTS)
    topk = fields.integer("num_experts_per_tok", 1, _MAX_EXPERTS)
    if topk > experts:
        raise fields.fail("num_experts_per_tok", f"at most {experts_name}, which is {experts}")
    width = fields.integer("moe_intermediate_size", 1, MAX_WIDTH)
    shared = fields.integer("n_shared_experts", 0, _MAX_EXPERTS, default=0)
    groups, topk_groups = _read_groups(fields, experts_name, experts, topk, sigmoid) if grouped else (1, 1)
    scaling = 1.0
    if scaled:
        scaling = fields.number("routed_scaling_factor", 1e-6, 1e6, **({} if sigmoid else {"default": 1.0}))
    return MoeConfig(
        num_experts=experts,
        experts_per_token=topk,
        intermediate_size=width,
        shared_intermediate_size=shared * width,
        scoring=scoring,
        correction_bias=sigmoid,
        num_groups=groups,
        topk_groups=topk_groups,
        group_score="top2_sum" if sigmoid else "max",
        normalize_topk=fields.boolean("norm_topk_prob", default=sigmoid),
        routed_scaling_factor=scaling,
    )


def _read_groups(fields: Fields, experts_name: str, experts: int, topk: int, sigmoid: bool) -> tuple[int, int]:
    """Groups of experts, and how many of them a token may use."""
    groups = fields.integer("n_group", 1, _MAX_EXPERTS)
    if experts % groups:
        raise fields.fail("n_group", f"a divisor of {experts_name}, which is {experts}")
    topk_groups = fields.integer("topk_group", 1, groups)
    reachable = topk_groups * (experts // groups)
    if topk > reachable:
        raise fields.fail("num_experts_per_tok", f"at most the {reachable} experts that topk_group groups hold")
    if sigmoid and groups > 1 and experts // groups < 2:
        raise fields.fail("n_group", f"at most {experts // 2}: a group's score is the sum of its two best experts")
    return groups, topk_groups


def _write_moe(moe: MoeConfig, experts_name: str) -> dict[str, Any]:
    return {
        experts_name: moe.num_experts,
        "num_experts_per_tok": moe.experts_per_token,
        "moe_intermediate_size": moe.intermediate_size,
        "norm_topk_prob": moe.normalize_topk,
    }


def _write_deepseek_moe(moe: MoeConfig) -> dict[str, Any]:
    return {
        **_write_moe(moe, "n_routed_experts"),
        "n_shared_experts": moe.shared_intermediate_size // moe.intermediate_size,
        "n_group": moe.num_groups,
        "topk_group": moe.topk_groups,
        "routed_scaling_factor": moe.routed_scaling_factor,
    }


def _read_depth(fields: Fields) -> dict[str, Any]:
    """Which layers are sparse, and how many multi-token-prediction layers follow."""
    layers = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
    if fields.integer("moe_layer_freq", 1, MAX_LAYERS, default=1) != 1:
        raise UnsupportedModelError(
            f"{fields.where}moe_layer_freq is {fields.values['moe_layer_freq']}; implemented: 1, as released"
        )
    mtp = fields.integer("num_nextn_predict_layers", 0, _MAX_MTP_LAYERS, default=0)
    kinds = fields.texts("mlp_layer_types")
    if not kinds:
        first = fields.integer("first_k_dense_replace", 0, MAX_LAYERS)
        kinds = tuple("dense" if i < first else "sparse" for i in range(layers))
    if len(kinds) != layers or not set(kinds) <= {"dense", "sparse"}:
        raise fields.fail("mlp_layer_types", f"{layers} entries, each 'dense' or 'sparse'")
    sparse = {i for i, kind in enumerate(kinds) if kind == "sparse"}
    return {"moe_layers": frozenset(sparse | set(range(layers, layers + mtp))), "num_mtp_layers": mtp}


def _write_depth(config: ModelConfig) -> dict[str, Any]:
    sparse = [i for i in range(config.num_layers) if i in config.moe_layers]
    first = config.num_layers - len(sparse)
    if sparse != list(range(first, config.num_layers)):
        raise UnsupportedModelError(
            f"moe_layers of {sparse} cannot be written for {config.family}: its config.json knows leading dense layers"
        )
    return {"first_k_dense_replace": first, "moe_layer_freq": 1, "num_nextn_predict_layers": config.num_mtp_layers}


# DeepSeek families: multi-head latent attention ----------------------------------------------------------


def _read_mla(fields: Fields, indexer: IndexerConfig | None = None) -> MlaConfig:
    return MlaConfig(
        num_heads=fields.integer("num_attention_heads", 1, _MAX_HEADS),
        q_lora_rank=fields.optional_integer("q_lora_rank", 1, MAX_WIDTH),
        kv_lora_rank=fields.integer("kv_lora_rank", 1, MAX_WIDTH),
        qk_nope_head_dim=fields.integer("qk_nope_head_dim", 1, _MAX_HEAD_DIM),
        qk_rope_head_dim=fields.integer("qk_rope_head_dim", 2, _MAX_HEAD_DIM),
        v_head_dim=fields.integer("v_head_dim", 1, _MAX_HEAD_DIM),
        attention_bias=fields.boolean("attention_bias", default=False),
        indexer=indexer,
    )


def _mla_model(fields: Fields, family: str, attention: MlaConfig, moe: MoeConfig | None) -> ModelConfig:
    if fields.boolean("mlp_bias", default=False):
        raise UnsupportedModelError(f"{fields.where}mlp_bias is true; no DeepSeek release has it: not implemented")
    common = _read_common(fields, family)
    rope = read_rope(
        fields,
        head_dim=attention.qk_rope_head_dim,
        max_positions=common["max_positions"],
        interleaved=fields.boolean("rope_interleave", default=True),
        partial=False,
    )
    depth = _read_depth(fields) if moe else {}
    return ModelConfig(**common, attention=attention, rope=rope, moe=moe, **depth)


def _write_mla_model(config: ModelConfig) -> dict[str, Any]:
    attention = config.attention
    if not isinstance(attention, MlaConfig):
        raise UnsupportedModelError(f"the family {config.family} has multi-head latent attention; this model has not")
    written: dict[str, Any] = {
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_heads,
        "q_lora_rank": attention.q_lora_rank,
        "kv_lora_rank": attention.kv_lora_rank,
        "qk_nope_head_dim": attention.qk_nope_head_dim,
        "qk_rope_head_dim": attention.qk_rope_head_dim,
        "v_head_dim": attention.v_head_dim,
        "attention_bias": attention.attention_bias,
        **write_rope(config.rope, head_dim=attention.qk_rope_head_dim, partial=False),
    }
    if config.moe is None:
        # transformers has no field for "no experts", but builds none when every layer is a leading dense one.
        return {**written, "first_k_dense_replace": config.num_layers, "num_nextn_predict_layers": 0}
    return {**written, **_write_deepseek_moe(config.moe), **_write_depth(config)}


def read_deepseek_v2(fields: Fields, family: str) -> ModelConfig:
    """DeepSeek-V2: softmax routing, optionally limited to groups by their best expert."""
    method = fields.text("topk_method", default="greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise UnsupportedModelError(
            f"{fields.where}topk_method is {method!r}; implemented for {family}: 'greedy', 'group_limited_greedy'"
        )
    if fields.text("scoring_func", default="softmax") != "softmax":
        raise UnsupportedModelError(
            f"{fields.where}scoring_func is {fields.values['scoring_func']!r}; implemented for {family}: 'softmax'"
        )
    if fields.boolean("norm_topk_prob", default=False):
        # DeepSeek's own code divides by the sum, transformers does not, and no release sets it.
        raise UnsupportedModelError(
            f"{fields.where}norm_topk_prob is true; implemented for {family}: false, as released"
        )
    grouped = method == "group_limited_greedy"
    moe = None
    if fields.has("n_routed_experts"):
        moe = _read_moe(fields, experts_name="n_routed_experts", scoring="softmax", grouped=grouped)
    return _mla_model(fields, family, _read_mla(fields), moe)


def write_deepseek_v2(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_deepseek_v2`."""
    grouped = config.moe is not None and config.moe.num_groups > 1
    method = "group_limited_greedy" if grouped else "greedy"
    return {**_write_mla_model(config), "topk_method": method, "scoring_func": "softmax"}


def read_deepseek_v3(fields: Fields, family: str, indexer: IndexerConfig | None = None) -> ModelConfig:
    """DeepSeek-V3, R1, V3.1 and Kimi K2: sigmoid routing with a selection bias."""
    for name, wanted in (("topk_method", "noaux_tc"), ("scoring_func", "sigmoid")):
        if fields.text(name, default=wanted) != wanted:
            raise UnsupportedModelError(
                f"{fields.where}{name} is {fields.values[name]!r}; implemented for {family}: {wanted!r}"
            )
    moe = None
    if fields.has("n_routed_experts"):
        moe = _read_moe(fields, experts_name="n_routed_experts", scoring="sigmoid", grouped=True)
    return _mla_model(fields, family, _read_mla(fields, indexer), moe)


def write_deepseek_v3(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_deepseek_v3`."""
    return {
        **_write_mla_model(config),
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "rope_interleave": config.rope.interleaved,
    }


def read_deepseek_v32(fields: Fields, family: str) -> ModelConfig:
    """DeepSeek-V3.2: V3 and the lightning indexer."""
    indexer = IndexerConfig(
        num_heads=fields.integer("index_n_heads", 1, _MAX_HEADS),
        head_dim=fields.integer("index_head_dim", 1, _MAX_HEAD_DIM),
        topk=fields.integer("index_topk", 1, _MAX_POSITIONS),
    )
    if not fields.has("q_lora_rank"):
        raise fields.fail("q_lora_rank", "a whole number: the indexer reads the query latent")
    rope_dim = fields.integer("qk_rope_head_dim", 2, _MAX_HEAD_DIM)
    if indexer.head_dim < rope_dim:
        raise fields.fail("index_head_dim", f"at least qk_rope_head_dim, which is {rope_dim}")
    if not fields.boolean("rope_interleave", default=True):
        raise UnsupportedModelError(f"{fields.where}rope_interleave is false; implemented for {family}: true")
    return read_deepseek_v3(fields, family, indexer)


def write_deepseek_v32(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_deepseek_v32`."""
    indexer = config.attention.indexer if isinstance(config.attention, MlaConfig) else None
    if indexer is None:
        raise UnsupportedModelError(f"the family {config.family} has a sparse-attention indexer; this model has not")
    return {
        **write_deepseek_v3(config),
        "index_n_heads": indexer.num_heads,
        "index_head_dim": indexer.head_dim,
        "index_topk": indexer.topk,
    }
