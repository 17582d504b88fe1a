"""The decoder in its form for processors: packed weights, native kernels, one call per pass.

`model.decoder` is the law and serves training, GPUs and what the kernels do not cover; this computes the same
(tests compare them) from the checkpoint's own number formats, at the speed of memory.

Legend: T tokens of the pass, N tokens whose logits are wanted, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from deepground.errors import EngineError
from deepground.kernels import ExpertStats, NativeCaches, NativeRuntime, NativeSpan, native_available, start_native
from deepground.model.batch import Batch, KVCache, PagedBatch, Span
from deepground.model.buffered_files import BufferedCheckpoint
from deepground.model.config import MlaConfig, ModelConfig
from deepground.model.config_fields import Fields
from deepground.model.decoder import Decoder
from deepground.model.expert_streaming import ExpertStream, expert_layers, plan_memory
from deepground.model.families import read_config
from deepground.model.loading import load_config, load_model, load_raw_config, match_tensors, without_mtp
from deepground.model.memory import ServingDtype
from deepground.model.native_layers import compose
from deepground.model.packed_weights import PackedWeights, read_packed
from deepground.model.quantization import check_quantization
from deepground.model.rope import RotaryEmbedding
from deepground.model.weights import has_mtp

_FIRST_POSITIONS = 4096


def native_obstacle(config: ModelConfig) -> str | None:
    """Why the native kernels cannot run a model; None where they can."""
    if not native_available():
        return "the native kernels were not built"
    if isinstance(config.attention, MlaConfig) and config.attention.indexer is not None:
        return "sparse attention with an indexer has no native kernels yet"
    if config.mlp_bias:
        return "feed-forward blocks with biases have no native kernels"
    return None


class NativeDecoder:
    """A decoder on packed weights; stands where `Decoder` does in the engine.

    Args:
        config: the model; `native_obstacle` finds nothing against it.
        weights: all of them.
        runtime: what the kernels run on.
        cache_bytes: what is planned for keys and values, where memory is short; else None.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: PackedWeights,
        runtime: NativeRuntime,
        *,
        cache_bytes: int | None = None,
    ) -> None:
        assert weights.embedding_VD is not None
        self.config, self.weights, self.runtime = config, weights, runtime
        self.cache_bytes = cache_bytes
        self._embedding = Parameter(weights.embedding_VD, requires_grad=False)
        self._rope = RotaryEmbedding(config.rope)
        self._angles = self._rope.tables(torch.arange(min(config.max_positions, _FIRST_POSITIONS)))
        self._caches: tuple[KVCache, NativeCaches] | None = None
        self._program = compose(config, weights)

    @property
    def description(self) -> str:
        """What it runs on, in words."""
        runtime = self.runtime
        note = f" ({runtime.fallback_reason})" if runtime.fallback_reason else ""
        return f"native kernels, {runtime.isa}{note}, {runtime.threads} threads; weights {self.weights.formats}"

    def parameters(self) -> Iterator[Parameter]:
        """The embedding, the only plain tensor; tells device and number format."""
        yield self._embedding

    def expert_stats(self) -> ExpertStats | None:
        """How often experts were found in memory; None where all of them are. May be asked from any thread."""
        return None if self.weights.stream is None else self.weights.stream.stats()

    def __call__(self, batch: Batch) -> Tensor:
        """Hidden states (T, D), after the final norm; float32."""
        batch = self._paged(batch)
        x_TD = self._embed(batch.token_ids_T)
        self._program.forward(
            x_TD, batch.positions_T, self._tables(batch), _spans(batch), self._native_caches(batch.cache)
        )
        return x_TD

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits (N, V) in float32; give only the tokens whose logits are wanted."""
        return self._program.logits(hidden_ND.float().contiguous())

    def mtp_hidden(self, hidden_TD: Tensor, next_token_ids_T: Tensor, batch: Batch, depth: int = 0) -> Tensor:
        """States (T, D) from which `logits` predicts the token after the next; as `Decoder.mtp_hidden`."""
        batch = self._paged(batch)
        x_TD = self._embed(next_token_ids_T)
        self._program.mtp_forward(
            x_TD,
            hidden_TD.float().contiguous(),
            batch.positions_T,
            self._tables(batch),
            _spans(batch),
            self._native_caches(batch.cache),
            depth,
        )
        return x_TD

    def mtp_draft(
        self,
        hidden_TD: Tensor,
        next_token_ids_T: Tensor,
        batch: PagedBatch,
        wanted: Sequence[int],
        *,
        least: float,
    ) -> list[list[int]]:
        """Greedy drafts after each span's last token, all rounds in one call.

        Args:
            hidden_TD: as in `mtp_hidden`.
            next_token_ids_T: as in `mtp_hidden`.
            batch: its spans' slots reach beyond the span by as many places as drafts are wanted.
            wanted: most drafts of each span, at least 1.
            least: where the drafts of a span are, by the layer's own estimate, less likely together, it gets no more.
        """
        embedding_VD = self._embedding
        if embedding_VD.dtype not in (torch.bfloat16, torch.float32):
            embedding_VD = self._embedding = Parameter(embedding_VD.float(), requires_grad=False)
        return self._program.mtp_draft(
            self._embed(next_token_ids_T),
            hidden_TD.float().contiguous(),
            batch.positions_T,
            self._tables(batch, ahead=max(wanted)),
            _spans(batch),
            self._native_caches(batch.cache),
            0,
            embedding_VD=embedding_VD,
            wanted=wanted,
            least=least,
        )

    def _embed(self, token_ids_T: Tensor) -> Tensor:
        return self._embedding.index_select(0, token_ids_T).float()

    def _tables(self, batch: PagedBatch, ahead: int = 0) -> tuple[Tensor, Tensor]:
        """Angles of all positions so far met and of `ahead` more, in the reference's own arithmetic."""
        length = int(batch.positions_T.max()) + 1 + ahead
        if length > self._angles[0].shape[0]:
            self._angles = self._rope.tables(torch.arange(max(length, min(2 * length, self.config.max_positions))))
        return self._angles

    def _native_caches(self, cache: KVCache) -> NativeCaches:
        if self._caches is None or self._caches[0] is not cache:
            tensors = cache.tensors
            native = (
                NativeCaches(tensors["latent"])
                if "latent" in tensors
                else NativeCaches(tensors["key"], tensors["value"])
            )
            self._caches = (cache, native)
        return self._caches[1]

    def _paged(self, batch: Batch) -> PagedBatch:
        """A batch of rows as one with a cache of its own."""
        if isinstance(batch, PagedBatch):
            return batch
        if batch.segment_ids_BS is not None:
            raise EngineError("packed samples are for training; the native decoder takes one sequence per row")
        tokens = batch.token_ids_T.shape[0]
        length = tokens // batch.num_rows
        slots_T = torch.arange(tokens)
        spans = tuple(
            Span(start=start, length=length, context=0, slots=slots_T[start : start + length])
            for start in range(0, tokens, length)
        )
        return PagedBatch(
            token_ids_T=batch.token_ids_T,
            positions_T=batch.positions_T,
            spans=spans,
            cache=KVCache(self.config, tokens, dtype=torch.float32),
        )


