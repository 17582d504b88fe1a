"""A checkpoint's weights in the kernels' layout: read once, packed tensor by tensor.

Legend: N rows, K columns of a weight; E experts, F expert width; H heads, C latent width, W nope width and
V value width of a head.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from deepground.errors import WeightsError
from deepground.kernels import PackedFormat, PackedMatrix, pack_matrix
from deepground.model.buffered_files import SPARE_BYTES, BufferedCheckpoint
from deepground.model.config import MlaConfig, ModelConfig
from deepground.model.expert_streaming import ExpertStream
from deepground.model.quantization import Quantization
from deepground.model.raw_weights import RawWeight, expand, read_raw, stored_size
from deepground.model.weights import TensorSpec

_BLOCK_K = 128
"""Inputs per FP8 scale that the kernels know; other widths are expanded to bfloat16."""
_VECTORS = ("norm", "bias", "selection_bias")


@dataclass(frozen=True, kw_only=True)
class ExpertMatrices:
    """One routed expert."""

    gate: PackedMatrix
    up: PackedMatrix
    down: PackedMatrix


@dataclass(kw_only=True)
class PackedWeights:
    """All weights of a model, by parameter name (model.weights)."""

    embedding_VD: Tensor | None = None
    """In the checkpoint's own plain format."""
    vectors: dict[str, Tensor] = field(default_factory=dict)
    """Norms and biases, float32."""
    matrices: dict[str, PackedMatrix] = field(default_factory=dict)
    experts: dict[tuple[str, int, str], PackedMatrix] = field(default_factory=dict)
    """By the prefix of the layer's experts, expert, and gate, up or down."""
    key_up: dict[str, list[PackedMatrix]] = field(default_factory=dict)
    """By kv_b_proj's name: for each head (C, W), from a query to the latent's space."""
    value_up: dict[str, list[PackedMatrix]] = field(default_factory=dict)
    """By kv_b_proj's name: for each head (V, C), from the latent's space to values."""

    stream: ExpertStream | None = None
    """The routed experts, where they stay on disk; `experts` is empty then."""

    @property
    def formats(self) -> str:
        """Number formats of the matrices, the most common first."""
        counts = Counter(matrix.format for matrix in (*self.matrices.values(), *self.experts.values()))
        return " and ".join(name for name, _ in counts.most_common())

    @property
    def nbytes(self) -> int:
        """Memory of all weights, without experts on disk."""
        packed = [*self.matrices.values(), *self.experts.values()]
        for heads in (*self.key_up.values(), *self.value_up.values()):
            packed += heads
        plain = [*self.vectors.values()] + ([] if self.embedding_VD is None else [self.embedding_VD])
        return sum(matrix.nbytes for matrix in packed) + sum(tensor.nbytes for tensor in plain)


def read_packed(
    checkpoint: BufferedCheckpoint,
    config: ModelConfig,
    rows: list[TensorSpec],
    quantization: Quantization | None,
    *,
    skip_experts: bool = False,
) -> PackedWeights:
    """Read and pack the tensors of `rows`.

    Args:
        checkpoint: open; each tensor is read once, those that are larger than others by far first, the rest in the
            order of the rows.
        config: the model.
        rows: what `match_tensors` gave.
        quantization: the folder's.
        skip_experts: leave the routed experts where they are.

    Raises:
        WeightsError: a tensor is damaged; names it and its file.
    """
    packed = PackedWeights()
    wanted = [row for row in rows if not row.duplicate and not (skip_experts and row.role == "experts")]
    # A tensor is in memory twice while it is packed; that is the peak unless the large ones go first.
    for row in sorted(wanted, key=lambda row: stored_size(checkpoint.tensors, row.name) <= SPARE_BYTES):
        raw = read_raw(checkpoint, row, quantization)
        try:
            _take(packed, checkpoint, config, row, raw)
        except WeightsError as error:
            raise WeightsError(f"{checkpoint.folder}: the tensor {row.name}: {error}") from error
    return packed


