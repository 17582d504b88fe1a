"""A fine-tuning on the workers of a Ray cluster, or of a Ray that is started on this machine for it.

Ray Train starts a process for each worker and connects them; when one of them dies, it starts all of them again, and
the run goes on from its newest checkpoint (docs.ray.io, Ray Train, "Handling failures"). Nothing is reported to
anybody: usage statistics and the dashboard are switched off.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from deepground.errors import TrainingError
from deepground.train.checkpoint import list_checkpoints, read_state
from deepground.train.distributed.sharded import ShardedTrainer, check_settings
from deepground.train.reporting import Reporter, RunReporter
from deepground.train.sft import (
    PreparedRun,
    SftOutcome,
    SftPlan,
    SftResult,
    Validation,
    fine_tune,
    is_stale,
    make_trainer,
    prepare,
    run_sft,
)

_LOG = "workers.log"
_MOST_FAILURES = 3
"""Deaths of workers that a run survives."""
_FINAL = "final"


def run_sft_on_workers(
    plan: SftPlan,
    folder: Path,
    reporter: Reporter,
    *,
    workers: int,
    address: str | None = None,
    curves: bool = False,
) -> SftOutcome:
    """`run_sft` with the training done by several workers; the result is the same but for rounding.

    Args:
        plan: what to do; files and folders must be there on every machine under the same names.
        folder: of the run, on storage that every machine sees.
        reporter: told what the first worker tells.
        workers: number of processes.
        address: of a Ray cluster, host:port; None: one is started on this machine and ends with the run.
        curves: write TensorBoard curves, as `RunReporter` does.

    Raises:
        TrainingError: Ray is missing or does not answer, the settings do not suit workers, or workers died too often.
        ModelFolderError: the model cannot be loaded.
    """
    if workers < 1:
        raise TrainingError(f"workers is {workers}; it must be at least 1")
    folder, plan = folder.resolve(), _absolute(plan)
    train = partial(_train_on_ray, workers=workers, address=address, curves=curves)
    return run_sft(plan, folder, reporter, train=train, kind="sft on workers")


def _absolute(plan: SftPlan) -> SftPlan:
    """With paths that hold in the workers, which start in other folders."""
    data, general = (tuple(path.resolve() for path in paths) for paths in (plan.data, plan.general))
    return replace(plan, model=plan.model.resolve(), data=data, general=general)


def _train_on_ray(
    plan: SftPlan,
    prepared: PreparedRun,
    folder: Path,
    reporter: Reporter,
    *,
    workers: int,
    address: str | None,
    curves: bool,
) -> SftResult:
    check_settings(prepared.settings, workers)
    # Ray would run its workers at the lowest priority, where anything else on the machine stops them.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_V2_ENABLED": "1", "RAY_worker_niceness": "0"}
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise TrainingError(f"--workers needs Ray ({error}): pip install 'deepground[distributed]'") from error
    gpu = plan.device != "cpu"
    _connect(ray, workers, address)
    try:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"plan": plan, "folder": str(folder), "curves": curves},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": 1}),
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            run_config=RunConfig(
                name="ray", storage_path=str(folder), failure_config=FailureConfig(max_failures=_MOST_FAILURES)
            ),
        )
        with _told(folder / _LOG, reporter):
            trainer.fit()
    except Exception as error:
        cause = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise TrainingError(
            f"the workers could not finish: {cause[0][:300]}; see {folder / _LOG}. Start it again to go on"
        ) from error
    finally:
        ray.shutdown()
    return _result(prepared, folder)


def _connect(ray: Any, workers: int, address: str | None) -> None:
    try:
        if address is None:
            cores = max(workers, os.cpu_count() or 1)
            ray.init(num_cpus=cores + 1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
        else:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()  # Ray itself tries for minutes.
            ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "on this machine" if address is None else f"at {address}"
        raise TrainingError(f"there is no Ray {where}: {error}. Look at --ray-address, or leave it out") from error


def _work(config: dict[str, Any]) -> None:
    """What every worker does."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    plan, folder = config["plan"], Path(config["folder"])
    trainer = make_trainer(plan, prepare(plan), ShardedTrainer)
    assert isinstance(trainer, ShardedTrainer)
    if not trainer.writes:
        fine_tune(trainer, folder, _Silent())
    else:
        with (folder / _LOG).open("a", encoding="utf-8") as log:
            fine_tune(trainer, folder, RunReporter(folder, Console(file=log, width=200), curves=config["curves"]))
    if trainer.best is None:
        trainer.write_whole(folder / _FINAL, {})
    dist.barrier()


class _Silent:
    """The reporter of the workers that have nothing to add."""

    def begin(self, step: int, total_steps: int, tokens: int) -> None: ...

    def step(self, result: Any) -> None: ...

    def note(self, text: str) -> None: ...

    def end(self) -> None: ...


def _result(prepared: PreparedRun, folder: Path) -> SftResult:
    """How the run stands, from what the workers left in its folder."""
    newest = list_checkpoints(folder)[-1]
    state = read_state(newest)
    stale = is_stale([Validation(**v) for v in state["validations"]], prepared.settings.patience)
    whole = list_checkpoints(folder / "best") or list_checkpoints(folder / _FINAL)
    step = int(state["step"])
    return SftResult(step, step >= prepared.settings.schedule.total_steps or stale, stale, whole[-1])


@contextmanager
def _told(log: Path, reporter: Reporter) -> Iterator[None]:
    """Pass on the lines that the first worker writes."""
    over = threading.Event()
    position = log.stat().st_size if log.exists() else 0

    def follow(position: int) -> None:
        while True:
            last = over.wait(0.5)
            if log.exists():
                with log.open(encoding="utf-8") as file:
                    file.seek(position)
                    text = file.read()
                whole, _, _ = text.rpartition("\n")
                position += len(whole.encode()) + 1 if whole else 0
                for line in whole.splitlines():
                    reporter.note(line)
            if last:
                return

    thread = threading.Thread(target=follow, args=(position,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
