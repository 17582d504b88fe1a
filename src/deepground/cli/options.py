"""Arguments and options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

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
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Train on so many processes with Ray, the model sharded over them.")
]
RayAddressOption = Annotated[
    str | None, typer.Option(help="Of a Ray cluster, host:port; else one is started on this machine.")
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

ModelOption = Annotated[str, typer.Argument(help="Model folder, or pilot for the bundled one.")]
RunOption = Annotated[Path, typer.Argument(help="Folder of the run; the result goes to model/ in it.")]
LoraRankOption = Annotated[int | None, typer.Option(min=1, help="Train adapters of this rank; else all weights.")]
LoraAlphaOption = Annotated[float, typer.Option(help="Scale of the adapters, times 1 / rank.")]
MuonOption = Annotated[bool, typer.Option(help="Muon for the matrices, AdamW for the rest; else AdamW alone.")]
CheckpointStepsOption = Annotated[int, typer.Option(min=1, help="Steps from one checkpoint to the next.")]
MaxMinutesOption = Annotated[float | None, typer.Option(help="Stop after this time, with a checkpoint.")]
WeightFormatOption = Annotated[
    Literal["float32", "bfloat16", "fp8-ue8m0"], typer.Option(help="Of the exported matrices.")
]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]
ProblemsOption = Annotated[int, typer.Option(min=1, help="Problems of each task.")]
FieldOption = Annotated[str | None, typer.Option(help="Column of a file; else the usual names.")]
GraderOption = Annotated[str | None, typer.Option(help="Of a file's rows that name none: exact, number, math.")]
MaxTokensOption = Annotated[int, typer.Option(min=1, help="Of one reply, thinking included.")]
ConcurrencyOption = Annotated[int, typer.Option(min=1, help="Questions under way at one time.")]


def check_workers(workers: int | None, ray_address: str | None) -> None:
    """Raises typer.BadParameter for an address without a number of workers."""
    if ray_address is not None and workers is None:
        raise typer.BadParameter("say with --workers how many", param_hint="--ray-address")


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


def same_named(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a command's options that a dataclass has a field of the same name for."""
    return {field.name: options[field.name] for field in fields(kind) if field.name in options}
