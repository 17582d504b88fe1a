"""A tiny model that has something to practise, and a run of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from deepground.cli import app
from deepground.messages import Message
from deepground.model import CHAT_FORMATS, Tokenizer
from deepground.train import OptimizerConfig, Schedule
from deepground.train.answering import Question
from deepground.train.rl import GrpoConfig, GrpoTrainer, PolicySampler, SingleTurn
from deepground.train.rl.groups import Grades
from deepground.train.sft import load_for_training
from tiny_models import tiny_model_folder


def babbling_model(folder: Path) -> Path:
    """A tiny model that has learnt to say one of a few words, whatever it is asked."""
    base = tiny_model_folder(folder / "base")
    rows = [{"question": f"word {n}?", "answer": w} for n in range(6) for w in ("yes", "no", "so", "we")]
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--steps", "80", "--lr", "0.01", "--rows", "8", "--validation-share", "0", "--precision", "float32"]
    options += ["--weight-format", "float32"]
    arguments = ["train", "sft", str(base), str(folder / "run"), "--data", str(folder / "set.jsonl"), *options]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return folder / "run" / "model"


def word_questions() -> list[Question]:
    """To all of which `so` is right."""
    return [
        Question(id=f"q{n}", messages=(Message.user(f"word {n}?"),), answer="so", grader={"type": "exact"})
        for n in range(6)
    ]


def grpo_trainer(
    model: Path, pool: Grades, *, environment: Any = None, kind: type[GrpoTrainer] = GrpoTrainer, **settings: Any
) -> GrpoTrainer:
    """A run at its beginning."""
    lora = settings.get("lora")
    decoder = load_for_training(model, lora, seed=3)
    first = load_for_training(model, None, seed=3) if "loss" in settings else None
    lr = 3e-3 if lora is None else 5e-3
    config = GrpoConfig(
        schedule=Schedule(total_steps=100, warmup_steps=1),
        optimizer=OptimizerConfig(
            matrix_lr=lr, embedding_lr=lr, head_lr=lr, vector_lr=lr, muon=False, weight_decay=0.0
        ),
        **{
            "questions_per_step": 4,
            "attempts": 8,
            "most_rounds": 1,
            "max_tokens": 12,
            "thinking": False,
            "row_length": 128,
            "checkpoint_steps": 3,
            **settings,
        },
    )
    tokenizer = Tokenizer.from_folder(model)
    sampler = PolicySampler(
        decoder,
        tokenizer,
        CHAT_FORMATS["deepseek-v3.1"],
        environment or SingleTurn(),
        max_tokens=config.max_tokens,
        thinking=False,
    )
    return kind(decoder, sampler, word_questions(), pool, config, pad_id=1, digest="d", first=first)