def pack_raw(raw: RawWeight) -> PackedMatrix:
    """A stored matrix in the kernels' layout, in its own number format where there are kernels for it.

    float16 becomes bfloat16; FP8 in other blocks than 128 columns wide and 32 rows or a multiple high becomes
    bfloat16, exactly where its scales are powers of two.
    """
    if raw.format == "mxfp4":
        return pack_matrix("mxfp4", raw.codes, raw.scales, columns=raw.shape[-1])
    if raw.format in ("fp8", "fp8-ue8m0") and raw.block is not None:
        block_rows, block_columns = raw.block
        if block_columns == _BLOCK_K and block_rows % 32 == 0:
            return pack_matrix("fp8", raw.codes, raw.scales, block_rows=block_rows)
    if raw.format == "f32":
        return pack_matrix("f32", raw.codes)
    return pack_matrix("bf16", expand(raw, torch.bfloat16))


def _take(
    packed: PackedWeights, checkpoint: BufferedCheckpoint, config: ModelConfig, row: TensorSpec, raw: RawWeight
) -> None:
    """Put one tensor where it belongs."""
    if row.role in _VECTORS:
        packed.vectors[row.parameter] = expand(raw, torch.float32).clone()
    elif row.role == "embedding":
        if config.tie_word_embeddings:
            packed.matrices[row.parameter] = pack_raw(raw)
        plain = expand(raw, torch.float32 if raw.format == "f32" else torch.bfloat16)
        packed.embedding_VD = checkpoint.keep(plain)
    elif row.role == "experts":
        _take_experts(packed, row, raw)
    elif row.parameter.endswith("kv_b_proj.weight") and isinstance(config.attention, MlaConfig):
        _absorb(packed, row.parameter, raw, config.attention)
    else:
        packed.matrices[row.parameter] = pack_raw(raw)


def _take_experts(packed: PackedWeights, row: TensorSpec, raw: RawWeight) -> None:
    prefix, _, leaf = row.parameter.rpartition(".")
    if row.expert is not None:
        part = "down" if row.rows is None else ("gate" if row.rows[0] == 0 else "up")
        packed.experts[prefix, row.expert, part] = pack_raw(raw)
        return
    for expert in range(raw.shape[0]):  # Stacked, as transformers 5 can write them.
        scales = None if raw.scales is None else raw.scales[expert]
        one = replace(raw, codes=raw.codes[expert], scales=scales, shape=raw.shape[1:])
        if leaf == "down_proj":
            packed.experts[prefix, expert, "down"] = pack_raw(one)
            continue
        half = one.shape[0] // 2
        packed.experts[prefix, expert, "gate"] = pack_raw(_rows(one, 0, half))
        packed.experts[prefix, expert, "up"] = pack_raw(_rows(one, half, 2 * half))


def _rows(raw: RawWeight, first: int, last: int) -> RawWeight:
    """Some rows of a stored matrix; expanded where they cut through a block of scales."""
    shape = (last - first, raw.shape[1])
    if raw.scales is None or raw.block is None:
        return replace(raw, codes=raw.codes[first:last], shape=shape)
    height = raw.block[0]
    if first % height:
        return RawWeight(
            format="bf16", codes=expand(raw, torch.bfloat16)[first:last], scales=None, block=None, shape=shape
        )
    scales = raw.scales[first // height : -(-last // height)]
    return replace(raw, codes=raw.codes[first:last], scales=scales, shape=shape)


def _absorb(packed: PackedWeights, name: str, raw: RawWeight, mla: MlaConfig) -> None:
    """The two halves of kv_b_proj, head by head, as absorbed attention multiplies with them.

    bfloat16 holds FP8 with power-of-two scales exactly; other formats keep float32.
    """
    exact = raw.format in ("bf16", "fp8-ue8m0", "mxfp4")
    format_: PackedFormat = "bf16" if exact else "f32"
    weight_HOC = expand(raw, torch.bfloat16 if exact else torch.float32).view(mla.num_heads, -1, mla.kv_lora_rank)
    key_HWC, value_HVC = weight_HOC.split_with_sizes((mla.qk_nope_head_dim, mla.v_head_dim), dim=1)
    packed.key_up[name] = [pack_matrix(format_, key_WC.t().contiguous()) for key_WC in key_HWC]
    packed.value_up[name] = [pack_matrix(format_, value_VC.contiguous()) for value_VC in value_HVC]
