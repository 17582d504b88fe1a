"""The prefix cache's disk tier: units go to files in the background, and come back straight into the cache.

Legend: L cache layers, P pages, B bytes of one page in one layer, U pages per unit.

Saving never holds up a step: the engine queues a unit's pages, which do not change while the unit is listed, and a
thread copies them (for which, and for nothing longer, the engine may have to wait), works out the checksum and
writes. Loading happens in the engine's thread, because the request that it is for has nothing better to do: a
unit is read once and copied once, by numpy, which starts no threads.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deepground.engine.prefix_budget import DiskBudget
from deepground.engine.prefix_cache import UnitRecord
from deepground.engine.prefix_files import Bytes, UnitFolder
from deepground.errors import EngineError
from deepground.model import KVCache

logger = logging.getLogger(__name__)

_LOAD_BYTES = 64 * 2**20
"""Most bytes of one `load`: some 40 ms from memory, 150 ms from a fast disk."""
_PAUSE_S = 60.0
"""How long nothing is written after the disk has refused something."""
_MAX_CHORES = 1000
"""On a disk that is too slow for more, the order of use becomes less exact."""
_CLOSE_S = 10.0
"""How long `close` waits for what is not yet written."""


class CachePages:
    """A `KVCache` in CPU memory as plain bytes, page by page.

    Args:
        cache: contiguous tensors (layers, slots, width).
        page_size: slots per page.
        pages_per_unit: U.
    """

    def __init__(self, cache: KVCache, *, page_size: int, pages_per_unit: int) -> None:
        self._views_LPB: list[Bytes] = []
        for _, tensor in sorted(cache.tensors.items()):
            layers, slots, width = tensor.shape
            rows = tensor.view(torch.uint8).numpy()
            self._views_LPB.append(rows.reshape(layers, slots // page_size, page_size * width * tensor.itemsize))
        shapes = [(view.shape[0], pages_per_unit, view.shape[2]) for view in self._views_LPB]
        ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))
        self._shares = [(end - math.prod(shape), end, shape) for end, shape in zip(ends, shapes, strict=True)]
        self.unit_bytes = ends[-1]
        """Bytes of one unit in all layers."""

    def gather(self, pages: Sequence[int], payload: Bytes) -> None:
        """Copy a unit's pages into `payload` (unit_bytes,)."""
        pages_U = np.asarray(pages, dtype=np.intp)
        for view_LPB, part_LUB in zip(self._views_LPB, self._parts(payload), strict=True):
            # "clip" writes to `out` directly, where the default would go through a copy.
            np.take(view_LPB, pages_U, axis=1, out=part_LUB, mode="clip")

    def scatter(self, payload: Bytes, pages: Sequence[int]) -> None:
        """Copy `payload` (unit_bytes,) into a unit's pages."""
        pages_U: NDArray[np.intp] = np.asarray(pages, dtype=np.intp)
        for view_LPB, part_LUB in zip(self._views_LPB, self._parts(payload), strict=True):
            view_LPB[:, pages_U] = part_LUB

    def _parts(self, payload: Bytes) -> list[Bytes]:
        """The share (L, U, B) of each tensor."""
        return [payload[start:end].reshape(shape) for start, end, shape in self._shares]


