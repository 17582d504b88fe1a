"""Which cache pages belong to which request: bookkeeping only, the tensors live elsewhere.

A page is `page_size` consecutive slots of the `KVCache`; slot = page * page_size + offset. A request's
page table lists its pages in the order of its tokens. Every page is free or owned exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepground.errors import IntegrityError, OutOfMemoryError

DEFAULT_CACHE_LIMIT = 8 * 2**30
"""Bytes; nobody who did not ask for it should lose more memory than this to the cache."""


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

    @property
    def num_free(self) -> int:
        """Pages that nobody owns."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Pages that requests own."""
        return self.num_pages - len(self._free)

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
            return False
        if table is None:
            table = self._tables[owner] = []
        table.extend(self._free.pop() for _ in range(missing))
        return True

    def release(self, owner: str) -> int:
        """Take back all pages of `owner`; returns how many there were."""
        table = self._tables.pop(owner, [])
        self._free.extend(reversed(table))
        return len(table)

    def table(self, owner: str) -> Sequence[int]:
        """The pages of `owner`, in the order of its tokens; empty when it owns none."""
        return self._tables.get(owner, ())

    def slots(self, owner: str, start: int, stop: int) -> list[int]:
        """Cache slots of the tokens start .. stop of `owner`."""
        table, size = self._tables[owner], self.page_size
        return [table[position // size] * size + position % size for position in range(start, stop)]

    def check_integrity(self) -> None:
        """Every page is free or owned exactly once, and no table is empty.

        Raises:
            IntegrityError: the bookkeeping no longer adds up; names the page or the owner.
        """
        holders: dict[int, str] = {}
        for owner, table in [("the free list", self._free), *self._tables.items()]:
            for page in table:
                if not 0 <= page < self.num_pages:
                    raise IntegrityError(f"page {page} of {owner} is outside the pool of {self.num_pages}")
                if page in holders:
                    raise IntegrityError(f"page {page} belongs to {owner} and to {holders[page]}")
                holders[page] = owner
        if len(holders) != self.num_pages:
            lost = sorted(set(range(self.num_pages)) - set(holders))
            raise IntegrityError(f"pages {lost[:8]} are neither free nor owned")
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
