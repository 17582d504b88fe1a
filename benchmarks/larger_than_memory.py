"""A DeepSeek-shaped model with random weights, run within a memory limit that it exceeds.

    python benchmarks/larger_than_memory.py --gib 9 --memory-limit 4 [--folder FOLDER] [--tokens 64]

Tokens are drawn at random; the random router has favourites among its experts, as a trained one has.
FOLDER is written if it is not there yet; without one, a temporary folder is used. The limit is checked against the most
memory that the process ever had (ru_maxrss).
"""

from __future__ import annotations

import argparse
import logging
import resource
import tempfile
import time
from pathlib import Path

import torch

from deepground.model import KVCache, ModelConfig, NativeDecoder, PagedBatch, Span, load_native, write_random_model
from deepground.model.config import MlaConfig, MoeConfig, RopeConfig

GIB = 2**30
EXPERT_LAYER_BYTES = 64 * 3 * 2048 * 1408


def shape(layers: int) -> ModelConfig:
    """V2-Lite's layer, with V3's router; one dense layer and `layers` of experts."""
    return ModelConfig(
        family="deepseek_v3",
        vocab_size=102400,
        hidden_size=2048,
        num_layers=layers + 1,
        intermediate_size=10944,
        max_positions=8192,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        attention=MlaConfig(
            num_heads=16, q_lora_rank=None, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
        ),
        rope=RopeConfig(theta=10000.0, rotary_dim=64, interleaved=True),
        moe=MoeConfig(
            num_experts=64,
            experts_per_token=6,
            intermediate_size=1408,
            shared_intermediate_size=2816,
            scoring="sigmoid",
            correction_bias=True,
            group_score="top2_sum",
            normalize_topk=True,
        ),
        moe_layers=frozenset(range(1, layers + 1)),
    )


def run(decoder: NativeDecoder, tokens: int, prompt: int) -> None:
    """Compute a prompt, then token after token, and say how it goes."""
    cache = KVCache(decoder.config, prompt + tokens, dtype=torch.bfloat16)
    slots = torch.arange(prompt + tokens)
    ids = torch.randint(decoder.config.vocab_size, (prompt + tokens,), generator=torch.Generator().manual_seed(0))

    def step(first: int, last: int) -> None:
        span = Span(start=0, length=last - first, context=first, slots=slots[:last])
        positions = torch.arange(first, last)
        decoder.logits(
            decoder(PagedBatch(token_ids_T=ids[first:last], positions_T=positions, spans=(span,), cache=cache))[-1:]
        )

    start = time.perf_counter()
    step(0, prompt)
    print(f"prompt of {prompt} tokens: {time.perf_counter() - start:.1f} s")
    before, start = decoder.expert_stats(), time.perf_counter()
    for position in range(prompt, prompt + tokens):
        step(position, position + 1)
    seconds, stats = time.perf_counter() - start, decoder.expert_stats()
    print(f"{tokens} tokens: {tokens / seconds:.2f} tokens/s")
    if stats is None or before is None:
        print("all experts fit in memory")
        return
    hits, misses = stats.hits - before.hits, stats.misses - before.misses
    read = stats.bytes_read - before.bytes_read
    print(
        f"{hits / (hits + misses):.1%} of experts found in memory ({stats.slots_used} of {stats.slots} places in use), "
        f"{read / 1e9:.1f} GB read at {read / 1e6 / seconds:.0f} MB/s, "
        f"{stats.wait_seconds - before.wait_seconds:.1f} s waited"
    )


def main() -> None:
    """Write, load, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=9, help="size of the model, written in FP8")
    parser.add_argument("--memory-limit", type=float, help="GiB; else what is free")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "model"
        if not folder.exists():
            write_random_model(
                shape(max(1, round(options.gib * GIB / EXPERT_LAYER_BYTES))), folder, weight_format="fp8-ue8m0"
            )
        limit = None if options.memory_limit is None else int(options.memory_limit * GIB)
        start = time.perf_counter()
        decoder = load_native(folder, threads=options.threads, memory_limit=limit)
        print(f"loaded in {time.perf_counter() - start:.1f} s")
        run(decoder, options.tokens, options.prompt)
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
