"""Reading the safetensors files of a model folder, whatever state they are in.

A file's header is checked here before anything is mapped, so that a damaged file gives a sentence that names
it, never a crash. Format: 8 bytes little-endian header length, a JSON header, then the tensors' bytes
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deepground.errors import ConfigError, ModelFolderError, UnsafeFileError, UnsupportedModelError, WeightsError
from deepground.model.config_fields import read_json_object

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000
"""The reference implementation's own bound."""
_MAX_INDEX_BYTES = 200 * 2**20
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_DOWNLOAD = "download it again"

DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U8": torch.uint8,
}
"""Those that weights, their packed codes and their scales may have, by safetensors name."""


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Where one tensor lies, and what it is."""

    path: Path
    dtype: str
    """As safetensors names it."""
    shape: tuple[int, ...]
    offset: int
    """Of its first byte within the file."""
    size: int
    """Bytes in the file."""


class Checkpoint:
    """All tensors of a model folder, mapped from disk when read.

    Use as a context manager: the mapped files close with it.

    Args:
        folder: holds model.safetensors, or shards with model.safetensors.index.json.
        mapped: whether tensors are backed by the mapped files. Otherwise each is read into memory of its own,
            which goes when the tensor goes: a pass over many files then holds one tensor and no pages.

    Raises:
        UnsafeFileError: the folder's weights are pickles only.
        UnsupportedModelError: the folder's weights are in another format only.
        WeightsError: a file is missing, damaged, or disagrees with the index.
    """

    def __init__(self, folder: Path, *, mapped: bool = True) -> None:
        self.folder = folder
        self._mapped = mapped
        self.tensors: dict[str, TensorInfo] = {}
        self._open: dict[Path, Any] = {}
        # The single file comes first where both are there, as in transformers.
        if (folder / SINGLE_FILE).exists():
            self.tensors.update(read_header(folder / SINGLE_FILE))
        elif (folder / INDEX_FILE).exists():
            self._read_index(folder / INDEX_FILE)
        else:
            raise _no_weights(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.clear()

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU. If it is backed by the mapped file, copy it before the checkpoint closes.

        Raises:
            WeightsError: its dtype is not one that weights may have, or the file cannot be mapped.
        """
        info = self.tensors[name]
        if info.dtype not in DTYPES:
            raise WeightsError(
                f"{info.path}: the tensor {name} has the dtype {info.dtype}; weights are read from "
                f"{', '.join(DTYPES)}: use the model's release in one of these"
            )
        try:
            if not self._mapped:
                return _read_bytes(info).view(DTYPES[info.dtype]).view(info.shape)
            if info.path not in self._open:
                self._open[info.path] = safe_open(info.path, framework="pt", device="cpu")
            tensor: Tensor = self._open[info.path].get_tensor(name)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{info.path}: the tensor {name} cannot be read ({error}); {_DOWNLOAD}") from error
        return tensor

    def _read_index(self, index: Path) -> None:
        try:
            weight_map = read_json_object(index, max_bytes=_MAX_INDEX_BYTES).get("weight_map")
        except ConfigError as error:
            raise WeightsError(str(error)) from error
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise WeightsError(f"{index} has no weight_map from tensor names to file names; {_DOWNLOAD}")
        headers = {file: read_header(_shard_path(index, file)) for file in sorted(set(weight_map.values()))}
        for name, file in weight_map.items():
            if name not in headers[file]:
                raise WeightsError(f"{index} says that {file} holds the tensor {name}, but it does not; {_DOWNLOAD}")
            self.tensors[name] = headers[file][name]
        for file, header in headers.items():
            unlisted = sorted(name for name in header if weight_map.get(name) is None)
            if unlisted:
                raise WeightsError(
                    f"{index.parent / file} holds the tensor {unlisted[0]}, which {index.name} does not list "
                    f"({len(unlisted)} such); download both again, from one revision of the model"
                )


