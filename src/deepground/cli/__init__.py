"""The command line: one command per verb. It wires rooms together and computes nothing.

Rooms are imported inside the commands, so that `--help` answers at once and without torch.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import deepground
from deepground.cli.agent import agent
from deepground.cli.bench import bench
from deepground.cli.chat import chat
from deepground.cli.convert import convert
from deepground.cli.distill import distill
from deepground.cli.doctor import doctor
from deepground.cli.eval import evaluate
from deepground.cli.inspect import inspect
from deepground.cli.keys import keys
from deepground.cli.serve import serve
from deepground.cli.train import train
from deepground.errors import DeepgroundError

app = typer.Typer(
    name="deepground",
    help="Open-weight reasoning models on your own machines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(serve)
app.command()(chat)
app.command()(inspect)
app.command()(convert)
app.command()(bench)
app.command()(distill)
app.command(name="eval")(evaluate)
app.command()(doctor)
app.add_typer(agent, name="agent")
app.add_typer(train, name="train")
app.add_typer(keys, name="keys")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"deepground {deepground.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Open-weight reasoning models on your own machines."""


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit code 1."""
    try:
        app()
    except DeepgroundError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
