"""What the training tests share: a tiny model, and samples that it can learn."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from deepground.model import Decoder
from deepground.train import PretrainConfig, Sample, Schedule, Trainer
from tiny_models import TINY_DEEPSEEK

CONFIG = replace(TINY_DEEPSEEK, max_positions=128)


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
