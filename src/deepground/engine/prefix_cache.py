"""The prefix cache: keys and values of finished prompts and answers, found again by the tokens they stand for.

Tokens are cached in units of 64, always from a sequence's first token on, as DeepSeek's service does
(https://api-docs.deepseek.com/guides/kv_cache). A unit's key is a hash over the keys before it and its own
tokens, so one key stands for one whole prefix, and sequences that begin alike share their units as in a
radix tree without any tree being kept. The chain begins with the tenant's salt: another salt gives other keys
throughout, and thus never a hit.

A unit in memory is a run of the pool's pages. Requests that begin with it share these pages without a copy;
they are written once, before they are listed, and never again. A unit that no request uses stays until the pool
needs its pages, the least recently used one first and never before those that build on it. Behind this may
stand a `UnitStore`, which keeps units longer than memory does.

The last token of a sequence is always computed, because its logits are wanted.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from deepground.engine.kv_pages import PagePool
from deepground.engine.request import Request
from deepground.errors import IntegrityError

UNIT_TOKENS = 64
"""Tokens per unit; DeepSeek's number. A page size that does not divide it makes units longer, see `PrefixCache`."""


@dataclass(frozen=True, slots=True)
class UnitRecord:
    """What a unit is, apart from its keys and values."""

    key: bytes
    """32 bytes, naming the whole prefix that ends with this unit."""
    parent: bytes
    """Key of the unit before; of a sequence's first unit, the tenant's root."""
    tokens: bytes
    """Its token ids, four bytes each, little-endian."""


class UnitStore(Protocol):
    """Keeps units outside of the pool; `deepground.engine.prefix_store.DiskStore` is the real one.

    Every call comes from the engine's thread and must return quickly, `load` apart.
    """

    units_per_load: int
    """Most units of one `load`, so that a long prefix does not hold up the other requests."""

    def load(self, records: Sequence[UnitRecord], pages: Sequence[Sequence[int]]) -> int:
        """Fill each unit's pages; returns how many units, from the first on, were there and whole."""
        ...

    def save(self, record: UnitRecord, pages: Sequence[int]) -> None:
        """Keep a unit, some time between now and `cancel`; until then its pages do not change."""
        ...

    def cancel(self, key: bytes) -> None:
        """The unit's pages are about to change; when this returns, they are read no more."""
        ...

    def touch(self, keys: Sequence[bytes]) -> None:
        """These units were used; the last of them counts as the most recent."""
        ...

    def discard(self, keys: Iterable[bytes]) -> None:
        """Delete units."""
        ...


@dataclass(eq=False, slots=True)
class _Unit:
    """A unit in memory."""

    key: bytes
    parent: bytes
    pages: tuple[int, ...]
    users: int = 0
    """Running requests whose prefix it belongs to; each of them uses the unit's ancestors as well."""
    is_listed: bool = True
    """Can be found. False: its pages go as soon as its last user leaves."""


@dataclass(eq=False, slots=True)
class _Path:
    """A request's way through the units."""

    units: list[_Unit] = field(default_factory=list)
    """Those that the request uses, from its first token on."""
    may_restore: bool = True
    """The store has not yet been asked for everything that it might have."""


