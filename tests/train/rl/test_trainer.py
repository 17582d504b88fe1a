"""GRPO on a tiny model: it learns, in one turn and with a tool, and goes on after kill -9 to the same weights."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from deepground.cli import app
from deepground.errors import CheckpointError
from deepground.messages import Message, Tool
from deepground.model import RowBatch
from deepground.tasks.graders import GraderPool
from deepground.train import list_checkpoints
from deepground.train.answering import Question
from deepground.train.lora import LoraConfig
from deepground.train.reporting import read_metrics
from deepground.train.rl import practise
from grpo_runs import babbling_model, grpo_trainer, word_questions

TESTS = Path(__file__).parents[2]
QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return babbling_model(tmp_path_factory.mktemp("warm"))


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(workers=1) as started:
        yield started


@pytest.mark.parametrize(
    "settings",
    [{}, {"minibatches": 2}, {"lora": LoraConfig(rank=4, alpha=16)}],
    ids=["all", "minibatches", "adapters"],
)
def test_it_learns_what_is_rewarded(tmp_path: Path, model: Path, pool: GraderPool, settings: dict[str, Any]) -> None:
    one = grpo_trainer(model, pool, **settings)
    practise(one, tmp_path, 14 if "lora" not in settings else 30, None, QUIET)
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert metrics[0]["right"] < 0.5
    assert sum(m["right"] for m in metrics[-3:]) / 3 > 0.85
    assert max(m["worst_mismatch"] for m in metrics) < (0.1 if "lora" in settings else 1e-3)
    assert metrics[-1]["entropy"] < metrics[0]["entropy"]


def test_the_sampler_sees_new_weights_at_once(model: Path, pool: GraderPool) -> None:
    one = grpo_trainer(model, pool)
    asked = [(q, 0) for q in word_questions()]
    first = [a.turns[0].token_ids for a in one.sampler.sample(asked, seed=1)]
    assert first == [a.turns[0].token_ids for a in one.sampler.sample(asked, seed=1)]
    with torch.no_grad():
        one.decoder.lm_head.weight.zero_()
    assert first != [a.turns[0].token_ids for a in one.sampler.sample(asked, seed=1)]


def test_several_turns_with_a_tool(tmp_path: Path, model: Path, pool: GraderPool) -> None:
    """The environment is a real one; that this model calls is arranged by an episode that hears calls in words."""
    heard: list[str] = []

    class Episode:
        tools: tuple[Tool, ...] = ()

        def __init__(self, question: Question) -> None:
            self.messages = list(question.messages)

        def respond(self, reply: Message) -> bool:
            if reply.text != "so" or len(self.messages) > 4:
                return False
            heard.append(reply.text)
            self.messages += [Message.assistant(reply.text), Message.user("and again?")]
            return True

    class Environment:
        def start(self, question: Question) -> Episode:
            return Episode(question)

    one = grpo_trainer(model, pool, environment=Environment())
    attempts = one.sampler.sample([(q, s) for q in word_questions() for s in range(4)], seed=5)
    several = [a for a in attempts if len(a.turns) > 1]
    assert several
    assert len(heard) == sum(len(a.turns) - 1 for a in attempts)
    assert all(len(turn.token_ids) == len(turn.logprobs) for a in attempts for turn in a.turns)
    assert len(several[0].turns[1].prompt_ids) > len(several[0].turns[0].prompt_ids)
    practise(one, tmp_path, 2, None, QUIET)


def work(model: str, folder: str, steps: int) -> bool:
    """What the killed process runs."""
    with GraderPool(workers=1) as graders:
        return practise(grpo_trainer(Path(model), graders), Path(folder), steps, None, QUIET)


def test_kill_9_gives_the_same_weights_and_samples_nothing_twice(tmp_path: Path, model: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert work(str(model), str(whole), 10)
    code = f"from test_trainer import work; work({str(model)!r}, {str(killed)!r}, 10)"
    paths = os.pathsep.join([str(TESTS), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    deadline = time.monotonic() + 100
    store = killed / "attempts" / "step_00000004.jsonl"
    while not store.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    written = store.stat().st_mtime_ns
    assert work(str(model), str(killed), 10)
    assert not store.exists() or store.stat().st_mtime_ns == written
    first, second = (load_file(list_checkpoints(f)[-1] / "model.safetensors") for f in (whole, killed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    figures = [
        [{k: v for k, v in m.items() if not k.endswith("seconds")} for m in read_metrics(f / "metrics.jsonl")]
        for f in (whole, killed)
    ]
    assert figures[0] == figures[1]


def test_other_questions_are_refused(tmp_path: Path, model: Path, pool: GraderPool) -> None:
    practise(grpo_trainer(model, pool), tmp_path, 1, None, QUIET)
    other = grpo_trainer(model, pool)
    other._digest = "e"
    with pytest.raises(CheckpointError, match="other questions"):
        practise(other, tmp_path, 1, None, QUIET)


def test_the_command_line_shows_before_and_after(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "words.jsonl"
    rows = [{"question": f"word {n}?", "answer": "so", "grader": {"type": "exact"}} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["train", "rl", str(model), str(tmp_path / "run"), "--data", str(path), "--evaluate", str(path)]
    arguments += ["--steps", "12", "--questions", "4", "--attempts", "8", "--rounds", "1", "--max-tokens", "12"]
    arguments += ["--no-thinking", "--lr", "0.003"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "| words | direct |" in done.output
    assert "points" in done.output
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Held-out problems" in page
    assert page.count("<svg") == 6
    assert CliRunner().invoke(app, arguments).exit_code == 0


def test_adapters_reach_the_absorbed_attention(model: Path, pool: GraderPool) -> None:
    """Decoding multiplies with kv_b_proj's weight itself, so an adapter on it must show there too."""
    lora = LoraConfig(rank=4)
    one = grpo_trainer(model, pool, lora=lora)
    one.decoder.float()  # Frozen weights are bfloat16 where the processor computes it; that alone makes a difference.
    with torch.no_grad():
        for name, parameter in one.decoder.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    attempts = one.sampler.sample([(q, 0) for q in word_questions()], seed=2)

    for attempt in attempts:
        (turn,) = attempt.turns
        ids = torch.tensor([*turn.prompt_ids, *turn.token_ids])
        with torch.no_grad():
            logits = one.decoder.logits(one.decoder(RowBatch.single(ids))).log_softmax(-1)
        start = len(turn.prompt_ids) - 1
        expected = [float(logits[start + n, id_]) for n, id_ in enumerate(turn.token_ids)]
        assert turn.logprobs == pytest.approx(expected, abs=1e-3)
