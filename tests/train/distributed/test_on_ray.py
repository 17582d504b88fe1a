"""`deepground train sft --workers`: as without workers, also when a worker is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from deepground.train.reporting import read_metrics
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
