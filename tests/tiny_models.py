"""A complete model folder with random weights, small enough to be made in a test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deepground.model import Decoder, ModelConfig, save_model
from deepground.model.config import MlaConfig, MoeConfig, RopeConfig
from deepground.train.tokenizer import save_tokenizer, train_tokenizer

TEXTS = [
    "What is seventeen plus twenty-five? The answer is forty-two.",
    "hello, how are you today? I am a small model and I speak nonsense.",
    "count the words, sort the numbers, spell the word backwards, tell the time.",
]


TINY_DEEPSEEK = ModelConfig(
    family="deepseek_v3",
    vocab_size=320,
    hidden_size=32,
    num_layers=2,
    intermediate_size=64,
    max_positions=512,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    attention=MlaConfig(
        num_heads=2, q_lora_rank=None, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8
    ),
    rope=RopeConfig(theta=10000.0, rotary_dim=8, interleaved=True),
    moe=MoeConfig(
        num_experts=4,
        experts_per_token=2,
        intermediate_size=16,
        shared_intermediate_size=16,
        scoring="sigmoid",
        correction_bias=True,
        group_score="top2_sum",
        normalize_topk=True,
    ),
    moe_layers=frozenset({1}),
    bos_token_id=0,
    eos_token_ids=(1,),
)
"""MLA and a layer of experts, at sizes that a test can train; use `dataclasses.replace` for another."""


def tiny_model_folder(folder: Path, *, max_positions: int = 512, seed: int = 0, mtp: bool = False) -> Path:
    """Write a deepseek_v3 model with random weights and a byte-level tokenizer that knows DeepSeek's markers."""
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(TINY_DEEPSEEK, max_positions=max_positions)
    if mtp:
        config = replace(config, num_mtp_layers=1, moe_layers=frozenset({1, 2}))
    tokenizer_folder = folder.parent / f"{folder.name}-tokenizer"
    save_tokenizer(train_tokenizer(TEXTS * 3, config.vocab_size), tokenizer_folder, max_positions=max_positions)
    decoder = Decoder(config)
    decoder.init_weights(seed)
    save_model(decoder, folder, weight_format="float32", tokenizer_from=tokenizer_folder, overwrite=True)
    return folder
