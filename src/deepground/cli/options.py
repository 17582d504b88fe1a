"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(StrEnum):
    """Number format of the weights in memory."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


ModelFolder = Annotated[Path | None, typer.Argument(help="Model folder; the bundled pilot model if none is named.")]
DtypeOption = Annotated[Dtype, typer.Option(help="Number format of the weights in memory.")]
ChatFormatOption = Annotated[str | None, typer.Option(help="Name of a chat format, if the folder's own is wrong.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads for the arithmetic; else all cores.")]
