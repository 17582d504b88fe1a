"""Writing safetensors files piece by piece, so that no shard is ever held in memory.

The names, formats and shapes of all tensors are known before the first byte is written. That fixes every
file's header and every tensor's place; the bytes may then come in any order and in pieces.
Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from deepground.errors import ModelFolderError
from deepground.model.staging import sync, write_json
from deepground.model.tensor_files import DTYPES, INDEX_FILE, SINGLE_FILE

MAX_SHARD_BYTES = 4 * 2**30
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8
_SPARE_BYTES = 64 * 2**20
"""Left free on the disk beside the weights: headers, tokenizer, and room for whatever else writes there."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor of a file that is to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class _Place:
    file: int
    offset: int
    size: int


class ShardWriter:
    """The weight files of a model folder; use as a context manager, which syncs and closes them.

    Args:
        folder: where the files go.
        tensors: everything that will be written, in the order in which it shall be spread over shards.
        max_shard_bytes: most bytes in one file; a larger single tensor gets a file of its own.

    Raises:
        ModelFolderError: the disk has too little room for them.
    """

    def __init__(self, folder: Path, tensors: Sequence[StoredTensor], max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        self.total_bytes = sum(tensor.nbytes for tensor in tensors)
        free = shutil.disk_usage(folder).free
        if self.total_bytes + _SPARE_BYTES > free:
            raise ModelFolderError(
                f"the weights take {self.total_bytes / 2**30:.2f} GiB and {folder.parent} has {free / 2**30:.2f} GiB "
                "free; make room, or write to another disk"
            )
        self._folder = folder
        self._shards = _split(tensors, max_shard_bytes)
        count = len(self._shards)
        self._paths = [
            folder / (SINGLE_FILE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors")
            for number in range(1, count + 1)
        ]
        self._places: dict[str, _Place] = {}
        self._descriptors: list[int] = []

    def __enter__(self) -> ShardWriter:
        for file, (path, shard) in enumerate(zip(self._paths, self._shards, strict=True)):
            header, offsets, size = _layout(shard)
            for tensor in shard:
                place = _Place(file=file, offset=offsets[tensor.name], size=tensor.nbytes)
                self._places[tensor.name] = place
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            self._descriptors.append(descriptor)
            _write_all(descriptor, memoryview(header), 0)
            os.truncate(descriptor, size)
        return self

    def write(self, name: str, values: Tensor, *, skip: int = 0) -> None:
        """Put a tensor, or a run of its leading rows, into its file.

        Args:
            name: which tensor.
            values: contiguous or not, of the announced dtype.
            skip: bytes of the tensor that come before these values.

        Raises:
            ModelFolderError: the disk is full or fails.
        """
        place = self._places[name]
        # The detour over bytes gives numpy the formats that it has no name for.
        data = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        if skip + len(data) > place.size:
            raise ValueError(f"{name} has {place.size} bytes, and {skip + len(data)} were to be written")
        try:
            _write_all(self._descriptors[place.file], data, place.offset + skip)
        except OSError as error:
            raise ModelFolderError(
                f"{self._paths[place.file]} cannot be written ({error.strerror}); check the disk's space"
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        if kind is not None:
            return
        for path in self._paths:
            sync(path)
        if len(self._paths) > 1:
            weight_map = {name: self._paths[place.file].name for name, place in self._places.items()}
            index = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
            write_json(self._folder / INDEX_FILE, index)


def _split(tensors: Sequence[StoredTensor], max_shard_bytes: int) -> list[list[StoredTensor]]:
    shards: list[list[StoredTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _layout(shard: Sequence[StoredTensor]) -> tuple[bytes, dict[str, int], int]:
    """A file's first bytes, where each tensor begins, and the file's size.

    Wide formats come first, so that every tensor is aligned; readers allow no gaps between tensors.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    relative: dict[str, int] = {}
    position = 0
    for tensor in sorted(shard, key=lambda tensor: -tensor.dtype.itemsize):
        relative[tensor.name] = position
        end = position + tensor.nbytes
        entries[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = struct.pack("<Q", len(text)) + text
    return header, {name: len(header) + offset for name, offset in relative.items()}, len(header) + position


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
