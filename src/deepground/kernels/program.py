"""A forward pass composed of packed weights, run by the native kernels in one call (csrc/program.h).

The parts mirror `model.decoder`'s layers; `model.native_decoder` fills them in. Every part keeps alive what it
points to.

Legend: T tokens of a pass, N tokens whose logits are wanted, D hidden size, R rotary pairs, P positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepground.kernels.expert_store import StreamedBank
from deepground.kernels.native import PackedMatrix, native_module


@dataclass(frozen=True, kw_only=True)
class Affine:
    """A linear map."""

    weight: PackedMatrix
    bias: Tensor | None = None
    """float32"""


@dataclass(frozen=True, kw_only=True)
class GqaPart:
    """Grouped-query attention."""

    query: Affine
    key: Affine
    value: Affine
    output: Affine
    query_norm: Tensor | None
    key_norm: Tensor | None
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    scale: float


@dataclass(frozen=True, kw_only=True)
class MlaPart:
    """Multi-head latent attention."""

    query: Affine
    """From the hidden state, or from the query's latent where there is `query_down`."""
    query_down: Affine | None
    query_norm: Tensor | None
    latent: Affine
    latent_norm: Tensor
    key_up: Sequence[PackedMatrix]
    value_up: Sequence[PackedMatrix]
    """The halves of kv_b_proj, head by head; see `model.packed_weights`."""
    output: Affine
    nope_dim: int
    rope_dim: int
    scale: float
    latent_eps: float


@dataclass(frozen=True, kw_only=True)
class DensePart:
    """A SwiGLU block."""

    gate: PackedMatrix
    up: PackedMatrix
    down: PackedMatrix


@dataclass(frozen=True, kw_only=True)
class RouterPart:
    """What chooses experts; the fields are those of `model.config.MoeConfig`."""

    gate: PackedMatrix
    bias: Tensor | None
    """Added for the choice alone; float32."""
    top_k: int
    num_groups: int
    topk_groups: int
    sigmoid: bool
    """Scores by sigmoid; else by softmax."""
    top2_sum: bool
    """A group's score is the sum of its two best; else its best."""
    normalize: bool
    scaling: float


class ExpertBank:
    """The routed experts of one layer, all in memory.

    Args:
        experts: in the order of their ids, of one shape.
    """

    def __init__(self, experts: Sequence[DensePart]) -> None:
        native = native_module()
        self._kept = experts
        self.handle = native.Experts([_expert(expert) for expert in experts])


@dataclass(frozen=True, kw_only=True)
class MoePart:
    """Routed experts and, beside them, shared ones."""

    router: RouterPart
    experts: ExpertBank | StreamedBank
    shared: DensePart | None


@dataclass(frozen=True, kw_only=True)
class LayerPart:
    """A decoder layer."""

    input_norm: Tensor
    post_norm: Tensor
    attention: GqaPart | MlaPart
    feed_forward: DensePart | MoePart


@dataclass(frozen=True, kw_only=True)
class MtpPart:
    """A layer of multi-token prediction."""

    layer: LayerPart
    embedding_norm: Tensor
    hidden_norm: Tensor
    head_norm: Tensor
    join: PackedMatrix
    """eh_proj"""


@dataclass(frozen=True)
class NativeSpan:
    """One sequence's share of a pass."""

    start: int
    length: int
    context: int
    slots: Tensor
    """int64 (context + length,), contiguous"""


class NativeCaches:
    """The tensors of a cache, all layers, as the kernels address them.

    Args:
        first: keys, or latents: (layers, slots, width), float32 or bfloat16, contiguous.
        second: values, of the same dtype; None for latents.
    """

    def __init__(self, first: Tensor, second: Tensor | None = None) -> None:
        for tensor in (first, second):
            if tensor is not None and (
                not tensor.is_contiguous() or tensor.dtype not in (torch.float32, torch.bfloat16)
            ):
                raise ValueError("cache tensors must be contiguous float32 or bfloat16")
        self._kept = (first, second)
        rows = []
        for layer in range(first.shape[0]):
            other = (0, 0) if second is None else (second[layer].data_ptr(), second.shape[2])
            rows.append((first[layer].data_ptr(), first.shape[2], *other))
        self.handle = native_module().Caches(rows, first.dtype == torch.bfloat16)


