"""What one step of a model must read and compute: the yardstick that speeds are held against.

Only what cannot be avoided counts: every weight in use once per step, every cached key and value once, two operations
for each weight and token. Activations stay in the processor's caches.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from deepground.engine import Engine, ForwardModel
from deepground.kernels import MachineLimits
from deepground.model import ModelConfig
from deepground.model.config import MlaConfig
from deepground.model.packed_weights import PackedWeights
from deepground.model.weights import parameters


@dataclass(frozen=True, kw_only=True)
class WeightBytes:
    """A model's weights as they lie in memory, by when a step reads them."""

    always: int
    """Read in every step: attention, dense blocks, shared experts, routers, norms."""
    head: int
    """The output head; prefill reads it for the last token alone."""
    experts: int
    """All routed experts; a token uses its share of them."""
    embedding: int
    """A row per token; not counted as read."""

    @property
    def total(self) -> int:
        """Memory of all weights, multi-token prediction left out."""
        return self.always + self.head + self.experts + self.embedding


@dataclass(frozen=True, kw_only=True)
class Step:
    """Bytes and operations of one pass of the model."""

    read_bytes: float
    flops: float

    def seconds(self, limits: MachineLimits) -> float:
        """The least time that the machine needs: the longer of reading and computing."""
        return max(self.read_bytes / limits.read_bytes_per_s, self.flops / limits.flops_per_s)

    def bound(self, limits: MachineLimits) -> str:
        """Which of the two it is: memory or arithmetic."""
        reads = self.read_bytes / limits.read_bytes_per_s
        return "memory" if reads >= self.flops / limits.flops_per_s else "arithmetic"


class Traffic:
    """Reckons the steps of one model.

    Args:
        config: the model.
        weights: as they lie in memory.
        cache_bytes_per_token: keys and values of one token in all layers that decoding reads.
    """

    def __init__(self, config: ModelConfig, weights: WeightBytes, cache_bytes_per_token: float) -> None:
        self.config, self.weights, self.cache_bytes_per_token = config, weights, cache_bytes_per_token
        self._always, self._head, self._experts = parameter_counts(config)

    @classmethod
    def of(cls, engine: Engine) -> Traffic:
        """Of an engine's model, with its own cache."""
        config = engine.decoder.config
        slots = engine.stats.pages_total * engine.config.page_size
        # The layers of multi-token prediction have room in the cache too, but plain decoding does not read it.
        share = config.num_layers / (config.num_layers + config.num_mtp_layers)
        return cls(config, weight_bytes(engine.decoder), engine.cache_bytes / slots * share)

    def decode(self, streams: int, context: int) -> Step:
        """One token for each of `streams` requests, each with `context` tokens behind it."""
        used = self._expert_share(streams)
        weights = self.weights.always + self.weights.head + self.weights.experts * used
        cache = streams * context * self.cache_bytes_per_token
        per_token = self._always + self._head + self._experts * self._expert_share(1)
        return Step(
            read_bytes=weights + cache,
            flops=streams * (2 * per_token + self._attention_flops(context, absorbed=True)),
        )

    def prefill(self, length: int) -> Step:
        """A prompt of `length` tokens of which the last one's logits are wanted."""
        weights = self.weights.always + self.weights.head + self.weights.experts * self._expert_share(length)
        per_token = self._always + self._experts * self._expert_share(1)
        attention = self._attention_flops(length / 2, absorbed=False)
        return Step(
            read_bytes=weights + length * self.cache_bytes_per_token,
            flops=length * (2 * per_token + attention) + 2 * self._head,
        )

    def _expert_share(self, tokens: int) -> float:
        """Share of the routed experts that `tokens` tokens use, if they choose independently of each other."""
        moe = self.config.moe
        return 1.0 if moe is None else 1 - (1 - moe.experts_per_token / moe.num_experts) ** tokens

    def _attention_flops(self, context: float, *, absorbed: bool) -> float:
        """Scores and weighted sums of one token over `context` earlier ones, in all layers."""
        attention = self.config.attention
        if not isinstance(attention, MlaConfig):
            width = 2 * attention.head_dim
        elif absorbed:
            width = 2 * attention.kv_lora_rank + attention.qk_rope_head_dim
        else:
            width = attention.qk_nope_head_dim + attention.qk_rope_head_dim + attention.v_head_dim
        return 2.0 * self.config.num_layers * attention.num_heads * width * context


def weight_bytes(decoder: ForwardModel) -> WeightBytes:
    """The weights of a loaded decoder, in the number formats in which it holds them."""
    sizes = _plain_sizes(decoder) if isinstance(decoder, nn.Module) else _packed_sizes(decoder)
    always = head = experts = embedding = 0
    tied = decoder.config.tie_word_embeddings
    for name, size in sizes:
        if "mtp_layers" in name:
            continue
        if ".experts" in name:
            experts += size
        elif name.startswith("lm_head") or (tied and name.startswith("model.embed_tokens")):
            head += size
        elif name.startswith("model.embed_tokens"):
            embedding += size
        else:
            always += size
    return WeightBytes(always=always, head=head, experts=experts, embedding=embedding)


def streamed_bytes(decoder: ForwardModel) -> int:
    """Routed experts that stay on disk, of which memory holds some; 0 where all weights are in memory."""
    weights = getattr(decoder, "weights", None)
    stream = weights.stream if isinstance(weights, PackedWeights) else None
    return 0 if stream is None else stream.estimate.plan.experts


def _plain_sizes(decoder: nn.Module) -> list[tuple[str, int]]:
    return [(name, parameter.nbytes) for name, parameter in decoder.named_parameters()]


def _packed_sizes(decoder: ForwardModel) -> list[tuple[str, int]]:
    """Names and bytes of packed weights; a tied embedding counts once, in its packed form."""
    weights = getattr(decoder, "weights", None)
    if not isinstance(weights, PackedWeights):
        return [(str(index), parameter.nbytes) for index, parameter in enumerate(decoder.parameters())]
    sizes = [(name, matrix.nbytes) for name, matrix in weights.matrices.items()]
    sizes += [(f"{prefix}.experts", matrix.nbytes) for (prefix, _, _), matrix in weights.experts.items()]
    sizes.append((".experts on disk", streamed_bytes(decoder)))
    for heads in (weights.key_up, weights.value_up):
        sizes += [(name, matrix.nbytes) for name, matrices in heads.items() for matrix in matrices]
    sizes += [(name, vector.nbytes) for name, vector in weights.vectors.items()]
    if weights.embedding_VD is not None and not decoder.config.tie_word_embeddings:
        sizes.append(("model.embed_tokens.weight", weights.embedding_VD.nbytes))
    return sizes


def parameter_counts(config: ModelConfig) -> tuple[int, int, int]:
    """Values that take part in products: always, in the head, in routed experts."""
    always = experts = 0
    for spec in parameters(config):
        if spec.name.startswith("model.mtp_layers.") or spec.role in ("embedding", "head"):
            continue
        if spec.role == "experts":
            experts += spec.size
        else:
            always += spec.size
    return always, config.vocab_size * config.hidden_size, experts
