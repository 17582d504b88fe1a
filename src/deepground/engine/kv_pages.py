"""Which cache pages belong to which request: bookkeeping only, the tensors live elsewhere.

A page is `page_size` consecutive slots of the `KVCache`; slot = page * page_size + offset. A request's
page table lists its pages in the order of its tokens. Every page is in exactly one state: free, private to
one request, or kept by the prefix cache, which may show it in the tables of many requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from deepground.errors import IntegrityError, OutOfMemoryError

DEFAULT_CACHE_LIMIT = 8 * 2**30
"""Bytes; nobody who did not ask for it should lose more memory than this to the cache."""


class Reclaimer(Protocol):
    """Keeps pages for later use, as long as nobody needs them now; the prefix cache is one."""

    @property
    def num_reclaimable(self) -> int:
        """Kept pages that are in no request's table."""
        ...

    def reclaim(self, num_pages: int) -> None:
        """Drop at least so many of them, which is never more than `num_reclaimable`."""
        ...


class PagePool:
    """Hands out pages and takes them back.

    Args:
        num_pages: pages in the pool.
        page_size: slots, thus tokens, per page.
    """

    def __init__(self, *, num_pages: int, page_size: int) -> None:
        if num_pages < 1 or page_size < 1:
            raise ValueError(f"num_pages is {num_pages} and page_size {page_size}; both must be at least 1")
        self.num_pages = num_pages
        self.page_size = page_size
        # A stack with page 0 on top: pages that were used last, and may be in the CPU's caches, go out first.
        self._free = list(range(num_pages - 1, -1, -1))
        self._tables: dict[str, list[int]] = {}
        self._kept: set[int] = set()
        self.reclaimer: Reclaimer | None = None
        """Whoever calls `keep`; it is asked for pages when the free ones run out."""

    @property
    def num_free(self) -> int:
        """Pages that a request can get: the free ones, and the kept ones that no request uses."""
        return len(self._free) + (self.reclaimer.num_reclaimable if self.reclaimer else 0)

    @property
    def num_used(self) -> int:
        """Pages in the tables of requests, shared ones counted once."""
        return self.num_pages - self.num_free

    @property
    def num_kept(self) -> int:
        """Pages that the prefix cache keeps, used or not."""
        return len(self._kept)

    def is_kept(self, page: int) -> bool:
        """Whether the prefix cache keeps it."""
        return page in self._kept

    @property
    def capacity(self) -> int:
        """Tokens that the whole pool can hold."""
        return self.num_pages * self.page_size

    @property
    def owners(self) -> frozenset[str]:
        """Ids of the requests that own pages."""
        return frozenset(self._tables)

    def pages_for(self, num_tokens: int) -> int:
        """Pages that hold `num_tokens` tokens."""
        return -(-num_tokens // self.page_size)

    def grow(self, owner: str, num_tokens: int) -> bool:
        """Make `owner`'s table cover `num_tokens` tokens.

        Returns:
            False, with nothing changed, when too few pages are free.
        """
        table = self._tables.get(owner)
        missing = self.pages_for(num_tokens) - (len(table) if table else 0)
        if missing <= 0:
            return True
        if missing > len(self._free):
            if self.reclaimer is None or missing > self.num_free:
                return False
            self.reclaimer.reclaim(missing - len(self._free))
        if table is None:
            table = self._tables[owner] = []
        table.extend(self._free.pop() for _ in range(missing))
        return True

    def adopt(self, owner: str, pages: Iterable[int]) -> None:
        """Begin the table of an owner, who has none, with pages that are kept."""
        assert owner not in self._tables
        self._tables[owner] = list(pages)

    def keep(self, pages: Iterable[int]) -> None:
        """Make private pages kept ones; they stay where they are in their owner's table."""
        self._kept.update(pages)

    def drop(self, pages: Sequence[int]) -> None:
        """Free kept pages that are in nobody's table any more."""
        self._kept.difference_update(pages)
        self._free.extend(reversed(pages))

    def release(self, owner: str) -> int:
        """End the table of `owner` and free its private pages; returns how many pages it listed."""
        table = self._tables.pop(owner, [])
        self._free.extend(page for page in reversed(table) if page not in self._kept)
        return len(table)

    def table(self, owner: str) -> Sequence[int]:
        """The pages of `owner`, in the order of its tokens; empty when it owns none."""
        return self._tables.get(owner, ())

    def slots(self, owner: str, start: int, stop: int) -> list[int]:
        """Cache slots of the tokens start .. stop of `owner`."""
        table, size = self._tables[owner], self.page_size
        return [table[position // size] * size + position % size for position in range(start, stop)]

    def check_integrity(self) -> None:
        """Every page is free, private or kept, and only one of these; no table is empty or lists a page twice.

        Raises:
            IntegrityError: the bookkeeping no longer adds up; names the page or the owner.
        """
        holders: dict[int, str] = {}
        private = [(owner, [page for page in table if page not in self._kept]) for owner, table in self._tables.items()]
        for owner, pages in [("the free list", self._free), ("the kept pages", sorted(self._kept)), *private]:
            for page in pages:
                if not 0 <= page < self.num_pages:
                    raise IntegrityError(f"page {page} of {owner} is outside the pool of {self.num_pages}")
                if page in holders:
                    raise IntegrityError(f"page {page} belongs to {owner} and to {holders[page]}")
                holders[page] = owner
        if len(holders) != self.num_pages:
            lost = sorted(set(range(self.num_pages)) - set(holders))
            raise IntegrityError(f"pages {lost[:8]} are neither free nor owned")
        if twice := [owner for owner, table in self._tables.items() if len(set(table)) < len(table)]:
            raise IntegrityError(f"the tables of {twice} list a page twice")
        if empty := [owner for owner, table in self._tables.items() if not table]:
            raise IntegrityError(f"{empty} are listed as owners without a page")


def choose_num_pages(
    *, page_bytes: int, available_bytes: int, useful_pages: int, cache_bytes: int | None, num_pages: int | None
) -> int:
    """How many pages the cache gets.

    Args:
        page_bytes: memory of one page, all layers together.
        available_bytes: memory that is free now.
        useful_pages: what all requests could fill at the most.
        cache_bytes: the user's wish in bytes; None: none.
        num_pages: the user's wish in pages; None: none. Without a wish, it is the smallest of a quarter of the free
            memory, `DEFAULT_CACHE_LIMIT` and `useful_pages`.

    Raises:
        OutOfMemoryError: not one page fits, or the wish exceeds the free memory.
    """
    if num_pages is None:
        if cache_bytes is not None:
            num_pages = cache_bytes // page_bytes
        else:
            num_pages = min(min(available_bytes // 4, DEFAULT_CACHE_LIMIT) // page_bytes, useful_pages)
    if num_pages < 1:
        raise OutOfMemoryError(
            f"one page of the cache needs {page_bytes / 2**20:.1f} MiB, but there is no room for it; "
            "raise cache_bytes, lower page_size, or free memory"
        )
    if num_pages * page_bytes > available_bytes:
        raise OutOfMemoryError(
            f"a cache of {num_pages * page_bytes / 2**20:.0f} MiB was asked for, but {available_bytes / 2**20:.0f} MiB "
            "are free; lower cache_bytes or num_pages, or free memory"
        )
    return num_pages
