"""The weight-name table: our parameters and Hugging Face's tensors, both ways.

Legend: V vocabulary, D hidden size, F feed-forward width, E experts, H query heads, K key-value heads.

`parameters(config)` lists every parameter of a decoder with its shape and role. `ParameterSpec.tensors`
says which checkpoint tensors it is made of: one of the same name, except that routed experts are stacked
here and separate there, and that MTP layer k is `model.mtp_layers.k` here and `model.layers.{L+k}` there.
Loading, saving and size estimates all read this one table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from deepground.errors import WeightsError
from deepground.model.config import GqaConfig, MlaConfig, ModelConfig

Role = Literal["embedding", "head", "norm", "bias", "router", "selection_bias", "matrix", "experts", "mtp", "indexer"]
"""matrix and experts are what number formats compress; mtp is eh_proj; indexer its small weights_proj."""

HARMLESS_SUFFIXES = (".rotary_emb.inv_freq",)
"""Tensors that old checkpoints carry and that are derived from the config."""

_MANY_MISSING = 10_000
"""Where the search stops: the config is not that of these weights, and may ask for millions of tensors."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]
    parameter: str
    """The parameter that it is, or is a part of."""
    expert: int | None = None
    """Index into the parameter's first dimension; None: the whole parameter."""
    rows: tuple[int, int] | None = None
    """First and last-plus-one row of that expert's matrix; None: all."""
    duplicate: bool = False
    """A second copy of the parameter, which checkpoints with MTP carry; may be absent."""
    role: Role


@dataclass(frozen=True, kw_only=True)
class ParameterSpec:
    """One parameter of a decoder."""

    name: str
    shape: tuple[int, ...]
    role: Role
    prefix: str
    """Of the checkpoint tensors; differs from the parameter's own in MTP layers."""

    @property
    def size(self) -> int:
        """Values in the parameter."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size

    @property
    def is_float32(self) -> bool:
        """Whether it stays float32 whatever the compute format: rounding would change which experts are chosen."""
        return self.role == "selection_bias"

    def tensors(self) -> Iterator[TensorSpec]:
        """The checkpoint tensors that this parameter is made of."""
        leaf = self.name.rsplit(".", 1)[-1]
        if self.role != "experts":
            yield TensorSpec(name=self.prefix, shape=self.shape, parameter=self.name, role=self.role)
            return
        experts, rows, columns = self.shape
        base = self.prefix.removesuffix(leaf)
        halves = (("gate_proj", 0), ("up_proj", rows // 2)) if leaf == "gate_up_proj" else (("down_proj", 0),)
        height = rows // len(halves)
        for expert in range(experts):
            for part, first in halves:
                yield TensorSpec(
                    name=f"{base}{expert}.{part}.weight",
                    shape=(height, columns),
                    parameter=self.name,
                    expert=expert,
                    rows=(first, first + height) if len(halves) > 1 else None,
                    role=self.role,
                )

    def fused(self) -> TensorSpec | None:
        """The stacked form that transformers 5 holds in memory and can write; None where there is none."""
        if self.role != "experts":
            return None
        return TensorSpec(name=self.prefix, shape=self.shape, parameter=self.name, role=self.role)


def parameters(config: ModelConfig) -> list[ParameterSpec]:
    """Every parameter of a decoder, in the order of a forward pass.

    Args:
        config: the model.

    Returns:
        Names, shapes and roles.
    """
    vocabulary = (config.vocab_size, config.hidden_size)
    specs = [_spec("model.embed_tokens.weight", vocabulary, "embedding")]
    for layer in range(config.num_layers):
        specs += _layer(config, layer, f"model.layers.{layer}.", f"model.layers.{layer}.")
    specs.append(_spec("model.norm.weight", (config.hidden_size,), "norm"))
    if not config.tie_word_embeddings:
        specs.append(_spec("lm_head.weight", vocabulary, "head"))
    for depth in range(config.num_mtp_layers):
        index = config.num_layers + depth
        ours, theirs = f"model.mtp_layers.{depth}.", f"model.layers.{index}."
        width = config.hidden_size
        for name, shape, role in _MTP_ROWS:
            extents = tuple(count * width for count in shape)
            specs.append(ParameterSpec(name=f"{ours}{name}", shape=extents, role=role, prefix=f"{theirs}{name}"))
        specs += _layer(config, index, ours, theirs)
    return specs


_MTP_ROWS: tuple[tuple[str, tuple[int, ...], Role], ...] = (
    ("enorm.weight", (1,), "norm"),
    ("hnorm.weight", (1,), "norm"),
    ("eh_proj.weight", (1, 2), "mtp"),
    ("shared_head.norm.weight", (1,), "norm"),
)
"""What an MTP layer has besides a decoder layer; extents in units of the hidden size."""


def tensors(config: ModelConfig) -> Iterator[TensorSpec]:
    """Every checkpoint tensor of a model, MTP's duplicates of embedding and head included."""
    for spec in parameters(config):
        yield from spec.tensors()
    vocabulary = (config.vocab_size, config.hidden_size)
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    sources: tuple[tuple[str, str, Role], ...] = (
        ("embed_tokens.weight", "model.embed_tokens.weight", "embedding"),
        ("shared_head.head.weight", head, "head"),
    )
    for depth in range(config.num_mtp_layers):
        prefix = f"model.layers.{config.num_layers + depth}."
        for name, parameter, role in sources:
            yield TensorSpec(name=prefix + name, shape=vocabulary, parameter=parameter, duplicate=True, role=role)


