"""A training on the workers of a Ray cluster, or of a Ray that is started on this machine for it.

Ray Train starts a process for each worker and connects them; when one of them dies, it starts all of them again, and
the run goes on from its newest checkpoint (docs.ray.io, Ray Train, "Handling failures"). Nothing is reported to
anybody: usage statistics and the dashboard are switched off.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from deepground.errors import TrainingError
from deepground.model import Decoder, Tokenizer, chat_format_for, load_config
from deepground.tasks.graders import GraderPool
from deepground.train import rl
from deepground.train.answering import Question
from deepground.train.checkpoint import WHOLE_FOLDER, list_checkpoints, read_state
from deepground.train.distributed.grpo import ShardedGrpoTrainer, check_grpo_settings
from deepground.train.distributed.sharded import ShardedTrainer, check_settings
from deepground.train.initialize import initialize
from deepground.train.mixture import mixture_samples
from deepground.train.pretrain import PretrainConfig, PretrainResult
from deepground.train.reporting import Reporter, RunReporter
from deepground.train.rl import RlPlan
from deepground.train.sft import (
    PreparedRun,
    SftConfig,
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


class _Job(Protocol):
    """What the workers are to do; goes to them by pickling."""

    @property
    def device(self) -> str:
        """Where they compute: cpu or cuda."""
        ...

    def work(self, folder: Path, log: Console | None, *, curves: bool) -> None:
        """What every worker does; the first one has a log."""
        ...


@dataclass(frozen=True)
class _Tuning:
    plan: SftPlan

    @property
    def device(self) -> str:
        return self.plan.device

    def work(self, folder: Path, log: Console | None, *, curves: bool) -> None:
        trainer = make_trainer(self.plan, prepare(self.plan), ShardedTrainer)
        assert isinstance(trainer, ShardedTrainer)
        _fine_tune(trainer, folder, log, curves=curves)


@dataclass(frozen=True)
class _Pretraining:
    model: Path
    settings: SftConfig
    seed: int
    device: str = "cpu"

    def work(self, folder: Path, log: Console | None, *, curves: bool) -> None:
        # Layers of multi-token prediction are trained in a phase of their own.
        config = replace(load_config(self.model), num_mtp_layers=0)
        tokenizer = Tokenizer.from_folder(self.model)
        decoder = Decoder(config)
        initialize(decoder, self.seed)
        samples = mixture_samples(tokenizer, chat_format_for(self.model, config), seed=self.seed)
        trainer = ShardedTrainer(
            decoder.to(self.device), samples, (), self.settings, pad_id=tokenizer.eos_ids[0],
            data_digest=f"the tasks' mixture, seed {self.seed}", device=self.device,
        )  # fmt: skip
        _fine_tune(trainer, folder, log, curves=curves)


@dataclass(frozen=True)
class _Practising:
    plan: RlPlan
    digest: str

    @property
    def device(self) -> str:
        return self.plan.device

    def work(self, folder: Path, log: Console | None, *, curves: bool) -> None:
        console = log or Console(file=io.StringIO(), quiet=True)
        with GraderPool(workers=1) as pool:
            trainer = rl.make_trainer(
                self.plan, rl.practice_questions(self.plan), pool, self.digest, ShardedGrpoTrainer
            )
            assert isinstance(trainer, ShardedGrpoTrainer)
            rl.practise(trainer, folder, self.plan.steps, self.plan.max_minutes, console)
            trainer.write_whole(folder / WHOLE_FOLDER, {})


def _fine_tune(trainer: ShardedTrainer, folder: Path, log: Console | None, *, curves: bool) -> None:
    fine_tune(trainer, folder, _Silent() if log is None else RunReporter(folder, log, curves=curves))
    if trainer.best is None:
        trainer.write_whole(folder / WHOLE_FOLDER, {})


def run_pretrain_on_workers(
    model: Path,
    settings: PretrainConfig,
    folder: Path,
    reporter: Reporter,
    *,
    seed: int,
    workers: int,
    address: str | None = None,
    curves: bool = False,
) -> PretrainResult:
    """`pretrain` from fresh weights on the tasks' mixture, by several workers; the result is the same but for rounding.

    Args:
        model: folder with config.json and the tokenizer; there on every machine under the same name.
        settings: of the run; the phase of multi-token prediction is for one worker.
        folder: of the run, on storage that every machine sees. At the end the whole weights are in it too, where
            `export_checkpoint` finds them.
        reporter: told what the first worker tells.
        seed: of the first weights and the data.
        workers: number of processes.
        address: of a Ray cluster, host:port; None: one is started on this machine and ends with the run.
        curves: write TensorBoard curves.

    Raises:
        TrainingError: as `run_sft_on_workers`.
    """
    if settings.mtp_drafts:
        raise TrainingError("a layer of multi-token prediction is trained by one worker; leave out --workers")
    same = ("schedule", "num_rows", "row_length", "micro_rows", "optimizer", "balance_gamma", "precision",
            "checkpoint_steps", "keep_checkpoints", "max_minutes")  # fmt: skip
    sharded = SftConfig(**{name: getattr(settings, name) for name in same})
    folder = folder.resolve()
    check_settings(sharded, workers)
    _fit(_Pretraining(model.resolve(), sharded, seed), folder, reporter, workers, address, curves)
    newest = list_checkpoints(folder)[-1]
    step = int(read_state(newest)["step"])
    return PretrainResult(step, step >= settings.schedule.total_steps, newest)


def run_rl_on_workers(
    plan: RlPlan, folder: Path, console: Console, *, workers: int, address: str | None = None
) -> rl.RlOutcome:
    """`run_rl` with sampling, grading and training shared by several workers.

    Args:
        plan: what to do; files and folders must be there on every machine under the same names.
        folder: of the run, on storage that every machine sees.
        console: told what the first worker tells.
        workers: number of processes.
        address: of a Ray cluster, host:port; None: one is started on this machine and ends with the run.

    Raises:
        TrainingError: as `run_sft_on_workers`, or of questions and settings that cannot be trained with.
        ModelFolderError: the model cannot be loaded.
    """
    check_grpo_settings(plan.lora, workers)
    folder = folder.resolve()
    plan = replace(plan, model=plan.model.resolve(), data=tuple(path.resolve() for path in plan.data))

    def train(plan: RlPlan, questions: Sequence[Question], digest: str, folder: Path, console: Console) -> rl.Practice:
        _fit(_Practising(plan, digest), folder, _Lines(console), workers, address, curves=False)
        step = int(read_state(list_checkpoints(folder)[-1])["step"])
        return rl.Practice(step, step >= plan.steps, list_checkpoints(folder / WHOLE_FOLDER)[-1])

    return rl.run_rl(plan, folder, console, train=train, kind="rl on workers")


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
    _fit(_Tuning(plan), folder, reporter, workers, address, curves)
    return _result(prepared, folder)


def _fit(job: _Job, folder: Path, reporter: _Notes, workers: int, address: str | None, curves: bool) -> None:
    """Have the workers do a job to its end."""
    # Ray would run its workers at the lowest priority, where anything else on the machine stops them.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_V2_ENABLED": "1", "RAY_worker_niceness": "0"}
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise TrainingError(f"--workers needs Ray ({error}): pip install 'deepground[distributed]'") from error
    gpu = job.device != "cpu"
    folder.mkdir(parents=True, exist_ok=True)
    _connect(ray, workers, address)
    try:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"job": job, "folder": str(folder), "curves": curves},
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
    job, folder = config["job"], Path(config["folder"])
    with contextlib.ExitStack() as stack:
        log = None
        if dist.get_rank() == 0:
            log = Console(file=stack.enter_context((folder / _LOG).open("a", encoding="utf-8", buffering=1)), width=200)
        job.work(folder, log, curves=config["curves"])
    dist.barrier()


class _Lines:
    """Passes on the first worker's lines, which have their times."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Notes(Protocol):
    """Where the workers' lines go."""

    def note(self, text: str) -> None:
        """One line."""
        ...


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
    whole = list_checkpoints(folder / "best") or list_checkpoints(folder / WHOLE_FOLDER)
    step = int(state["step"])
    return SftResult(step, step >= prepared.settings.schedule.total_steps or stale, stale, whole[-1])


@contextmanager
def _told(log: Path, reporter: _Notes) -> Iterator[None]:
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
