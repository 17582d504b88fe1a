"""The fine-tuning loop: it learns, stops, and goes on after kill -9 to the very same weights."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from deepground.errors import CheckpointError, TrainingError
from deepground.train import OptimizerConfig, RunReporter, Schedule, list_checkpoints
from deepground.train.lora import LoraConfig, add_lora, merge_lora
from deepground.train.reporting import read_metrics
from deepground.train.sft import SftConfig, SftResult, SftTrainer, fine_tune
from training_samples import copy_sample, tiny_decoder

TESTS = Path(__file__).parents[2]


def trainer(total_steps: int = 12, *, lr: float = 3e-3, digest: str = "d", **settings: Any) -> SftTrainer:
    config = SftConfig(
        schedule=Schedule(total_steps=total_steps, warmup_steps=2, decay_share=1.0),
        num_rows=4,
        row_length=48,
        optimizer=OptimizerConfig(
            matrix_lr=lr, embedding_lr=lr, head_lr=lr, vector_lr=lr, muon=False, weight_decay=0.0
        ),
        **{"precision": "float32", "checkpoint_steps": 4, **settings},
    )
    decoder = tiny_decoder()
    if config.lora is not None:
        add_lora(decoder, config.lora, seed=1)
    held_out = [copy_sample(-n - 1) for n in range(6)]
    return SftTrainer(decoder, copy_sample, held_out, config, pad_id=2, data_digest=digest)


def run(folder: Path, *arguments: Any, **settings: Any) -> SftResult:
    quiet = RunReporter(folder, Console(file=io.StringIO()))
    return fine_tune(trainer(*arguments, **settings), folder, quiet)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(list_checkpoints(folder)[-1] / "model.safetensors")


def assert_same(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = [[(m["step"], m["loss"]) for m in read_metrics(f / "metrics.jsonl")] for f in (a, b)]
    assert losses[0] == losses[1]


def test_all_weights_learn(tmp_path: Path) -> None:
    result = run(tmp_path, 60, checkpoint_steps=20)
    assert (result.step, result.finished, result.stopped_early) == (60, True, False)
    losses = [m["loss"] for m in read_metrics(tmp_path / "metrics.jsonl")]
    assert losses[-1] < losses[0] - 2


def test_adapters_learn_and_nothing_else_changes(tmp_path: Path) -> None:
    one = trainer(40, lr=2e-2, lora=LoraConfig(rank=4, alpha=16))
    before = {name: p.clone() for name, p in one.decoder.named_parameters() if not p.requires_grad}
    results = [one.run_step().loss for _ in range(40)]
    assert sum(results[-5:]) / 5 < results[0] - 0.2
    after = dict(one.decoder.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all("lora" in name for name in one.trained.state_dict())


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["all", "adapters"])
def test_kill_9_and_a_new_start_give_the_same_weights(tmp_path: Path, lora: LoraConfig | None) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(whole, 40, lora=lora)
    code = (
        "from pathlib import Path; from test_trainer import run; from deepground.train.lora import LoraConfig; "
        f"run(Path({str(killed)!r}), 40, lora={lora!r})"
    )
    paths = os.pathsep.join([str(TESTS), str(Path(__file__).parent)])
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 100
    while len(read_metrics(killed / "metrics.jsonl")) < 14:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 8 <= int(list_checkpoints(killed)[-1].name[5:]) < 40
    assert run(killed, 40, lora=lora).finished
    assert_same(whole, killed)


def test_a_stop_signal_saves_and_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path / "whole")

    class StopAtSix(RunReporter):
        def step(self, result: Any) -> None:
            super().step(result)
            if result.step == 6:
                os.kill(os.getpid(), signal.SIGTERM)

    folder = tmp_path / "stopped"
    result = fine_tune(trainer(), folder, StopAtSix(folder, Console(file=io.StringIO())))
    assert (result.step, result.finished) == (6, False)
    run(folder)
    assert_same(tmp_path / "whole", folder)


def test_early_stop_keeps_the_best(tmp_path: Path) -> None:
    result = run(tmp_path, 400, lr=0.3, patience=2, checkpoint_steps=2)
    assert result.stopped_early
    assert result.step < 400
    assert result.checkpoint.parent.parent.name == "best"
    again = run(tmp_path, 400, lr=0.3, patience=2, checkpoint_steps=2)
    assert again.step == result.step


def test_other_data_is_refused_and_other_settings_are_told(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(CheckpointError, match="other data"):
        run(tmp_path, digest="another")
    text = io.StringIO()
    fine_tune(trainer(16), tmp_path, RunReporter(tmp_path, Console(file=text, width=400)))
    assert "changed schedule" in text.getvalue()
    with pytest.raises(CheckpointError, match="another choice of trained parameters"):
        run(tmp_path, lora=LoraConfig(rank=4))


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    one = trainer()
    with torch.no_grad():
        one.decoder.lm_head.weight[:] = float("nan")
    with pytest.raises(TrainingError, match="lower the learning rate"):
        one.run_step()


def test_merged_adapters_are_the_adapters() -> None:
    one = trainer(20, lr=2e-2, lora=LoraConfig(rank=4, alpha=16))
    for _ in range(20):
        one.run_step()
    beside = one.validate()
    merge_lora(one.decoder)
    assert not any("lora" in name for name, _ in one.decoder.named_parameters())
    assert one.validate() == pytest.approx(beside, abs=1e-5)


@pytest.mark.parametrize(
    "settings", [{"num_rows": 0}, {"row_length": 0}, {"patience": 0}, {"fp8": True, "lora": LoraConfig()}]
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=next(iter(settings))):
        SftConfig(schedule=Schedule(total_steps=1), **{"row_length": 8, **settings})


def test_a_rank_beyond_the_model_is_refused() -> None:
    with pytest.raises(TrainingError, match="larger than"):
        add_lora(tiny_decoder(), LoraConfig(rank=30), seed=0)