def match(config: ModelConfig, present: Iterable[str]) -> list[TensorSpec]:
    """Which tensor of a checkpoint is which.

    Args:
        config: the model.
        present: tensor names in the checkpoint, block scales left out.

    Returns:
        One row for every tensor that is to be read.

    Raises:
        WeightsError: tensors are missing or unknown; names the first of them and counts the rest.
    """
    unclaimed = set(present)
    rows: list[TensorSpec] = []
    missing: list[str] = []
    fused = {spec.name: form for spec in parameters(config) if (form := spec.fused()) and form.name in unclaimed}
    for form in fused.values():
        unclaimed.discard(form.name)
        rows.append(form)
    for tensor in tensors(config):
        if tensor.parameter in fused:
            continue
        if tensor.name in unclaimed:
            unclaimed.discard(tensor.name)
            rows.append(tensor)
        elif not tensor.duplicate:
            missing.append(tensor.name)
            if len(missing) == _MANY_MISSING:
                break
    # With tied embeddings some checkpoints still carry the head; it is the embedding's second copy.
    if config.tie_word_embeddings and "lm_head.weight" in unclaimed:
        unclaimed.discard("lm_head.weight")
        shape = (config.vocab_size, config.hidden_size)
        name = "lm_head.weight"
        rows.append(
            TensorSpec(name=name, shape=shape, parameter="model.embed_tokens.weight", duplicate=True, role="head")
        )
    unknown = sorted(name for name in unclaimed if not name.endswith(HARMLESS_SUFFIXES))
    if missing:
        raise WeightsError(
            f"{_listed(missing)} missing from the checkpoint; config.json asks for them: download the folder again, "
            "or restore the config.json that belongs to these weights"
        )
    if unknown:
        raise WeightsError(
            f"{_listed(unknown)} unknown to the family {config.family} at the sizes in config.json; "
            "restore the config.json that belongs to these weights"
        )
    return rows


def has_mtp(config: ModelConfig, present: Iterable[str]) -> bool:
    """Whether any tensor of the model's MTP layers is in a checkpoint; many republished ones dropped them."""
    prefixes = tuple(f"model.layers.{config.num_layers + depth}." for depth in range(config.num_mtp_layers))
    return any(name.startswith(prefixes) for name in present) if prefixes else False


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    if len(names) == 1:
        return f"1 tensor ({shown}) is"
    count = f"{'at least ' if len(names) == _MANY_MISSING else ''}{len(names)}"
    return f"{count} tensors ({shown}{', ...' if len(names) > 3 else ''}) are"


def _spec(name: str, shape: tuple[int, ...], role: Role) -> ParameterSpec:
    return ParameterSpec(name=name, shape=shape, role=role, prefix=name)