class DiskStore:
    """Units on disk; a `UnitStore`.

    Args:
        folder: where the files are.
        pages: where the keys and values are.
        limit: most bytes of all files below the folder's root; None: see `DiskBudget`.
    """

    def __init__(self, folder: UnitFolder, pages: CachePages, *, limit: int | None) -> None:
        self.units_per_load = max(1, _LOAD_BYTES // pages.unit_bytes)
        self.root = folder.root
        """Folder of the files, for all models."""
        self._folder = folder
        self._pages = pages
        self._limit = limit
        self._wake = threading.Condition()
        # Below: guarded by `_wake`.
        self._queue: OrderedDict[bytes, tuple[UnitRecord, tuple[int, ...]]] = OrderedDict()
        self._chores: list[Callable[[DiskBudget], None]] = []
        self._is_closing = False
        self._is_idle = False
        # Held while pages are copied, so that `cancel` can wait for it.
        self._copying = threading.Lock()
        self.num_loaded = 0
        """Units that came from the disk."""
        self.num_saved = 0
        """Units that were written."""
        self.num_lost = 0
        """Units that were not: their pages were needed before the writer came to them, or the disk refused them."""
        self._paused_until = 0.0
        self._has_warned = False
        self._thread = threading.Thread(target=self._run, name="deepground-prefix-writer", daemon=True)
        self._thread.start()

    def load(self, records: Sequence[UnitRecord], pages: Sequence[Sequence[int]]) -> int:
        """Fill each unit's pages; returns how many units, from the first on, were there and whole."""
        count = 0
        for payload, target in zip(self._folder.read(records), pages, strict=False):
            self._pages.scatter(payload, target)
            count += 1
        self.num_loaded += count
        return count

    def save(self, record: UnitRecord, pages: Sequence[int]) -> None:
        """Queue a unit for the writer."""
        if time.monotonic() < self._paused_until:
            self.num_lost += 1
            return
        with self._wake:
            self._queue[record.key] = (record, tuple(pages))
            self._wake.notify_all()

    def cancel(self, key: bytes) -> None:
        """Forget a queued unit; when this returns, its pages are read no more."""
        with self._copying, self._wake:
            self.num_lost += self._queue.pop(key, None) is not None

    def touch(self, keys: Sequence[bytes]) -> None:
        """Note that units were used, the last of them most recently."""
        if keys and len(self._chores) < _MAX_CHORES:
            self._add_chore(lambda budget: budget.touch([self._folder.file_of(key) for key in keys]))

    def discard(self, keys: Iterable[bytes]) -> None:
        """Delete units, at once and once more after what is being written now."""
        doomed = list(keys)

        def delete(budget: DiskBudget) -> None:
            for key in doomed:
                self._folder.delete(key)
                budget.forget(self._folder.file_of(key))

        for key in doomed:
            self._folder.delete(key)
        self._add_chore(delete)

    def flush(self, timeout: float) -> bool:
        """Wait until everything is written; False if that takes longer than `timeout` seconds."""
        with self._wake:
            return self._wake.wait_for(lambda: self._is_idle and not self._queue and not self._chores, timeout)

    def close(self) -> None:
        """Write what is queued, for at most ten seconds, and end the thread."""
        if not self._thread.is_alive():
            return
        self.flush(_CLOSE_S)
        with self._wake:
            self._is_closing = True
            self._wake.notify_all()
        self._thread.join(_CLOSE_S)

    def _add_chore(self, chore: Callable[[DiskBudget], None]) -> None:
        with self._wake:
            self._chores.append(chore)
            self._wake.notify_all()

    # Below: the writer's thread only.

    def _run(self) -> None:
        # Looking at all files takes a moment; by the time there is something to write, the first answer is under way.
        budget: DiskBudget | None = None
        payload = np.empty(self._pages.unit_bytes, dtype=np.uint8)
        while True:
            with self._wake:
                self._is_idle = not self._queue and not self._chores
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._queue or self._chores or self._is_closing)
                self._is_idle = False
                chores = [] if self._queue else self._chores
                if chores:
                    self._chores = []
                elif self._is_closing:
                    return
            if budget is None:
                budget = DiskBudget(self._folder.root, self._limit)
            for chore in chores:
                chore(budget)
            record = self._copy_next(payload)
            if record is not None:
                self._write(record, payload, budget)

    def _copy_next(self, payload: Bytes) -> UnitRecord | None:
        with self._copying:
            with self._wake:
                if not self._queue:
                    return None
                _, (record, pages) = self._queue.popitem(last=False)
            self._pages.gather(pages, payload)
        return record

    def _write(self, record: UnitRecord, payload: Bytes, budget: DiskBudget) -> None:
        path = self._folder.file_of(record.key)
        if path.exists():  # The file itself is asked: a damaged one has been deleted without the budget's knowing.
            return
        try:
            if not budget.make_room(self._folder.file_bytes):
                raise OSError(f"a unit of {self._folder.file_bytes} bytes exceeds the budget of {budget.limit}")
            try:
                self._folder.write(record, payload)
            except FileNotFoundError:  # Somebody has cleared the folder away.
                self._folder.prepare()
                self._folder.write(record, payload)
        except (OSError, EngineError) as error:
            self._pause(error)
            return
        budget.add(path, self._folder.file_bytes)
        self.num_saved += 1

    def _pause(self, error: Exception) -> None:
        """Keep away from a disk that is full or read-only for a while; what it has already can still be read."""
        with self._wake:
            self.num_lost += 1 + len(self._queue)
            self._queue.clear()
            self._paused_until = time.monotonic() + _PAUSE_S
        if not self._has_warned:
            self._has_warned = True
            logger.warning("prefixes are cached in memory only for now: %s: %s", self._folder.path, error)


def open_disk_store(
    cache: KVCache, *, page_size: int, unit_tokens: int, root: Path, model: str, limit: int | None
) -> DiskStore | None:
    """The disk tier of a cache.

    Args:
        cache: keys and values of all layers.
        page_size: slots per page.
        unit_tokens: tokens per unit.
        root: folder of the files, for all models.
        model: whatever the keys and values depend on besides the tokens: weights, configuration, number format.
        limit: most bytes of all files; None: see `DiskBudget`.

    Returns:
        None, with a warning in the log, where the folder cannot be used or the cache is not in CPU memory.
    """
    if any(tensor.device.type != "cpu" for tensor in cache.tensors.values()):
        logger.warning("prefixes are cached in memory only: the disk tier needs the cache in CPU memory")
        return None
    pages = CachePages(cache, page_size=page_size, pages_per_unit=unit_tokens // page_size)
    try:
        folder = UnitFolder(
            root,
            identity=_identity(cache, page_size, unit_tokens, model),
            token_bytes=4 * unit_tokens,
            payload_bytes=pages.unit_bytes,
        )
    except (OSError, EngineError) as error:
        logger.warning("prefixes are cached in memory only, not in %s: %s", root, error)
        return None
    return DiskStore(folder, pages, limit=limit)


def _identity(cache: KVCache, page_size: int, unit_tokens: int, model: str) -> bytes:
    """Two caches of the same identity have payloads that mean the same."""
    layout = [(name, tensor.shape[0], tensor.shape[2], str(tensor.dtype)) for name, tensor in cache.tensors.items()]
    return sha256(repr((model, page_size, unit_tokens, sorted(layout), np.little_endian)).encode()).digest()
