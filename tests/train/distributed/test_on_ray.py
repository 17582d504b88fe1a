"""`deepground train sft`, `pretrain` and `rl` with `--workers`: as without workers, also when a worker is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from safetensors.torch import load_file

from deepground.errors import TrainingError
from deepground.train import PretrainConfig, RunReporter, Schedule, export_checkpoint
from deepground.train.distributed import run_pretrain_on_workers
from deepground.train.reporting import read_metrics
from grpo_runs import babbling_model
from tiny_models import tiny_model_folder

pytest.importorskip("ray", reason="Ray is not installed: pip install 'deepground[distributed]'")
OPTIONS = (
    *("--rows", "4", "--lr", "0.01", "--precision", "float32", "--validation-share", "0.2", "--checkpoint-steps", "4"),
    *("--weight-format", "float32", "--muon"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "set.jsonl"
    rows = [{"question": f"say {word}", "answer": word, "reasoning": "I say it"} for word in ("yes", "no", "so", "we")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 5))
    return path


@contextmanager
def started(model: Path, data: Path, run: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "deepground", "train", "sft", str(model), str(run), "--data", str(data)]
    process = subprocess.Popen(
        [*command, *OPTIONS, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    return said


def losses(run: Path) -> list[float]:
    metrics = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, len(metrics) + 1))
    return [line["loss"] for line in metrics]


def kill_a_worker(process: subprocess.Popen[str], run: Path, after: int) -> None:
    """As soon as so many steps are done."""
    end = time.monotonic() + 400
    while time.monotonic() < end and process.poll() is None:
        done = read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []
        if len(done) >= after:
            below = psutil.Process(process.pid).children(recursive=True)
            workers = [child for child in below if any("RayTrainWorker" in word for word in child.cmdline())]
            assert workers, [child.cmdline()[:1] for child in below]
            workers[-1].send_signal(signal.SIGKILL)
            return
        time.sleep(0.05)
    pytest.fail(f"the run did not come to step {after}")


def test_a_killed_worker_changes_nothing(tmp_path: Path, model: Path, data: Path) -> None:
    with started(model, data, tmp_path / "alone", "--steps", "24") as process:
        finish(process)
    with started(model, data, tmp_path / "many", "--steps", "24", "--workers", "2") as process:
        kill_a_worker(process, tmp_path / "many", after=9)
        said = finish(process)
    assert said.count("resumed from") == 1, said
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("alone", "many"))
    assert one.keys() == two.keys()
    furthest = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert furthest < 2e-3
    checks = [json.loads((tmp_path / name / "export.json").read_text()) for name in ("alone", "many")]
    assert checks[0]["loss_exported"] == pytest.approx(checks[1]["loss_exported"], rel=1e-3)


def test_pretraining_on_workers(tmp_path: Path, model: Path) -> None:
    """As without workers, its checkpoints' whole weights exported as any."""

    def pretrain(run: Path, steps: int, *more: str) -> None:
        options = (
            "--total-steps",
            str(steps),
            "--rows",
            "4",
            "--micro-rows",
            "2",
            "--precision",
            "float32",
            "--seed",
            "3",
        )
        command = [sys.executable, "-m", "deepground", "train", "pretrain", str(model), str(run), *options, *more]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=400, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    pretrain(tmp_path / "alone", 6)
    pretrain(tmp_path / "many", 6, "--workers", "2")
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)
    weights = []
    for name in ("alone", "many"):
        assert export_checkpoint(tmp_path / name, model, tmp_path / f"{name}-model", weight_format="float32") == 6
        weights.append(load_file(tmp_path / f"{name}-model" / "model.safetensors"))
    one, two = weights
    assert two.keys() <= one.keys()
    assert all("model.layers.2." in name for name in one.keys() - two.keys())  # the layer that drafts
    assert max(float((one[name] - two[name]).abs().max()) for name in two) < 2e-3
    shutil.rmtree(tmp_path / "many" / "final")
    with pytest.raises(TrainingError, match="start it again, as it was"):
        export_checkpoint(tmp_path / "many", model, tmp_path / "torn")


def test_practice_on_workers(tmp_path: Path) -> None:
    """A worker is killed; the run ends with the attempts and weights of one that was not disturbed."""
    model = babbling_model(tmp_path / "warm")
    rows = [{"id": str(n), "question": f"word {n}?", "answer": "so"} for n in range(6)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--data", str(tmp_path / "problems.jsonl"), "--grader", "exact", "--steps", "8", "--questions", "4",
               "--rounds", "1", "--max-tokens", "12", "--no-thinking", "--lr", "0.003", "--checkpoint-steps", "2",
               "--weight-format", "float32", "--chat-format", "deepseek-v3.1")  # fmt: skip

    def started_run(name: str, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "deepground", "train", "rl", str(model), str(tmp_path / name), *options, *more]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    finish(started_run("alone"))
    process = started_run("many", "--workers", "2")
    kill_a_worker(process, tmp_path / "many", after=3)
    said = finish(process)
    assert said.count("resumed from") == 1, said
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("alone", "many"))
    assert [line["right"] for line in one] == [line["right"] for line in two]
    assert [line["entropy"] for line in one] == pytest.approx([line["entropy"] for line in two], rel=1e-3)
    assert one[-1]["right"] > one[0]["right"]
    left, right = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("alone", "many"))
    assert left.keys() == right.keys()
    assert max(float((left[name] - right[name]).abs().max()) for name in left) < 2e-3


def test_the_drafting_layer_is_for_one_worker(tmp_path: Path, model: Path) -> None:
    settings = PretrainConfig(schedule=Schedule(total_steps=2), num_rows=4, row_length=64, mtp_drafts=2)
    with pytest.raises(TrainingError, match="leave out --workers"):
        run_pretrain_on_workers(model, settings, tmp_path, RunReporter(tmp_path, Console()), seed=0, workers=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--workers", "3"), "workers cannot share evenly"),
        (("--workers", "2", "--lora-rank", "2"), "leave out --workers, or --lora-rank"),
        (("--ray-address", "127.0.0.1:1"), "say with --workers how many"),
        (("--workers", "2", "--ray-address", "127.0.0.1:1"), "there is no Ray at 127.0.0.1:1"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, model: Path, data: Path, options: tuple[str, ...], said: str) -> None:
    with started(model, data, tmp_path / "run", "--steps", "2", *options) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert said in " ".join(output.split())
