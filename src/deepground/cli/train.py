"""`deepground train`: make a model from nothing on the procedural tasks, and export what a run has reached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deepground.cli.options import RayAddressOption, WorkersOption, check_workers
from deepground.cli.rl import rl
from deepground.cli.sft import sft

if TYPE_CHECKING:
    from deepground.train import PretrainConfig

train = typer.Typer(help="Train models; every run goes on where it was if it is started again.", no_args_is_help=True)
train.command()(sft)
train.command()(rl)

ModelFolder = Annotated[Path, typer.Argument(help="Folder with config.json and the tokenizer's files.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of the run: checkpoints, metrics, curves.")]


@train.command()
def pretrain(
    model: ModelFolder,
    run: RunFolder,
    total_steps: Annotated[int, typer.Option(help="Length of the schedule; may be changed when going on.")] = 1000,
    rows: Annotated[int, typer.Option(help="Rows per step.")] = 32,
    micro_rows: Annotated[int, typer.Option(min=1, help="Rows per forward pass; the gradient is the same.")] = 8,
    row_length: Annotated[int, typer.Option(help="Tokens per row; longer samples are left out.")] = 256,
    matrix_lr: Annotated[float, typer.Option(help="Muon's step size, for the matrices inside the blocks.")] = 6e-3,
    seed: Annotated[int, typer.Option(help="Of the first weights and the data.")] = 0,
    max_minutes: Annotated[float | None, typer.Option(help="Stop after this time, with a checkpoint.")] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="Of the products; auto asks the hardware.")
    ] = "auto",
    curves: Annotated[bool, typer.Option(help="Write TensorBoard curves.")] = False,
    phase: Annotated[
        Literal["main", "mtp"],
        typer.Option(help="main: fresh weights. mtp: MODEL's weights stay as they are and get a layer that drafts."),
    ] = "main",
    drafts: Annotated[
        int | None, typer.Option(min=1, max=8, help="mtp: tokens that the layer learns to draft ahead; 2 if left out.")
    ] = None,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
) -> None:
    """Train on the tasks' mixture: fresh weights for MODEL's configuration, or its multi-token-prediction layer."""
    from rich.console import Console

    from deepground import train as room
    from deepground.model import Decoder, Tokenizer, chat_format_for, load_config

    config = load_config(model)
    tokenizer = Tokenizer.from_folder(model)
    tokenizer.check_vocab_size(config.vocab_size)
    if phase == "main" and drafts is not None:
        raise typer.BadParameter("only the mtp phase drafts; give --phase mtp too", param_hint="--drafts")
    check_workers(workers, ray_address)
    settings = room.PretrainConfig(
        schedule=room.Schedule(total_steps=total_steps),
        num_rows=rows,
        micro_rows=micro_rows,
        row_length=row_length,
        optimizer=room.OptimizerConfig(matrix_lr=matrix_lr),
        precision=precision,
        max_minutes=max_minutes,
        mtp_drafts=(drafts or 2) if phase == "mtp" else 0,
    )
    if workers is not None:
        _pretrain_on_workers(model, settings, run, seed, workers, ray_address, curves)
        return
    if phase == "mtp":
        decoder = room.add_mtp_layer(room.load_main_model(model), seed)
    else:
        decoder = Decoder(config)
        room.initialize(decoder, seed)
    easy = {"easy_samples": 0} if phase == "mtp" else {}
    samples = room.mixture_samples(tokenizer, chat_format_for(model, config), seed=seed, **easy)
    trainer = room.Trainer(decoder, samples, settings, pad_id=tokenizer.eos_ids[0])
    room.pretrain(trainer, run, room.RunReporter(run, Console(), curves=curves))


def _pretrain_on_workers(
    model: Path, settings: PretrainConfig, run: Path, seed: int, workers: int, address: str | None, curves: bool
) -> None:
    from rich.console import Console

    from deepground.train import RunReporter
    from deepground.train.distributed import run_pretrain_on_workers

    reporter = RunReporter(run, Console())
    run_pretrain_on_workers(model, settings, run, reporter, seed=seed, workers=workers, address=address, curves=curves)


@train.command()
def export(
    model: ModelFolder,
    run: RunFolder,
    output: Annotated[Path, typer.Argument(help="Folder to write, as Hugging Face has it.")],
    weight_format: Annotated[
        Literal["float32", "bfloat16", "fp8-ue8m0"] | None,
        typer.Option(help="Of the matrices; bfloat16 if left out, after the mtp phase always that of MODEL."),
    ] = None,
) -> None:
    """Write the newest checkpoint of RUN as a model folder; after the mtp phase: MODEL's own files and the layer's."""
    from deepground.train import export_checkpoint

    step = export_checkpoint(run, model, output, weight_format=weight_format)
    typer.echo(f"step {step} of {run} is in {output}")