class PrefixCache:
    """Which units are in memory, and who uses them. Holds no tensors.

    Args:
        pool: whose pages the units are made of. Units have 64 tokens; if the page size does not divide 64, they have
            the least common multiple of both.
    """

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self.store: UnitStore | None = None
        """Where units are looked up that memory lacks."""
        self.unit_tokens = math.lcm(UNIT_TOKENS, pool.page_size)
        self._pages_per_unit = self.unit_tokens // pool.page_size
        # Parents come before their children: a unit is listed only after its parent, and leaves before it.
        self._units: dict[bytes, _Unit] = {}
        # Children come before their parents: whoever uses a child uses its parent too, and lets go of it later.
        self._idle: OrderedDict[bytes, _Unit] = OrderedDict()
        self._paths: dict[str, _Path] = {}
        pool.reclaimer = self

    @property
    def num_units(self) -> int:
        """Units in memory."""
        return len(self._units)

    @property
    def num_reclaimable(self) -> int:
        """Pages of units that no request uses."""
        return len(self._idle) * self._pages_per_unit

    def reclaim(self, num_pages: int) -> None:
        """Drop units that no request uses, the least recently used first, until so many pages are free."""
        for _ in range(-(-num_pages // self._pages_per_unit)):
            key, unit = self._idle.popitem(last=False)
            del self._units[key]
            if self.store is not None:
                self.store.cancel(key)
            self.pool.drop(unit.pages)

    def admit(self, request: Request, *, spare_pages: int) -> bool:
        """Give a request pages for all of its tokens, shared ones for the prefix that is in memory.

        Args:
            request: owns no pages. Its `num_computed` becomes the length of that prefix.
            spare_pages: must still be free afterwards.

        Returns:
            False, with nothing changed, when there are too few pages.
        """
        units = self._match(request)
        needed = self.pool.pages_for(request.num_tokens) - len(units) * self._pages_per_unit
        idle = sum(unit.users == 0 for unit in units) * self._pages_per_unit
        if needed + spare_pages > self.pool.num_free - idle:
            return False
        path = self._paths[request.id] = _Path()
        self._use(path, units)
        self.pool.adopt(request.id, (page for unit in units for page in unit.pages))
        if not self.pool.grow(request.id, request.num_tokens):
            raise IntegrityError(f"{request.id} was promised {needed} pages, and the pool lacks them")
        self._count_hits(request, len(units))
        return True

    def restore(self, request: Request) -> bool:
        """Bring in what the store has of the request's next tokens, as much as one step may take.

        Returns:
            True when there may be more: ask again in the next step, and compute nothing of the request until then.
        """
        path = self._paths[request.id]
        if self.store is None or not path.may_restore:
            return False
        first = len(path.units)
        stop = min(self._num_usable(request), first + self.store.units_per_load)
        # Once the request computes for itself, its next tokens have no complete unit any more that could be there.
        if first >= stop or request.num_computed != first * self.unit_tokens:
            path.may_restore = False
            return False
        table, size = self.pool.table(request.id), self._pages_per_unit
        pages = [table[unit * size : (unit + 1) * size] for unit in range(first, stop)]
        loaded = self.store.load([self._record(request, unit) for unit in range(first, stop)], pages)
        for unit in range(first, first + loaded):
            self._list(request, path, unit)
        self._count_hits(request, loaded)
        path.may_restore = first + loaded == stop < self._num_usable(request)
        return path.may_restore

    def publish(self, request: Request) -> None:
        """List the units of a request that are complete, so that others can use them."""
        path = self._paths[request.id]
        complete = min(request.num_computed, request.num_tokens) // self.unit_tokens
        for unit in range(len(path.units), complete):
            if path.units and not path.units[-1].is_listed:
                return  # What this unit builds on was forgotten; by itself it could never be found.
            is_new = self._list(request, path, unit)
            if is_new and self.store is not None:
                self.store.save(self._record(request, unit), path.units[unit].pages)

    def release(self, request: Request) -> None:
        """Take the request's pages away; what is listed stays in memory until the pool needs it."""
        path = self._paths.pop(request.id, None)
        self.pool.release(request.id)
        if path is None:
            return
        for unit in reversed(path.units):
            unit.users -= 1
            if unit.users == 0:
                if unit.is_listed:
                    self._idle[unit.key] = unit
                else:
                    self.pool.drop(unit.pages)
        if self.store is not None:
            self.store.touch([unit.key for unit in reversed(path.units) if unit.is_listed])

    def forget(self, request: Request) -> None:
        """Unlist all units that the request uses and all that build on them, in the store as well.

        For a request whose numbers overflowed: any of its units may hold the damage, and whoever hit upon it
        would fail alike.
        """
        path = self._paths.get(request.id)
        doomed = {unit.key for unit in path.units} if path else set()
        for key, unit in list(self._units.items()):
            if key not in doomed and unit.parent not in doomed:
                continue
            doomed.add(key)
            del self._units[key]
            unit.is_listed = False
            if self.store is not None:
                self.store.cancel(key)
            if self._idle.pop(key, None) is not None:
                self.pool.drop(unit.pages)
        if self.store is not None and doomed:
            self.store.discard(doomed)

    def check_integrity(self) -> None:
        """Units, paths and the pool's kept pages agree.

        Raises:
            IntegrityError: they do not; names the request or the unit.
        """
        paths = self._paths.values()
        units = {id(unit): unit for unit in self._units.values()}
        units |= {id(unit): unit for path in paths for unit in path.units}
        kept = [page for unit in units.values() for page in unit.pages]
        if len(set(kept)) < len(kept) or len(kept) != self.pool.num_kept or not all(map(self.pool.is_kept, kept)):
            raise IntegrityError("the pages of the units are not the pages that the pool keeps")
        users = Counter(id(unit) for path in paths for unit in path.units)
        for unit in units.values():
            if unit.users != users[id(unit)] or (self._idle.get(unit.key) is unit) != (unit.users == 0):
                raise IntegrityError(f"unit {unit.key.hex()[:8]} has {users[id(unit)]} users and says {unit.users}")
            if unit.is_listed != (self._units.get(unit.key) is unit):
                raise IntegrityError(f"unit {unit.key.hex()[:8]} is listed wrongly")
        seen: set[bytes] = set()
        for key, unit in self._idle.items():
            if unit.parent in seen:
                raise IntegrityError(f"unit {key.hex()[:8]} would be dropped after the unit that it builds on")
            seen.add(key)
        for name, path in self._paths.items():
            shared = {page for page in self.pool.table(name) if self.pool.is_kept(page)}
            if not shared <= {page for unit in path.units for page in unit.pages}:
                raise IntegrityError(f"{name} lists kept pages of units that it does not use")

    def _num_usable(self, request: Request) -> int:
        """Units that the request could take from the cache: all but the one with its last token."""
        return (request.num_tokens - 1) // self.unit_tokens

    def _tokens(self, request: Request, unit: int) -> bytes:
        tokens = array("I", request.token_ids[unit * self.unit_tokens : (unit + 1) * self.unit_tokens])
        if sys.byteorder == "big":
            tokens.byteswap()
        return tokens.tobytes()

    def _key(self, request: Request, unit: int) -> bytes:
        """The key of one of the request's units; -1 is the tenant's root."""
        keys = request.prefix_keys
        if not keys:
            keys.append(_root(request.cache_salt))
        for number in range(len(keys) - 1, unit + 1):
            keys.append(sha256(keys[number] + self._tokens(request, number)).digest())
        return keys[unit + 1]

    def _record(self, request: Request, unit: int) -> UnitRecord:
        key, parent = self._key(request, unit), self._key(request, unit - 1)
        return UnitRecord(key, parent, self._tokens(request, unit))

    def _match(self, request: Request) -> list[_Unit]:
        """The request's units that are in memory, from its first token on."""
        units: list[_Unit] = []
        for number in range(self._num_usable(request)):
            unit = self._units.get(self._key(request, number))
            if unit is None:
                break
            units.append(unit)
        return units

    def _use(self, path: _Path, units: Iterable[_Unit]) -> None:
        for unit in units:
            if unit.users == 0:
                self._idle.pop(unit.key, None)
            unit.users += 1
            path.units.append(unit)

    def _list(self, request: Request, path: _Path, number: int) -> bool:
        """List a unit made of the request's own pages; False if another request was faster.

        In that case the request uses the other's unit in name, so that its descendants outlive nothing they build
        on, and keeps its own pages to itself.
        """
        key = self._key(request, number)
        unit = self._units.get(key)
        is_new = unit is None
        if unit is None:
            size = self._pages_per_unit
            pages = tuple(self.pool.table(request.id)[number * size : (number + 1) * size])
            self.pool.keep(pages)
            unit = self._units[key] = _Unit(key, self._key(request, number - 1), pages)
        self._use(path, [unit])
        return is_new

    def _count_hits(self, request: Request, num_units: int) -> None:
        request.num_computed += num_units * self.unit_tokens
        # What a preempted request finds again is mostly its own, and no prompt that somebody had computed before.
        if request.num_preemptions == 0:
            request.num_cached += num_units * self.unit_tokens


def _root(salt: str | None) -> bytes:
    """Where the chain of a tenant begins; no salt is not the same as an empty one."""
    tenant = b"" if salt is None else b"+" + salt.encode("utf-8", "surrogatepass")
    return sha256(b"deepground" + tenant).digest()
