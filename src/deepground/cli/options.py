"""Arguments and options that several commands share."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(StrEnum):
    """How weights are held in memory."""

    AUTO = "auto"
    NATIVE = "native"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Speculate(StrEnum):
    """Where drafts of the next tokens come from."""

    AUTO = "auto"
    MTP = "mtp"
    NGRAM = "ngram"
    OFF = "off"


ModelFolder = Annotated[Path | None, typer.Argument(help="Model folder; the bundled pilot model if none is named.")]
DtypeOption = Annotated[
    Dtype,
    typer.Option(
        help="How weights are held: as stored, for the compiled kernels (native); expanded, for torch (float32, "
        "bfloat16); auto: native where there are kernels for the model."
    ),
]
ChatFormatOption = Annotated[str | None, typer.Option(help="Name of a chat format, if the folder's own is wrong.")]
MemoryLimitOption = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Most memory for the whole process, in GiB; else what is free. Experts of a larger model stay on disk.",
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads for the arithmetic; else all cores.")]
SpeculateOption = Annotated[
    Speculate,
    typer.Option(
        help="Guess several tokens at a time, with the model's own layer for it (mtp), from the text so far (ngram), "
        "or both as it pays (auto). The answers stay the same."
    ),
]
DraftTokensOption = Annotated[
    int | None, typer.Option(min=1, max=31, help="Most guesses at a time; else 3 of the model's and 16 from the text.")
]
PrefixCacheOption = Annotated[
    bool, typer.Option("--prefix-cache/--no-prefix-cache", help="Compute a beginning that prompts share only once.")
]
PrefixDiskOption = Annotated[
    bool,
    typer.Option(
        "--prefix-disk/--no-prefix-disk",
        help="Keep computed prompts and answers on disk too, so that they outlive the process. They can be read back.",
    ),
]
PrefixDirOption = Annotated[
    Path | None,
    typer.Option("--prefix-cache-dir", help="Folder for that; else deepground/prefix in the user's cache folder."),
]
PrefixGibOption = Annotated[
    float | None,
    typer.Option(
        "--prefix-cache-disk-gib", min=0.001, help="Most GiB of that folder; else 8, or a tenth of the free disk."
    ),
]


def prefix_disk_folder(*, cache: bool, disk: bool, folder: Path | None, gib: float | None) -> Path | None:
    """Where cached prefixes go on disk; None: nowhere.

    Raises:
        typer.BadParameter: a folder or a size was given for something that is switched off.
    """
    if cache and disk:
        return folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepground" / "prefix"
    for name, value in (("--prefix-cache-dir", folder), ("--prefix-cache-disk-gib", gib)):
        if value is not None:
            raise typer.BadParameter("has no meaning while the disk tier is switched off", param_hint=name)
    return None


def gib_to_bytes(gib: float | None) -> int | None:
    """The same in bytes."""
    return None if gib is None else int(gib * 2**30)
