"""Pages are free or owned exactly once."""

import random

import pytest

from deepground.engine.kv_pages import DEFAULT_CACHE_LIMIT, PagePool, choose_num_pages
from deepground.errors import IntegrityError, OutOfMemoryError


def test_grow_takes_only_what_is_missing() -> None:
    pool = PagePool(num_pages=4, page_size=16)
    assert pool.grow("a", 17)
    assert (pool.num_used, pool.num_free) == (2, 2)
    assert pool.grow("a", 32)
    assert pool.num_used == 2
    assert pool.grow("a", 33)
    assert pool.num_used == 3
    assert not pool.grow("b", 17)
    assert pool.owners == {"a"}
    assert pool.num_free == 1
    assert pool.release("a") == 3
    assert pool.release("a") == 0
    assert pool.num_free == pool.num_pages
    pool.check_integrity()


def test_slots_follow_the_page_table() -> None:
    pool = PagePool(num_pages=8, page_size=4)
    pool.grow("x", 4)
    pool.grow("y", 4)
    pool.grow("x", 10)
    pages = pool.table("x")
    assert len(pages) == 3
    assert pool.slots("x", 3, 6) == [pages[0] * 4 + 3, pages[1] * 4, pages[1] * 4 + 1]
    assert pool.table("nobody") == ()


def test_random_use_keeps_the_books() -> None:
    dice = random.Random(3)
    pool = PagePool(num_pages=20, page_size=3)
    lengths: dict[str, int] = {}
    for _ in range(2000):
        owner = str(dice.randrange(6))
        if dice.random() < 0.3:
            pool.release(owner)
            lengths.pop(owner, None)
        else:
            length = lengths.get(owner, 0) + dice.randint(1, 9)
            if pool.grow(owner, length):
                lengths[owner] = length
        pool.check_integrity()
        slots = [slot for name, length in lengths.items() for slot in pool.slots(name, 0, length)]
        assert len(set(slots)) == len(slots)
        assert all(0 <= slot < pool.capacity for slot in slots)


def test_integrity_check_notices_damage() -> None:
    def damaged() -> PagePool:
        pool = PagePool(num_pages=4, page_size=2)
        pool.grow("a", 2)
        pool.grow("b", 2)
        return pool

    pool = damaged()
    pool._tables["a"].append(pool._tables["b"][0])
    with pytest.raises(IntegrityError, match="belongs to"):
        pool.check_integrity()
    pool = damaged()
    pool._free.pop()
    with pytest.raises(IntegrityError, match="neither"):
        pool.check_integrity()
    pool = damaged()
    pool._free.append(99)
    with pytest.raises(IntegrityError, match="outside"):
        pool.check_integrity()
    pool = damaged()
    pool._tables["c"] = []
    with pytest.raises(IntegrityError, match="without a page"):
        pool.check_integrity()


def test_number_of_pages() -> None:
    plenty = 2**50

    def choose(available: int = plenty, useful: int = 100, **wish: int) -> int:
        return choose_num_pages(
            page_bytes=1000,
            available_bytes=available,
            useful_pages=useful,
            cache_bytes=wish.get("cache_bytes"),
            num_pages=wish.get("num_pages"),
        )

    assert choose() == 100
    assert choose(available=40_000) == 10
    assert choose(useful=10**12) == DEFAULT_CACHE_LIMIT // 1000
    assert choose(cache_bytes=5999) == 5
    assert choose(num_pages=7) == 7
    for wish in ({"cache_bytes": 999}, {"available": 3999}):
        with pytest.raises(OutOfMemoryError, match="page_size"):
            choose(**wish)
    with pytest.raises(OutOfMemoryError, match="num_pages"):
        choose(available=6999, num_pages=7)


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PagePool(num_pages=0, page_size=16)
