"""A model's packed weights as the parts of a native program: which tensor plays which role.

The names are those of `model.weights`; the structure is that of `model.decoder`.
"""

from __future__ import annotations

from deepground.kernels import (
    Affine,
    DensePart,
    ExpertBank,
    GqaPart,
    LayerPart,
    MlaPart,
    MoePart,
    MtpPart,
    NativeProgram,
    RouterPart,
    StreamedBank,
)
from deepground.model.attention.mla import LATENT_NORM_EPS
from deepground.model.config import GqaConfig, MlaConfig, ModelConfig, MoeConfig
from deepground.model.packed_weights import PackedWeights
from deepground.model.rope import mla_softmax_factor


def compose(config: ModelConfig, weights: PackedWeights) -> NativeProgram:
    """The whole decoder.

    Args:
        config: the model.
        weights: all of it.
    """
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    program = NativeProgram(
        hidden_size=config.hidden_size,
        rotary_pairs=config.rope.rotary_dim // 2,
        interleaved=config.rope.interleaved,
        eps=config.rms_norm_eps,
        norm=weights.vectors["model.norm.weight"],
        head=weights.matrices[head],
    )
    for layer in range(config.num_layers):
        program.add_layer(_layer(config, weights, layer, f"model.layers.{layer}."))
    for depth in range(config.num_mtp_layers):
        prefix = f"model.mtp_layers.{depth}."
        program.add_mtp_layer(
            MtpPart(
                layer=_layer(config, weights, config.num_layers + depth, prefix),
                embedding_norm=weights.vectors[prefix + "enorm.weight"],
                hidden_norm=weights.vectors[prefix + "hnorm.weight"],
                head_norm=weights.vectors[prefix + "shared_head.norm.weight"],
                join=weights.matrices[prefix + "eh_proj.weight"],
            )
        )
    return program


def _layer(config: ModelConfig, weights: PackedWeights, layer: int, prefix: str) -> LayerPart:
    attention: GqaPart | MlaPart
    if isinstance(config.attention, MlaConfig):
        attention = _mla(config, config.attention, weights, prefix + "self_attn.")
    else:
        attention = _gqa(config, config.attention, weights, prefix + "self_attn.")
    feed_forward: DensePart | MoePart
    if config.moe is not None and layer in config.moe_layers:
        feed_forward = _moe(config.moe, weights, prefix + "mlp.")
    else:
        feed_forward = _dense(weights, prefix + "mlp.")
    return LayerPart(
        input_norm=weights.vectors[prefix + "input_layernorm.weight"],
        post_norm=weights.vectors[prefix + "post_attention_layernorm.weight"],
        attention=attention,
        feed_forward=feed_forward,
    )


def _affine(weights: PackedWeights, name: str) -> Affine:
    return Affine(weight=weights.matrices[f"{name}.weight"], bias=weights.vectors.get(f"{name}.bias"))


def _gqa(config: ModelConfig, gqa: GqaConfig, weights: PackedWeights, prefix: str) -> GqaPart:
    return GqaPart(
        query=_affine(weights, prefix + "q_proj"),
        key=_affine(weights, prefix + "k_proj"),
        value=_affine(weights, prefix + "v_proj"),
        output=_affine(weights, prefix + "o_proj"),
        query_norm=weights.vectors.get(prefix + "q_norm.weight"),
        key_norm=weights.vectors.get(prefix + "k_norm.weight"),
        num_heads=gqa.num_heads,
        num_kv_heads=gqa.num_kv_heads,
        head_dim=gqa.head_dim,
        rotary_dim=config.rope.rotary_dim,
        scale=gqa.head_dim**-0.5,
    )


def _mla(config: ModelConfig, mla: MlaConfig, weights: PackedWeights, prefix: str) -> MlaPart:
    direct = mla.q_lora_rank is None
    expand = prefix + "kv_b_proj.weight"
    return MlaPart(
        query=_affine(weights, prefix + ("q_proj" if direct else "q_b_proj")),
        query_down=None if direct else _affine(weights, prefix + "q_a_proj"),
        query_norm=None if direct else weights.vectors[prefix + "q_a_layernorm.weight"],
        latent=_affine(weights, prefix + "kv_a_proj_with_mqa"),
        latent_norm=weights.vectors[prefix + "kv_a_layernorm.weight"],
        key_up=weights.key_up[expand],
        value_up=weights.value_up[expand],
        output=_affine(weights, prefix + "o_proj"),
        nope_dim=mla.qk_nope_head_dim,
        rope_dim=mla.qk_rope_head_dim,
        scale=(mla.qk_nope_head_dim + mla.qk_rope_head_dim) ** -0.5 * mla_softmax_factor(config.rope.scaling),
        latent_eps=LATENT_NORM_EPS,
    )


def _dense(weights: PackedWeights, prefix: str) -> DensePart:
    gate, up, down = (weights.matrices[f"{prefix}{name}_proj.weight"] for name in ("gate", "up", "down"))
    return DensePart(gate=gate, up=up, down=down)


def _experts(moe: MoeConfig, weights: PackedWeights, prefix: str) -> ExpertBank | StreamedBank:
    if weights.stream is not None:
        return weights.stream.banks[prefix]
    return ExpertBank(
        [
            DensePart(
                gate=weights.experts[prefix, expert, "gate"],
                up=weights.experts[prefix, expert, "up"],
                down=weights.experts[prefix, expert, "down"],
            )
            for expert in range(moe.num_experts)
        ]
    )


def _moe(moe: MoeConfig, weights: PackedWeights, prefix: str) -> MoePart:
    return MoePart(
        router=RouterPart(
            gate=weights.matrices[prefix + "gate.weight"],
            bias=weights.vectors.get(prefix + "gate.e_score_correction_bias"),
            top_k=moe.experts_per_token,
            num_groups=moe.num_groups,
            topk_groups=moe.topk_groups,
            sigmoid=moe.scoring == "sigmoid",
            top2_sum=moe.group_score == "top2_sum",
            normalize=moe.normalize_topk,
            scaling=moe.routed_scaling_factor,
        ),
        experts=_experts(moe, weights, prefix + "experts"),
        shared=_dense(weights, prefix + "shared_experts.") if moe.shared_intermediate_size else None,
    )
