"""`deepground train sft`: fine-tune a model on conversations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepground.cli.options import (
    ChatFormatOption,
    CheckpointStepsOption,
    DeviceOption,
    LoraAlphaOption,
    LoraRankOption,
    MaxMinutesOption,
    ModelOption,
    MuonOption,
    RayAddressOption,
    RunOption,
    WeightFormatOption,
    WorkersOption,
    check_workers,
    same_named,
)

if TYPE_CHECKING:
    from deepground.train.sft import SftPlan

_General = Annotated[
    list[Path] | None,
    typer.Option(
        help="Against forgetting: a file of conversations, or tasks for what the bundled model was trained on; may be "
        "given several times."
    ),
]
_RowLength = Annotated[
    int | None, typer.Option(min=8, help="Tokens per row, longer samples are left out; else the longest sample's.")
]
_Turns = Annotated[Literal["last", "all"], typer.Option(help="Learn the last reply of a conversation, or every one.")]
_Thinking = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(help="Mode in which replies are learnt; auto: thinking where a reply has any."),
]
_Precision = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option(help="Of the products; auto asks the hardware.")
]
_Patience = Annotated[int | None, typer.Option(min=1, help="Stop after so many validations without a better one.")]


def sft(
    model: ModelOption,
    run: RunOption,
    data: Annotated[list[Path], typer.Option("--data", help="File of conversations; may be given several times.")],
    general: _General = None,
    general_share: Annotated[float, typer.Option(help="Of the samples, those of --general.")] = 0.2,
    validation_share: Annotated[float, typer.Option(help="Of the data, held out.")] = 0.05,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 3.0,
    steps: Annotated[int | None, typer.Option(min=1, help="Overrides --epochs.")] = None,
    lora_rank: LoraRankOption = None,
    lora_alpha: LoraAlphaOption = 32.0,
    lr: Annotated[float | None, typer.Option(help="Step size; else 1e-5, or 2e-4 for adapters.")] = None,
    muon: MuonOption = False,
    rows: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 8,
    micro_rows: Annotated[int, typer.Option(min=1, help="Rows per forward pass.")] = 1,
    row_length: _RowLength = None,
    turns: _Turns = "last",
    thinking: _Thinking = "auto",
    precision: _Precision = "auto",
    fp8: Annotated[bool, typer.Option(help="Round the products' inputs to FP8-UE8M0, emulated.")] = False,
    patience: _Patience = None,
    checkpoint_steps: CheckpointStepsOption = 50,
    max_minutes: MaxMinutesOption = None,
    weight_format: WeightFormatOption = "bfloat16",
    chat_format: ChatFormatOption = None,
    curves: Annotated[bool, typer.Option(help="Write TensorBoard curves too.")] = False,
    seed: Annotated[int, typer.Option(help="Of the order of samples and of new adapters.")] = 0,
    device: DeviceOption = "cpu",
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
) -> None:
    """Fine-tune on conversations, export the result, and check that it is what was trained."""
    plan = _plan(locals())
    from rich.console import Console

    from deepground.train import RunReporter
    from deepground.train.sft import run_sft

    check_workers(workers, ray_address)
    if workers is None:
        outcome = run_sft(plan, run, RunReporter(run, Console(), curves=curves))
    else:
        from deepground.train.distributed import run_sft_on_workers

        reporter = RunReporter(run, Console())
        outcome = run_sft_on_workers(plan, run, reporter, workers=workers, address=ray_address, curves=curves)
    if outcome.export is not None:
        print(f"model: {outcome.model}")


def _plan(options: Mapping[str, Any]) -> SftPlan:
    from deepground.engine import PILOT_FOLDER
    from deepground.train.lora import LoraConfig
    from deepground.train.sft import SftPlan

    rank = options["lora_rank"]
    own = {
        "model": PILOT_FOLDER if options["model"] == "pilot" else Path(options["model"]),
        "data": tuple(options["data"]),
        "general": tuple(options["general"] or ()),
        "lora": None if rank is None else LoraConfig(rank=rank, alpha=options["lora_alpha"]),
    }
    return SftPlan(**same_named(SftPlan, options) | own)
