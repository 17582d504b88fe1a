"""Sharded training gives what one process gives, whatever the number of workers, and goes on with another number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from deepground.errors import TrainingError
from deepground.train import OptimizerConfig, Schedule, list_checkpoints
from deepground.train.data import Sample
from deepground.train.distributed import ShardedTrainer, check_settings
from deepground.train.lora import LoraConfig
from deepground.train.sft import SftConfig, SftTrainer
from training_samples import copy_sample, tiny_decoder

HELD_OUT = [copy_sample(-n - 1) for n in range(5)]


def config(*, muon: bool, rows: int = 6, **more: Any) -> SftConfig:
    return SftConfig(
        schedule=Schedule(total_steps=20, warmup_steps=2, decay_share=1.0), num_rows=rows, row_length=48, micro_rows=1,
        optimizer=OptimizerConfig(
            matrix_lr=3e-3, embedding_lr=3e-3, head_lr=3e-3, vector_lr=3e-3, muon=muon, weight_decay=0.0
        ),
        balance_gamma=1e-3, precision="float32", **more,
    )  # fmt: skip


def short_or_none(index: int) -> Sample:
    """Every third sample has nothing to learn, and fills a row."""
    return Sample([5] * 40, 40) if index % 3 == 0 else copy_sample(index)


def work(rank: int, workers: int, meeting: str, order: dict[str, Any]) -> None:
    """One worker: go on from a checkpoint, if one is named, take the steps, say what came of them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    make_sample = short_or_none if order.get("sparse") else copy_sample
    settings = config(muon=order["muon"])
    trainer = ShardedTrainer(tiny_decoder(order.get("seed", 0)), make_sample, HELD_OUT, settings, pad_id=2)
    if order.get("from"):
        trainer.resume(Path(order["from"]))
    results = [trainer.run_step() for _ in range(order["steps"])]
    validation = trainer.validate()
    folder = Path(order["folder"])
    trainer.save(folder)
    trainer.write_whole(folder / "whole", {})
    if trainer.writes:
        found = {"losses": [r.loss for r in results], "norms": [r.gradient_norm for r in results]}
        (folder / "found.json").write_text(json.dumps({**found, "validation": validation}))
    dist.destroy_process_group()


def on_workers(tmp_path: Path, workers: int, **order: Any) -> dict[str, Any]:
    folder = Path(order["folder"])
    folder.mkdir()
    mp.spawn(
        work, args=(workers, str(tmp_path / f"meeting-{folder.name}"), order | {"folder": str(folder)}), nprocs=workers
    )
    return {
        **json.loads((folder / "found.json").read_text()),
        "weights": load_file(list_checkpoints(folder / "whole")[-1] / "model.safetensors"),
        "checkpoint": str(list_checkpoints(folder)[-1]),
    }


def alone(*, muon: bool, steps: int, sparse: bool = False) -> dict[str, Any]:
    make_sample = short_or_none if sparse else copy_sample
    trainer = SftTrainer(tiny_decoder(), make_sample, HELD_OUT, config(muon=muon), pad_id=2)
    results = [trainer.run_step() for _ in range(steps)]
    found = {"losses": [r.loss for r in results], "norms": [r.gradient_norm for r in results]}
    return {**found, "validation": trainer.validate(), "weights": trainer.trained.state_dict()}


def assert_close(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a["losses"] == pytest.approx(b["losses"], rel=2e-5)
    assert a["norms"] == pytest.approx(b["norms"], rel=2e-4)
    assert a["validation"] == pytest.approx(b["validation"], rel=2e-5)
    assert a["weights"].keys() == b["weights"].keys()
    for name, value in a["weights"].items():
        torch.testing.assert_close(value, b["weights"][name], atol=2e-4, rtol=2e-3, msg=name)


@pytest.mark.parametrize(("muon", "workers", "sparse"), [(False, 2, False), (True, 3, False), (True, 2, True)])
def test_as_one_process(tmp_path: Path, *, muon: bool, workers: int, sparse: bool) -> None:
    many = on_workers(tmp_path, workers, folder=tmp_path / "many", muon=muon, steps=6, sparse=sparse)
    one = alone(muon=muon, steps=6, sparse=sparse)
    assert_close(many, one)
    assert one["losses"][0] - one["losses"][-1] > 0.05


@pytest.mark.parametrize("muon", [False, True])
def test_checkpoints_fit_another_number_of_workers(tmp_path: Path, muon: bool) -> None:
    whole = alone(muon=muon, steps=6)
    first = on_workers(tmp_path, 2, folder=tmp_path / "a", muon=muon, steps=2)
    order = {"muon": muon, "steps": 2, "seed": 7}
    second = on_workers(tmp_path, 3, folder=tmp_path / "b", **order, **{"from": first["checkpoint"]})
    third = on_workers(tmp_path, 1, folder=tmp_path / "c", **order, **{"from": second["checkpoint"]})
    assert_close({**third, "losses": [*first["losses"], *second["losses"], *third["losses"]],
                  "norms": [*first["norms"], *second["norms"], *third["norms"]]}, whole)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "workers", "said"),
    [
        ({}, 0, "workers is 0; it must be at least 1"),
        ({"rows": 5}, 2, "change --rows, --micro-rows or --workers"),
        ({"lora": LoraConfig(rank=2)}, 2, "leave out --workers, or --lora-rank"),
        ({"fp8": True}, 2, "leave out --workers, or --fp8"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Any], workers: int, said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        check_settings(config(muon=False, **settings), workers)
