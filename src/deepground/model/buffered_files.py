"""Reading a checkpoint once, front to back, without mapping it: what packed loading wants.

A mapped file's pages count as this process's memory for as long as they are mapped, so that a model would be
there twice. Here a tensor is read into a buffer that the next large one overwrites, while the kernel already
fetches what comes after it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from deepground.errors import WeightsError
from deepground.model.tensor_files import DTYPES, Checkpoint, TensorInfo

_SMALL_BYTES = 2**20
"""Tensors up to this size get memory of their own, as scales must stay while the next tensor is read."""
SPARE_BYTES = 2**26
"""A buffer above this is not kept for smaller tensors."""
_PIECE_BYTES = 2**23
"""Read at a time."""
_AHEAD_BYTES = 2**27
"""How far ahead of the reader the kernel is asked to fetch."""


class BufferedCheckpoint(Checkpoint):
    """A checkpoint whose tensors are read, not mapped. A large one stays valid until the next large one is read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._descriptors: dict[Path, int] = {}
        self._fetched: dict[int, int] = {}
        """How far into each file the kernel was asked to fetch."""
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def read(self, name: str) -> Tensor:
        """One tensor; see the class for how long it stays.

        Raises:
            WeightsError: as `Checkpoint.read`.
        """
        info = self.tensors[name]
        dtype = DTYPES.get(info.dtype)
        if dtype is None:
            return super().read(name)  # Refuses it in the words of the mapped reader.
        size = info.size
        if size <= _SMALL_BYTES:
            target = torch.empty(size, dtype=torch.uint8)
        else:
            if not size <= self._buffer.shape[0] <= max(size, SPARE_BYTES):
                self._buffer = _large(size)
            target = self._buffer[:size]
        self._fill(target, info, name)
        return target.view(dtype).view(info.shape)

    def keep(self, tensor: Tensor) -> Tensor:
        """A tensor that was read, made to last: without a copy where it fills the buffer, which is then given up."""
        if tensor.data_ptr() == self._buffer.data_ptr() and tensor.nbytes == self._buffer.nbytes:
            self._buffer = torch.empty(0, dtype=torch.uint8)
            return tensor
        return tensor.clone()

    def _fill(self, target: Tensor, info: TensorInfo, name: str) -> None:
        descriptor = self._open_file(info.path)
        view, done = memoryview(target.numpy().data), 0
        while done < len(view):
            position = info.offset + done
            self._fetch_ahead(descriptor, position)
            try:
                count = os.preadv(descriptor, [view[done : done + _PIECE_BYTES]], position)
            except OSError as error:
                raise WeightsError(f"{info.path}: the tensor {name} cannot be read ({error})") from error
            if count == 0:
                raise WeightsError(f"{info.path} ends within the tensor {name}; download it again")
            done += count

    def _fetch_ahead(self, descriptor: int, position: int) -> None:
        """Let the disk work while the last tensor is packed, so that the next one is in memory when it is wanted."""
        first, last = max(self._fetched.get(descriptor, 0), position), position + _AHEAD_BYTES
        if last - first >= _PIECE_BYTES and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, first, last - first, os.POSIX_FADV_WILLNEED)
            self._fetched[descriptor] = last

    def _open_file(self, path: Path) -> int:
        if path not in self._descriptors:
            self._descriptors[path] = os.open(path, os.O_RDONLY)
        return self._descriptors[path]


def _large(size: int) -> Tensor:
    """Fresh memory in huge pages where the system has them: in small ones, half of loading is page faults."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # A kernel without them; its small pages serve as well.
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