def _spans(batch: PagedBatch) -> list[NativeSpan]:
    return [NativeSpan(span.start, span.length, span.context, span.slots) for span in batch.spans]


def load_decoder(
    folder: Path | str,
    *,
    dtype: ServingDtype = "auto",
    threads: int | None = None,
    memory_limit: int | None = None,
    cache_bytes: int | None = None,
) -> Decoder | NativeDecoder:
    """Load a Hugging Face folder for serving on this machine.

    Args:
        folder: config.json beside the weights.
        dtype: see `ServingDtype`.
        threads: for the native kernels; None: one per physical core.
        memory_limit: see `load_native`; torch has no use for one, and refuses it.
        cache_bytes: see `load_native`.

    Raises:
        Those of `load_model` and `load_native`.
    """
    if dtype == "native":
        obstacle = None
    else:
        obstacle = native_obstacle(load_config(folder)) if dtype == "auto" else f"dtype is {dtype}"
    if dtype == "native" or obstacle is None:
        return load_native(folder, threads=threads, memory_limit=memory_limit, cache_bytes=cache_bytes)
    if memory_limit is not None:
        raise EngineError(f"memory_limit is for the native kernels, but {obstacle}; leave it out")
    return load_model(folder, dtype=dtype)


def load_native(
    folder: Path | str,
    *,
    threads: int | None = None,
    memory_limit: int | None = None,
    cache_bytes: int | None = None,
    check_memory: bool = True,
) -> NativeDecoder:
    """Load a Hugging Face folder for the native kernels.

    Weights keep the number format that they are stored in; the file is read once, and the peak of memory is the
    packed weights and the largest tensor. MTP layers are treated as in `load_model`. Where the routed experts do not
    fit in memory, they stay on disk, and memory holds those that are used most (`expert_streaming`).

    Args:
        folder: config.json beside the weights.
        threads: None: one per physical core.
        memory_limit: most bytes that the whole process may take; None: what the machine or the container has left.
        cache_bytes: what keys and values are going to take; None: `MemoryPlan.cache`.
        check_memory: refuse a model that does not fit in memory before allocating anything, and leave experts on disk.

    Raises:
        ConfigError, UnsupportedModelError, WeightsError, UnsafeFileError: as `load_model`.
        EngineError: the kernels were not built, or do not cover the model; says why.
        OutOfMemoryError: the model would not fit, even with its experts on disk.
    """
    folder = Path(folder)
    raw = load_raw_config(folder)
    config = read_config(raw)
    obstacle = native_obstacle(config)
    if obstacle is not None:
        raise EngineError(f"{folder}: {obstacle}; load it with dtype float32 or bfloat16 for torch")
    runtime = start_native(threads)
    with BufferedCheckpoint(folder) as checkpoint:
        if config.num_mtp_layers and not has_mtp(config, checkpoint.tensors):
            config = without_mtp(config)
        rows = match_tensors(config, checkpoint)
        quantization = check_quantization(Fields(raw))
        plan = plan_memory(config, checkpoint, rows, memory_limit=memory_limit, cache_bytes=cache_bytes)
        if check_memory:
            plan.check()
        streams = check_memory and plan.streams
        stream = ExpertStream(config, expert_layers(checkpoint, rows, quantization), plan) if streams else None
        weights = read_packed(checkpoint, config, rows, quantization, skip_experts=streams)
    weights.stream = stream
    planned = plan.cache if streams or memory_limit is not None else None
    return NativeDecoder(config, weights, runtime, cache_bytes=planned)