def _read_bytes(info: TensorInfo) -> Tensor:
    values = torch.empty(info.size, dtype=torch.uint8)
    rest = values.numpy().data
    with info.path.open("rb", buffering=0) as file:
        file.seek(info.offset)
        while rest:
            count = file.readinto(rest)
            if not count:
                raise OSError("the file ends before the tensor does")
            rest = rest[count:]
    return values


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors that a safetensors file says it holds, each checked to lie within the file.

    Raises:
        WeightsError: the file is missing, unreadable, truncated or damaged; says which.
    """
    try:
        if path.exists() and not path.is_file():
            raise WeightsError(f"{path} is a directory, not a safetensors file; remove it and download the file again")
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise WeightsError(f"{path} has only {size} bytes, less than any safetensors file; {_DOWNLOAD}")
            (length,) = struct.unpack("<Q", start)
            if length > min(_MAX_HEADER_BYTES, size - 8):
                raise WeightsError(
                    f"{path} is truncated or no safetensors file: its header would have {length} bytes, "
                    f"the file has {size}; {_DOWNLOAD}"
                )
            text = file.read(length)
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is missing; download it into the folder") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} has a damaged header ({error}); {_DOWNLOAD}") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{path} has a damaged header (not a JSON object); {_DOWNLOAD}")
    header.pop("__metadata__", None)
    return {name: _tensor_info(path, name, entry, 8 + length, size) for name, entry in header.items()}


def _tensor_info(path: Path, name: str, entry: Any, start: int, file_size: int) -> TensorInfo:
    """What one header entry says; the tensors' bytes run from `start` to the end of the file."""
    damaged = WeightsError(f"{path} has a damaged header: the entry of the tensor {name} makes no sense; {_DOWNLOAD}")
    if not isinstance(entry, dict):
        raise damaged
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
        raise damaged
    begin, end = offsets
    if begin > end or (dtype in DTYPES and math.prod(shape) * DTYPES[dtype].itemsize != end - begin):
        raise damaged
    available = file_size - start
    if end > available:
        raise WeightsError(
            f"{path} is truncated: the tensor {name} ends at byte {end} of the tensor data, of which the file "
            f"has {available}; {_DOWNLOAD}"
        )
    return TensorInfo(path=path, dtype=dtype, shape=tuple(shape), offset=start + begin, size=end - begin)


def _whole_numbers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _shard_path(index: Path, file: str) -> Path:
    """The shard that an index names; one that points out of the folder is refused, existing or not."""
    if file in ("", ".", "..") or "/" in file or "\\" in file or "\0" in file:
        raise WeightsError(
            f"{index} names the file {file!r}, which is not a plain name within the folder; "
            "the index is damaged or hostile: get the folder from a source that you trust"
        )
    if not file.endswith(".safetensors"):
        raise UnsafeFileError(f"{index} names the file {file!r}; only .safetensors files are opened")
    return index.parent / file


def _no_weights(folder: Path) -> ModelFolderError:
    """Why a folder without the expected files cannot be loaded, as exactly as its content allows."""
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    if shards:
        return WeightsError(
            f"{folder} has safetensors files ({shards[0]}{', ...' if len(shards) > 1 else ''}) but neither "
            f"{SINGLE_FILE} nor {INDEX_FILE}; download {INDEX_FILE} too, or rename a single file to {SINGLE_FILE}"
        )
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return UnsafeFileError(
            f"{folder} has its weights only as {pickles[0]}, a pickle, which can run code when opened; it is not "
            "opened. Use a safetensors release, or convert on a machine that you can afford to lose: "
            "transformers' from_pretrained, then save_pretrained with safe_serialization=True"
        )
    if any(folder.glob("*.gguf")):
        return UnsupportedModelError(f"{folder} holds GGUF weights; use the model's safetensors release")
    return WeightsError(
        f"{folder} holds no weights: neither {SINGLE_FILE} nor {INDEX_FILE} is there; download the folder again"
    )
