"""From a model and problems to a model that solves more of them, with the proof."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from deepground.errors import TrainingError
from deepground.model import Tokenizer, WeightFormat, chat_format_for, load_config, weights_fingerprint
from deepground.tasks.graders import GraderPool
from deepground.train import checkpoint
from deepground.train.answering import FieldNames, LocalModel, Question, RunFolder, read_questions, task_questions
from deepground.train.data import Sample
from deepground.train.evaluation import EvaluationPlan, EvaluationResults, evaluate_suites, questions_digest
from deepground.train.lora import LoraConfig
from deepground.train.optim import Schedule
from deepground.train.pretrain import Precision
from deepground.train.reporting import read_metrics
from deepground.train.rl.environment import Environment, SingleTurn, calculator
from deepground.train.rl.groups import GroupStore
from deepground.train.rl.loss import LossConfig
from deepground.train.rl.report import write_rl_report
from deepground.train.rl.rewards import RewardConfig
from deepground.train.rl.rollout import PolicySampler
from deepground.train.rl.trainer import GrpoConfig, GrpoStep, GrpoTrainer
from deepground.train.sft.export import export_model
from deepground.train.sft.run import load_for_training, optimizer_settings
from deepground.train.stopping import stop_requests

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class RlPlan:
    """A whole run, as the command line has it."""

    model: Path
    tasks: tuple[str, ...] = ()
    """Our tasks, `addition@5` for one level; problems of their training split."""
    problems_per_task: int = 2000
    data: tuple[Path, ...] = ()
    """Files of problems."""
    fields: FieldNames = field(default_factory=FieldNames)
    grader: str | None = None
    environment: str = "single-turn"
    """single-turn, calculator, or "file.py:make"."""
    steps: int = 100
    questions_per_step: int = 16
    attempts: int = 8
    most_rounds: int = 3
    minibatches: int = 1
    lr: float | None = None
    """None: 1e-6 for all weights, 1e-5 for adapters."""
    muon: bool = False
    lora: LoraConfig | None = None
    max_tokens: int = 512
    thinking: bool = True
    max_sequences: int = 64
    micro_rows: int = 4
    loss: LossConfig = field(default_factory=LossConfig)
    rewards: RewardConfig = field(default_factory=RewardConfig)
    precision: Precision = "float32"
    checkpoint_steps: int = 10
    max_minutes: float | None = None
    weight_format: WeightFormat = "bfloat16"
    evaluate: tuple[str, ...] = ()
    """Suites for before and after; empty: the tasks' held-out problems."""
    side: tuple[str, ...] = ()
    """Suites that show side effects."""
    evaluation_count: int = 200
    chat_format: str | None = None
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class RlOutcome:
    """What a run left behind."""

    step: int
    finished: bool
    model: Path
    before: EvaluationResults | None
    after: EvaluationResults | None


class Practice(NamedTuple):
    """How far the training came."""

    step: int
    finished: bool
    checkpoint: Path
    """Of the whole weights."""


Practising = Callable[[RlPlan, Sequence[Question], str, Path, Console], Practice]
"""Trains: plan, questions, their and the model's digest, folder of the run, console."""


def run_rl(
    plan: RlPlan, folder: Path, console: Console, *, train: Practising | None = None, kind: str = "rl"
) -> RlOutcome:
    """Evaluate, practise, export, evaluate again; goes on where it was if it is started again.

    Args:
        plan: what to do.
        folder: of the run; the model goes to `model/` in it.
        console: told of every step.
        train: does the training; None: this process.
        kind: of the run's folder.

    Raises:
        TrainingError: questions or settings that cannot be trained with; names them.
        ModelFolderError: the model cannot be loaded.
    """
    questions = practice_questions(plan)
    digest = questions_digest(questions) + weights_fingerprint(plan.model)
    of_run = {"kind": kind, "digest": digest, "lora": None if plan.lora is None else vars(plan.lora)}
    with RunFolder(folder, of_run):
        before = _evaluate(plan, plan.model, folder / "before")
        step, finished, newest = (train or _practise_here)(plan, questions, digest, folder, console)
        write_rl_report(folder, before, None)
        if not finished:
            return RlOutcome(step, False, folder / "model", before, None)
        check = export_model(
            plan.model,
            newest,
            folder,
            lora=plan.lora,
            seed=plan.seed,
            weight_format=plan.weight_format,
            held_out=_last_attempts(folder, step, questions),
            pad_id=0,
        )
        note(console, check.sentence())
        after = _evaluate(plan, folder / "model", folder / "after")
        write_rl_report(folder, before, after)
    return RlOutcome(step, True, folder / "model", before, after)


