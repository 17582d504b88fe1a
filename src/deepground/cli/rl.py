"""`deepground train rl`: let a model practise problems whose answers can be checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepground.cli.options import (
    ChatFormatOption,
    CheckpointStepsOption,
    DeviceOption,
    FieldOption,
    GraderOption,
    LoraAlphaOption,
    LoraRankOption,
    MaxMinutesOption,
    MaxTokensOption,
    ModelOption,
    MuonOption,
    ProblemsOption,
    RayAddressOption,
    RunOption,
    WeightFormatOption,
    WorkersOption,
    check_workers,
    same_named,
)

if TYPE_CHECKING:
    from deepground.train.rl import RlPlan

_Task = Annotated[
    list[str] | None,
    typer.Option(help="Practise this task, or one level of it as in addition@5; may be given several times."),
]
_Environment = Annotated[str, typer.Option(help="single-turn, calculator, or file.py:function for one of yours.")]
_Precision = Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="Of the products, sampling included.")]
_Evaluate = Annotated[
    list[str] | None, typer.Option(help="Suite asked before and after; else the tasks' held-out problems.")
]
_Side = Annotated[list[str] | None, typer.Option(help="Suite that shows side effects, asked before and after.")]


def rl(
    model: ModelOption,
    run: RunOption,
    task: _Task = None,
    data: Annotated[list[Path] | None, typer.Option(help="File of problems; may be given several times.")] = None,
    problems: ProblemsOption = 2000,
    question_field: FieldOption = None,
    answer_field: FieldOption = None,
    grader: GraderOption = None,
    environment: _Environment = "single-turn",
    steps: Annotated[int, typer.Option(min=1, help="Length of the schedule.")] = 100,
    questions: Annotated[int, typer.Option(min=1, help="Groups learnt from in a step.")] = 16,
    attempts: Annotated[int, typer.Option(min=2, help="Answers per question, a group.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Times that questions are drawn to find groups that teach.")] = 3,
    minibatches: Annotated[int, typer.Option(min=1, help="Optimizer steps per step.")] = 1,
    lr: Annotated[float | None, typer.Option(help="Step size; else 1e-6, or 1e-5 for adapters.")] = None,
    muon: MuonOption = False,
    lora_rank: LoraRankOption = None,
    lora_alpha: LoraAlphaOption = 32.0,
    max_tokens: MaxTokensOption = 512,
    thinking: Annotated[bool, typer.Option("--thinking/--no-thinking", help="Think before answering.")] = True,
    clip_low: Annotated[float, typer.Option(help="A token's chance may fall to 1 minus this in one step.")] = 0.2,
    clip_high: Annotated[float, typer.Option(help="And rise to 1 plus this.")] = 0.28,
    kl: Annotated[float, typer.Option(min=0, help="Weight of the distance to the first model; 0: none.")] = 0.0,
    format_reward: Annotated[float, typer.Option(help="For a reply in its proper form; a right one is worth 1.")] = 0.1,
    language_reward: Annotated[float, typer.Option(help="For thinking in the question's script.")] = 0.1,
    precision: _Precision = "float32",
    sequences: Annotated[int, typer.Option(min=1, help="Attempts sampled at one time.")] = 64,
    checkpoint_steps: CheckpointStepsOption = 10,
    max_minutes: MaxMinutesOption = None,
    weight_format: WeightFormatOption = "bfloat16",
    evaluate: _Evaluate = None,
    side: _Side = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Held-out problems per suite.")] = 200,
    chat_format: ChatFormatOption = None,
    seed: Annotated[int, typer.Option(help="Of problems and sampling.")] = 0,
    device: DeviceOption = "cpu",
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
) -> None:
    """GRPO with verifiable rewards: sample, grade, learn from the difference; evaluated before and after."""
    check_workers(workers, ray_address)
    plan = _plan(locals())
    from rich.console import Console

    from deepground.train.evaluation import text_table
    from deepground.train.rl import run_rl

    console = Console()
    if workers is None:
        outcome = run_rl(plan, run, console)
    else:
        from deepground.train.distributed import run_rl_on_workers

        outcome = run_rl_on_workers(plan, run, console, workers=workers, address=ray_address)
    if outcome.after is not None:
        console.print(text_table(outcome.after, outcome.before), soft_wrap=True)
    if outcome.finished:
        print(f"\nmodel: {outcome.model}\nreport: {run / 'report.html'}")


def _plan(options: Mapping[str, Any]) -> RlPlan:
    from deepground.engine import PILOT_FOLDER
    from deepground.train.answering import FieldNames
    from deepground.train.lora import LoraConfig
    from deepground.train.rl import LossConfig, RewardConfig, RlPlan

    rank = options["lora_rank"]
    own = {
        "model": PILOT_FOLDER if options["model"] == "pilot" else Path(options["model"]),
        "tasks": tuple(options["task"] or ()),
        "problems_per_task": options["problems"],
        "data": tuple(options["data"] or ()),
        "fields": FieldNames(question=options["question_field"], answer=options["answer_field"]),
        "questions_per_step": options["questions"],
        "most_rounds": options["rounds"],
        "lora": None if rank is None else LoraConfig(rank=rank, alpha=options["lora_alpha"]),
        "max_sequences": options["sequences"],
        "loss": LossConfig(**same_named(LossConfig, options)),
        "rewards": RewardConfig(format=options["format_reward"], language=options["language_reward"]),
        "evaluate": tuple(options["evaluate"] or ()),
        "side": tuple(options["side"] or ()),
        "evaluation_count": options["n"],
    }
    return RlPlan(**same_named(RlPlan, options) | own)
