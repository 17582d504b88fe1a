"""Small model configurations, and decoders and caches made of them.

Legend: T tokens, B rows, S row length.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from deepground.model import Decoder, KVCache, ModelConfig, PagedBatch, RowBatch, Span
from deepground.model.config import GqaConfig, IndexerConfig, MlaConfig, MoeConfig, RopeConfig

VOCAB = 61
MLA = MlaConfig(num_heads=3, q_lora_rank=None, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=10)
SPARSE_MLA = replace(MLA, q_lora_rank=14, indexer=IndexerConfig(num_heads=12, head_dim=8, topk=6))
GQA = GqaConfig(num_heads=4, num_kv_heads=2, head_dim=8, qk_norm=True)
MOE = MoeConfig(
    num_experts=4,
    experts_per_token=2,
    intermediate_size=16,
    shared_intermediate_size=12,
    scoring="sigmoid",
    correction_bias=True,
    group_score="top2_sum",
    normalize_topk=True,
)


def tiny_config(attention: GqaConfig | MlaConfig = MLA, **changes: object) -> ModelConfig:
    """Two layers, the second one of experts."""
    mla = isinstance(attention, MlaConfig)
    config = ModelConfig(
        family="deepseek_v3" if mla else "qwen3_moe",
        vocab_size=VOCAB,
        hidden_size=24,
        num_layers=2,
        intermediate_size=32,
        max_positions=128,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        attention=attention,
        rope=RopeConfig(theta=10000.0, rotary_dim=4 if mla else 8, interleaved=mla),
        moe=MOE,
        moe_layers=frozenset({1}),
        initializer_range=0.3,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def tiny_decoder(config: ModelConfig, seed: int = 0) -> Decoder:
    """A decoder with random weights, in evaluation mode."""
    decoder = Decoder(config)
    decoder.init_weights(seed)
    return decoder.eval()


def random_tokens(length: int, seed: int = 0) -> Tensor:
    """Token ids (length,)."""
    return torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def row_hidden(decoder: Decoder, tokens_T: Tensor) -> Tensor:
    """Hidden states of one sequence, without a cache."""
    hidden: Tensor = decoder(RowBatch.single(tokens_T))
    return hidden


@torch.inference_mode()
def paged_hidden(decoder: Decoder, cache: KVCache, chunks: list[tuple[Tensor, Tensor, int]]) -> list[Tensor]:
    """Hidden states of each chunk of one pass.

    Args:
        decoder: the model.
        cache: is written and read.
        chunks: for each sequence its new tokens, the slots of all its tokens, and how many are cached already.
    """
    spans, start = [], 0
    for tokens, slots, context in chunks:
        spans.append(Span(start=start, length=len(tokens), context=context, slots=slots[: context + len(tokens)]))
        start += len(tokens)
    batch = PagedBatch(
        token_ids_T=torch.cat([tokens for tokens, _, _ in chunks]),
        positions_T=torch.cat([torch.arange(context, context + len(tokens)) for tokens, _, context in chunks]),
        spans=tuple(spans),
        cache=cache,
    )
    return list(decoder(batch).split([len(tokens) for tokens, _, _ in chunks]))
