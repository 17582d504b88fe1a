"""`deepground train`: make a model from nothing on the procedural tasks, and export what a run has reached."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

train = typer.Typer(help="Train models; every run goes on where it was if it is started again.", no_args_is_help=True)

ModelFolder = Annotated[Path, typer.Argument(help="Folder with config.json and the tokenizer's files.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of the run: checkpoints, metrics, curves.")]


@train.command()
def pretrain(
    model: ModelFolder,
    run: RunFolder,
    total_steps: Annotated[int, typer.Option(help="Length of the schedule; may be changed when going on.")] = 1000,
    rows: Annotated[int, typer.Option(help="Rows per step.")] = 32,
    row_length: Annotated[int, typer.Option(help="Tokens per row; longer samples are left out.")] = 256,
    matrix_lr: Annotated[float, typer.Option(help="Muon's step size, for the matrices inside the blocks.")] = 6e-3,
    seed: Annotated[int, typer.Option(help="Of the first weights and the data.")] = 0,
    max_minutes: Annotated[float | None, typer.Option(help="Stop after this time, with a checkpoint.")] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="Of the products; auto asks the hardware.")
    ] = "auto",
    curves: Annotated[bool, typer.Option(help="Write TensorBoard curves.")] = False,
) -> None:
    """Train fresh weights for MODEL's configuration on the tasks' mixture."""
    from rich.console import Console

    from deepground import train as room
    from deepground.model import Decoder, Tokenizer, chat_format_for, load_config

    config = load_config(model)
    tokenizer = Tokenizer.from_folder(model)
    tokenizer.check_vocab_size(config.vocab_size)
    decoder = Decoder(config)
    room.initialize(decoder, seed)
    settings = room.PretrainConfig(
        schedule=room.Schedule(total_steps=total_steps),
        num_rows=rows,
        row_length=row_length,
        optimizer=room.OptimizerConfig(matrix_lr=matrix_lr),
        precision=precision,
        max_minutes=max_minutes,
    )
    samples = room.mixture_samples(tokenizer, chat_format_for(model, config), seed=seed)
    trainer = room.Trainer(decoder, samples, settings, pad_id=tokenizer.eos_ids[0])
    room.pretrain(trainer, run, room.RunReporter(run, Console(), curves=curves))


@train.command()
def export(
    model: ModelFolder,
    run: RunFolder,
    output: Annotated[Path, typer.Argument(help="Folder to write, as Hugging Face has it.")],
    weight_format: Annotated[
        Literal["float32", "bfloat16", "fp8-ue8m0"], typer.Option(help="Of the matrices.")
    ] = "bfloat16",
) -> None:
    """Write the newest checkpoint of RUN as a model folder."""
    from deepground.train import export_checkpoint

    step = export_checkpoint(run, model, output, weight_format=weight_format)
    typer.echo(f"step {step} of {run} is in {output}")