def _practise_here(
    plan: RlPlan, questions: Sequence[Question], digest: str, folder: Path, console: Console
) -> Practice:
    with GraderPool(workers=1) as pool:
        trainer = make_trainer(plan, questions, pool, digest)
        finished = practise(trainer, folder, plan.steps, plan.max_minutes, console)
    return Practice(trainer.step, finished, checkpoint.list_checkpoints(folder)[-1])


def make_trainer(
    plan: RlPlan,
    questions: Sequence[Question],
    pool: GraderPool,
    digest: str,
    kind: type[GrpoTrainer] = GrpoTrainer,
) -> GrpoTrainer:
    """The trainer of a plan, at its beginning."""
    config = load_config(plan.model)
    tokenizer = Tokenizer.from_folder(plan.model)
    chat_format = chat_format_for(plan.model, config, plan.chat_format)
    decoder = load_for_training(plan.model, plan.lora, plan.seed, plan.device)
    lr = plan.lr if plan.lr is not None else (1e-6 if plan.lora is None else 1e-5)
    if not 0 < lr < 1:
        raise TrainingError(f"the learning rate is {lr}; it must be above 0 and below 1")
    settings = GrpoConfig(
        schedule=Schedule(total_steps=plan.steps, warmup_steps=max(1, plan.steps // 20), decay_share=0.2),
        questions_per_step=plan.questions_per_step,
        attempts=plan.attempts,
        most_rounds=plan.most_rounds,
        minibatches=plan.minibatches,
        max_tokens=plan.max_tokens,
        thinking=plan.thinking,
        max_sequences=plan.max_sequences,
        row_length=_row_length(plan, config.max_positions, questions, tokenizer),
        micro_rows=plan.micro_rows,
        optimizer=optimizer_settings(lr=lr, muon=plan.muon, weight_decay=0.0),
        loss=plan.loss,
        rewards=plan.rewards,
        lora=plan.lora,
        precision=plan.precision,
        checkpoint_steps=plan.checkpoint_steps,
        seed=plan.seed,
        max_minutes=plan.max_minutes,
    )
    environment = load_environment(plan.environment)
    sampler = PolicySampler(
        decoder,
        tokenizer,
        chat_format,
        environment,
        max_tokens=plan.max_tokens,
        thinking=plan.thinking,
        max_sequences=plan.max_sequences,
    )
    first = load_for_training(plan.model, None, plan.seed, plan.device).eval() if plan.loss.kl > 0 else None
    return kind(
        decoder,
        sampler,
        questions,
        pool,
        settings,
        pad_id=tokenizer.eos_ids[0] if tokenizer.eos_ids else 0,
        digest=digest,
        first=first,
    )


def practise(trainer: GrpoTrainer, folder: Path, steps: int, max_minutes: float | None, console: Console) -> bool:
    """Run steps to the end of the schedule; False if a signal or the time limit stopped it before.

    Raises:
        CheckpointError: the folder's checkpoint does not fit the run.
    """
    note(console, f"{trainer.num_questions} problems to practise; products in {trainer.precision}")
    store = GroupStore(folder)
    found = checkpoint.list_checkpoints(folder)
    if found:
        changes = trainer.resume(found[-1])
        if changes and trainer.writes:
            store.forget_from(trainer.step)
        note(console, f"resumed from {found[-1]}" + "".join(f"; changed {change}" for change in changes))
    else:
        trainer.save(folder)
    metrics = folder / METRICS_FILE
    if trainer.writes:
        lines = [json.dumps(line) + "\n" for line in read_metrics(metrics) if line["step"] <= trainer.step]
        metrics.write_text("".join(lines), encoding="utf-8")
    deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    stop = False
    with stop_requests() as stop_requested:
        while trainer.step < steps and not stop:
            result = trainer.run_step(store)
            if trainer.writes:
                with metrics.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(dataclasses.asdict(result)) + "\n")
            note(console, _line(result, steps))
            stop = trainer.agree(stop_requested() or (deadline is not None and time.monotonic() > deadline))
            if stop or trainer.step == steps or trainer.step % trainer.config.checkpoint_steps == 0:
                trainer.save(folder)
                if trainer.writes:
                    oldest = checkpoint.list_checkpoints(folder)[0]
                    store.forget_before(int(checkpoint.read_state(oldest)["step"]))
    return trainer.step >= steps


def practice_questions(plan: RlPlan) -> list[Question]:
    """What is practised; never a held-out problem of our tasks.

    Raises:
        TrainingError: there is nothing, or a file is damaged.
    """
    questions = [
        question
        for task in plan.tasks
        for question in task_questions(task, plan.problems_per_task, split="train", seed=plan.seed)
    ]
    for path in plan.data:
        questions += read_questions(path, fields=plan.fields, grader=plan.grader)
    if not questions:
        raise TrainingError("there is nothing to practise; name tasks or a file of problems")
    if len({question.id for question in questions}) < len(questions):
        raise TrainingError("two problems have the same id; give each its own")
    return questions


def load_environment(name: str) -> Environment:
    """The environment of this name.

    Raises:
        TrainingError: there is none, or the file does not make one.
    """
    if name == "single-turn":
        return SingleTurn()
    if name == "calculator":
        return calculator()
    place, _, function = name.rpartition(":")
    try:
        if place.endswith(".py"):
            source = importlib.util.spec_from_file_location("environment_of_the_run", place)
            assert source is not None
            assert source.loader is not None
            module = importlib.util.module_from_spec(source)
            source.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        make: Callable[[], Environment] = getattr(module, function)
        environment = make()
    except (OSError, ImportError, AttributeError, ValueError, AssertionError) as error:
        raise TrainingError(
            f"there is no environment {name!r} ({error}); name single-turn, calculator, or file.py:function, a "
            "function that returns an environment"
        ) from error
    if not callable(getattr(environment, "start", None)):
        raise TrainingError(f"{name} returned something without a method start; see Environment")
    return environment


def note(console: Console, text: str) -> None:
    """One line with the time."""
    console.print(f"{time.strftime('%H:%M:%S')} {text}", highlight=False, markup=False, soft_wrap=True)


def _last_attempts(folder: Path, step: int, questions: Sequence[Question]) -> list[Sample]:
    """What the policy said in its last step, to compare the exported model with the trained one on."""
    groups = GroupStore(folder).load(step - 1, {question.id: question for question in questions}) or []
    turns = [trial.attempt.turns[-1] for group in groups for trial in group.trials[:1]]
    return [Sample([*turn.prompt_ids, *turn.token_ids], len(turn.prompt_ids)) for turn in turns]


def _evaluate(plan: RlPlan, model: Path, folder: Path) -> EvaluationResults | None:
    suites = plan.evaluate or plan.tasks
    if not suites and not plan.side:
        return None

    async def run() -> EvaluationResults:
        respondent = LocalModel(model, max_sequences=plan.max_sequences, chat_format=plan.chat_format)
        try:
            questions = EvaluationPlan(
                suites=suites,
                side=plan.side,
                count=plan.evaluation_count,
                max_tokens=plan.max_tokens,
                thinking=(plan.thinking,),
                concurrency=plan.max_sequences,
                seed=plan.seed,
                fields=plan.fields,
                grader=plan.grader,
            )
            return (await evaluate_suites(respondent, questions, folder))[0]
        finally:
            await respondent.aclose()

    return asyncio.run(run())


def _row_length(plan: RlPlan, context: int, questions: Sequence[Question], tokenizer: Tokenizer) -> int:
    """Room for the longest attempt: of several turns the whole context, else prompt and reply."""
    if plan.environment != "single-turn":
        return context
    longest = max(sum(len(tokenizer.encode(m.text)) + 16 for m in question.messages) for question in questions)
    return min(context, longest + plan.max_tokens)


def _line(result: GrpoStep, steps: int) -> str:
    return (
        f"step {result.step}/{steps} · right {result.right:.1%} · reward {result.reward:.3f} · groups "
        f"{result.groups_kept}/{result.groups_sampled} · tokens {result.tokens:.0f} · cut off {result.truncated:.1%} · "
        f"entropy {result.entropy:.3f} · clipped {result.clipped:.2%} · mismatch {result.mismatch:.1e} · norm "
        f"{result.gradient_norm:.2f} · {result.sampling_seconds:.1f} + {result.training_seconds:.1f} s"
    )