def _layer(config: ModelConfig, index: int, ours: str, theirs: str) -> list[ParameterSpec]:
    """One decoder layer; `ours` and `theirs` are the prefixes of its parameters and tensors."""
    width = config.hidden_size
    if isinstance(config.attention, MlaConfig):
        rows = list(_mla(config.attention, width))
    else:
        rows = list(_gqa(config.attention, width))
    if config.moe is not None and index in config.moe_layers:
        rows += _moe(config)
    else:
        rows += _feed_forward("mlp.", width, config.intermediate_size, bias=config.mlp_bias)
    rows.append(("input_layernorm.weight", (width,), "norm"))
    rows.append(("post_attention_layernorm.weight", (width,), "norm"))
    return [
        ParameterSpec(name=f"{ours}{name}", shape=shape, role=role, prefix=f"{theirs}{name}")
        for name, shape, role in rows
    ]


_Row = tuple[str, tuple[int, ...], Role]


def _linear(name: str, out: int, width: int, *, bias: bool = False) -> Iterator[_Row]:
    yield f"{name}.weight", (out, width), "matrix"
    if bias:
        yield f"{name}.bias", (out,), "bias"


def _gqa(attention: GqaConfig, width: int) -> Iterator[_Row]:
    queries, keys = (count * attention.head_dim for count in (attention.num_heads, attention.num_kv_heads))
    for name, out in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
        yield from _linear(f"self_attn.{name}", out, width, bias=attention.qkv_bias)
    yield from _linear("self_attn.o_proj", width, queries, bias=attention.output_bias)
    if attention.qk_norm:
        yield "self_attn.q_norm.weight", (attention.head_dim,), "norm"
        yield "self_attn.k_norm.weight", (attention.head_dim,), "norm"


def _mla(attention: MlaConfig, width: int) -> Iterator[_Row]:
    heads, bias = attention.num_heads, attention.attention_bias
    queries = heads * (attention.qk_nope_head_dim + attention.qk_rope_head_dim)
    if attention.q_lora_rank is None:
        yield from _linear("self_attn.q_proj", queries, width)
    else:
        yield from _linear("self_attn.q_a_proj", attention.q_lora_rank, width, bias=bias)
        yield "self_attn.q_a_layernorm.weight", (attention.q_lora_rank,), "norm"
        yield from _linear("self_attn.q_b_proj", queries, attention.q_lora_rank)
    latent = attention.kv_lora_rank + attention.qk_rope_head_dim
    yield from _linear("self_attn.kv_a_proj_with_mqa", latent, width, bias=bias)
    yield "self_attn.kv_a_layernorm.weight", (attention.kv_lora_rank,), "norm"
    expanded = heads * (attention.qk_nope_head_dim + attention.v_head_dim)
    yield from _linear("self_attn.kv_b_proj", expanded, attention.kv_lora_rank)
    yield from _linear("self_attn.o_proj", width, heads * attention.v_head_dim, bias=bias)
    indexer = attention.indexer
    if indexer is not None and attention.q_lora_rank is not None:
        yield from _linear("self_attn.indexer.wq_b", indexer.num_heads * indexer.head_dim, attention.q_lora_rank)
        yield from _linear("self_attn.indexer.wk", indexer.head_dim, width)
        yield "self_attn.indexer.k_norm.weight", (indexer.head_dim,), "norm"
        yield "self_attn.indexer.k_norm.bias", (indexer.head_dim,), "norm"
        yield "self_attn.indexer.weights_proj.weight", (indexer.num_heads, width), "indexer"


def _feed_forward(prefix: str, width: int, inner: int, *, bias: bool = False) -> Iterator[_Row]:
    for name, out, fan_in in (("gate_proj", inner, width), ("up_proj", inner, width), ("down_proj", width, inner)):
        yield from _linear(f"{prefix}{name}", out, fan_in, bias=bias)


def _moe(config: ModelConfig) -> Iterator[_Row]:
    moe, width = config.moe, config.hidden_size
    if moe is None:
        return
    yield "mlp.gate.weight", (moe.num_experts, width), "router"
    if moe.correction_bias:
        yield "mlp.gate.e_score_correction_bias", (moe.num_experts,), "selection_bias"
    yield "mlp.experts.gate_up_proj", (moe.num_experts, 2 * moe.intermediate_size, width), "experts"
    yield "mlp.experts.down_proj", (moe.num_experts, width, moe.intermediate_size), "experts"
    if moe.shared_intermediate_size:
        yield from _feed_forward("mlp.shared_experts.", width, moe.shared_intermediate_size)
