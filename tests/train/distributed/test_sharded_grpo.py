"""GRPO by several workers gives what one process gives, and goes on with another number of workers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from deepground.errors import TrainingError
from deepground.tasks.graders import GraderPool
from deepground.train import list_checkpoints
from deepground.train.distributed import ShardedGrpoTrainer, check_grpo_settings
from deepground.train.lora import LoraConfig
from deepground.train.rl import GroupStore, LossConfig
from grpo_runs import babbling_model, grpo_trainer

STEPS = 3
TOLD = ("right", "reward", "tokens", "groups_sampled", "groups_kept", "trained_tokens")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return babbling_model(tmp_path_factory.mktemp("warm"))


def work(rank: int, workers: int, meeting: str, order: dict[str, Any]) -> None:
    """One worker: go on from a checkpoint, if one is named, take the steps, say what came of them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    folder = Path(order["folder"])
    with GraderPool(workers=1) as pool:
        trainer = grpo_trainer(Path(order["model"]), pool, kind=ShardedGrpoTrainer, **order["settings"])
        assert isinstance(trainer, ShardedGrpoTrainer)
        if order["from"]:
            trainer.resume(Path(order["from"]))
        results = [trainer.run_step(GroupStore(folder)) for _ in range(order["steps"])]
        trainer.save(folder)
        trainer.write_whole(folder / "whole", {})
    if trainer.writes:
        (folder / "found.json").write_text(json.dumps([asdict(result) for result in results]))
    dist.destroy_process_group()


def on_workers(
    folder: Path, model: Path, workers: int, *, steps: int = STEPS, start: Path | None = None, **settings: Any
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    folder.mkdir()
    order = {"folder": str(folder), "model": str(model), "steps": steps, "from": start and str(start)}
    mp.spawn(work, args=(workers, f"{folder}-meeting", {**order, "settings": settings}), nprocs=workers)
    found = json.loads((folder / "found.json").read_text())
    return found, load_file(list_checkpoints(folder / "whole")[-1] / "model.safetensors")


def assert_close(many: Any, one: Any) -> None:
    for left, right in zip(many[0], one[0], strict=True):
        assert {name: left[name] for name in TOLD} == pytest.approx({name: right[name] for name in TOLD})
        assert left["gradient_norm"] == pytest.approx(right["gradient_norm"], rel=1e-3)
        assert left["entropy"] == pytest.approx(right["entropy"], rel=1e-4)
        assert left["worst_mismatch"] < 1e-3
    assert many[1].keys() == one[1].keys()
    for name, value in many[1].items():
        torch.testing.assert_close(value, one[1][name], atol=2e-4, rtol=2e-3, msg=name)


def first_words(folder: Path) -> list[list[int]]:
    """Tokens of the first attempt at each question of the first step."""
    lines = (folder / "attempts" / "step_00000000.jsonl").read_text().splitlines()
    return [json.loads(line)["trials"][0]["attempt"]["turns"][0][1] for line in lines]


@pytest.mark.parametrize(
    ("workers", "settings"),
    [(2, {}), (3, {"micro_rows": 1}), (2, {"minibatches": 2, "loss": LossConfig(kl=0.1)})],
    ids=["two", "three", "minibatches and penalty"],
)
def test_as_one_process(tmp_path: Path, model: Path, workers: int, settings: dict[str, Any]) -> None:
    many = on_workers(tmp_path / "many", model, workers, **settings)
    with GraderPool(workers=1) as pool:
        alone = grpo_trainer(model, pool, **settings)
        results = [asdict(alone.run_step(GroupStore(tmp_path / "one"))) for _ in range(STEPS)]
    assert_close(many, (results, alone.trained.state_dict()))
    assert results[-1]["trained_tokens"] > 0
    attempts = [(tmp_path / name / "attempts" / "step_00000000.jsonl").read_text() for name in ("many", "one")]
    said = [
        [json.loads(line)["trials"][0]["attempt"]["turns"][0][1] for line in text.splitlines()] for text in attempts
    ]
    assert said[0] == said[1]


def test_another_number_of_workers_goes_on(tmp_path: Path, model: Path) -> None:
    straight = on_workers(tmp_path / "straight", model, 2)
    first = on_workers(tmp_path / "a", model, 2, steps=1)
    second = on_workers(tmp_path / "b", model, 3, steps=STEPS - 1, start=list_checkpoints(tmp_path / "a")[-1])
    assert_close(([*first[0], *second[0]], second[1]), straight)


def test_what_does_not_go_together() -> None:
    with pytest.raises(TrainingError, match="leave out --workers, or --lora-rank"):
        check_grpo_settings(LoraConfig(rank=2), 2)
    with pytest.raises(TrainingError, match="workers is 0"):
        check_grpo_settings(None, 0)
