"""What the training tests share: a tiny model, and samples that it can learn."""

from __future__ import annotations

from random import Random

from deepground.model import Decoder, ModelConfig
from deepground.model.config import MlaConfig, MoeConfig, RopeConfig
from deepground.train import PretrainConfig, Sample, Schedule, Trainer

CONFIG = ModelConfig(
    family="deepseek_v3",
    vocab_size=320,
    hidden_size=32,
    num_layers=2,
    intermediate_size=64,
    max_positions=128,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    attention=MlaConfig(
        num_heads=2, q_lora_rank=None, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=16
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


def tiny_decoder(seed: int = 0) -> Decoder:
    """Fresh weights, the same for the same seed."""
    decoder = Decoder(CONFIG)
    decoder.init_weights(seed)
    return decoder


def copy_sample(index: int) -> Sample:
    """A few of ten tokens, a separator, the same tokens again, end."""
    rng = Random(index)
    tokens = [rng.randrange(10, 20) for _ in range(rng.randint(2, 6))]
    return Sample([0, *tokens, 3, *tokens, 1], len(tokens) + 2)


def tiny_trainer(total_steps: int, **settings: object) -> Trainer:
    """A trainer on `copy_sample`."""
    config = PretrainConfig(
        schedule=Schedule(total_steps=total_steps, warmup_steps=5),
        num_rows=8,
        row_length=48,
        **{"micro_rows": 4, "checkpoint_steps": 5, "precision": "float32", **settings},
    )
    return Trainer(tiny_decoder(), copy_sample, config, pad_id=2)