class NativeProgram:
    """A decoder without its embedding.

    Args:
        hidden_size: D.
        rotary_pairs: R.
        interleaved: layout of rotary pairs in the weights.
        eps: of the norms.
        norm: the final norm's weight.
        head: the output head.
    """

    def __init__(
        self, *, hidden_size: int, rotary_pairs: int, interleaved: bool, eps: float, norm: Tensor, head: PackedMatrix
    ) -> None:
        self._kept: list[object] = [norm, head]
        self.hidden_size, self.vocab_size = hidden_size, head.shape[0]
        self._program = native_module().Program(hidden_size, rotary_pairs, interleaved, eps, norm.data_ptr())
        self._program.set_head(head.handle)

    def add_layer(self, part: LayerPart) -> None:
        """The next layer."""
        self._program.add_layer(self._layer(part))

    def add_mtp_layer(self, part: MtpPart) -> None:
        """The next layer of multi-token prediction."""
        self._kept.append(part)
        norms = (part.embedding_norm.data_ptr(), part.hidden_norm.data_ptr(), part.head_norm.data_ptr())
        self._program.add_mtp_layer(self._layer(part.layer), *norms, part.join.handle)

    def forward(
        self,
        x_TD: Tensor,
        positions_T: Tensor,
        angles: tuple[Tensor, Tensor],
        spans: Sequence[NativeSpan],
        caches: NativeCaches,
    ) -> None:
        """Turn embeddings into hidden states after the final norm, in place.

        Args:
            x_TD: float32, contiguous.
            positions_T: int64.
            angles: cosines and sines of all positions, (P, R) float32.
            spans: cover T in order.
            caches: read and written.
        """
        cos_PR, sin_PR = angles
        self._program.forward(
            x_TD.shape[0],
            positions_T.data_ptr(),
            cos_PR.data_ptr(),
            sin_PR.data_ptr(),
            _flat(spans),
            caches.handle,
            x_TD.data_ptr(),
        )

    def mtp_forward(
        self,
        x_TD: Tensor,
        hidden_TD: Tensor,
        positions_T: Tensor,
        angles: tuple[Tensor, Tensor],
        spans: Sequence[NativeSpan],
        caches: NativeCaches,
        depth: int,
    ) -> None:
        """Turn embeddings of the next tokens into states that predict the token after, in place; as `forward`."""
        cos_PR, sin_PR = angles
        self._program.mtp_forward(
            x_TD.shape[0],
            positions_T.data_ptr(),
            cos_PR.data_ptr(),
            sin_PR.data_ptr(),
            _flat(spans),
            caches.handle,
            depth,
            hidden_TD.data_ptr(),
            x_TD.data_ptr(),
        )

    def mtp_draft(
        self,
        x_TD: Tensor,
        hidden_TD: Tensor,
        positions_T: Tensor,
        angles: tuple[Tensor, Tensor],
        spans: Sequence[NativeSpan],
        caches: NativeCaches,
        depth: int,
        *,
        embedding_VD: Tensor,
        wanted: Sequence[int],
        least: float,
    ) -> list[list[int]]:
        """Drafts after each span, all rounds in one call; `x_TD` is overwritten.

        Args:
            x_TD: embeddings of the next tokens; with the following ones as in `mtp_forward`.
            hidden_TD: states of the tokens.
            positions_T: int64.
            angles: reach as far as the drafts.
            spans: their slots reach as far as the drafts.
            caches: read and written.
            depth: of the layer.
            embedding_VD: bfloat16 or float32, contiguous.
            wanted: most drafts of each span, at least 1.
            least: where the drafts of a span are less likely together, it gets no more of them.
        """
        cos_PR, sin_PR = angles
        drafts: list[list[int]] = self._program.mtp_draft(
            x_TD.shape[0],
            positions_T.data_ptr(),
            cos_PR.data_ptr(),
            sin_PR.data_ptr(),
            _flat(spans),
            caches.handle,
            depth,
            hidden_TD.data_ptr(),
            x_TD.data_ptr(),
            embedding_VD.data_ptr(),
            embedding_VD.dtype == torch.bfloat16,
            least,
            list(wanted),
        )
        return drafts

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits (N, V), float32, of float32 contiguous states."""
        out_NV = torch.empty(hidden_ND.shape[0], self.vocab_size)
        self._program.logits(hidden_ND.data_ptr(), hidden_ND.shape[0], out_NV.data_ptr())
        return out_NV

    def _layer(self, part: LayerPart) -> Any:
        native = native_module()
        self._kept.append(part)
        layer = native.Layer(part.input_norm.data_ptr(), part.post_norm.data_ptr())
        if isinstance(part.attention, MlaPart):
            self._set_mla(layer, part.attention)
        else:
            _set_gqa(layer, part.attention)
        if isinstance(part.feed_forward, MoePart):
            self._set_moe(layer, part.feed_forward)
        else:
            dense = part.feed_forward
            layer.set_dense(dense.gate.handle, dense.up.handle, dense.down.handle)
        return layer

    def _set_moe(self, layer: Any, part: MoePart) -> None:
        router = native_module().Router(
            part.router.gate.handle,
            top_k=part.router.top_k,
            groups=part.router.num_groups,
            topk_groups=part.router.topk_groups,
            sigmoid=part.router.sigmoid,
            top2_sum=part.router.top2_sum,
            normalize=part.router.normalize,
            scaling=part.router.scaling,
            bias=_address(part.router.bias),
        )
        shared = None if part.shared is None else _expert(part.shared)
        self._kept += (router, shared)
        layer.set_moe(router, part.experts.handle, shared)

    def _set_mla(self, layer: Any, part: MlaPart) -> None:
        weights = native_module().MlaWeights(
            part.nope_dim,
            part.rope_dim,
            [matrix.handle for matrix in part.key_up],
            [matrix.handle for matrix in part.value_up],
        )
        self._kept.append(weights)
        down = part.query_down
        layer.set_mla(
            q=part.query.weight.handle,
            q_a=None if down is None else down.weight.handle,
            q_a_bias=0 if down is None else _address(down.bias),
            q_a_norm=_address(part.query_norm),
            kv_a=part.latent.weight.handle,
            kv_a_bias=_address(part.latent.bias),
            kv_a_norm=part.latent_norm.data_ptr(),
            o=part.output.weight.handle,
            o_bias=_address(part.output.bias),
            weights=weights,
            scale=part.scale,
            latent_eps=part.latent_eps,
        )


def _expert(part: DensePart) -> Any:
    return native_module().Expert(part.gate.handle, part.up.handle, part.down.handle)


def _set_gqa(layer: Any, part: GqaPart) -> None:
    maps = (part.query, part.key, part.value, part.output)
    layer.set_gqa(
        qkvo=[affine.weight.handle for affine in maps],
        biases=[_address(affine.bias) for affine in maps],
        q_norm=_address(part.query_norm),
        k_norm=_address(part.key_norm),
        heads=part.num_heads,
        kv_heads=part.num_kv_heads,
        head_dim=part.head_dim,
        rotary_dim=part.rotary_dim,
        scale=part.scale,
    )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _flat(spans: Sequence[NativeSpan]) -> list[int]:
    return [number for span in spans for number in (span.start, span.length, span.context, span.slots.data_ptr())]
