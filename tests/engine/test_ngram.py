"""The index against a plain search, whatever the text is like, and however it grew."""

import random

import pytest

from deepground.engine.ngram import MAX_MATCH, MAX_PLACES, MIN_MATCH, Match, NgramIndex, continuation


def searched(text: list[int]) -> Match | None:
    """The same by looking at every place."""
    best = None
    places = [p for p in range(MIN_MATCH, len(text)) if text[p - MIN_MATCH : p] == text[-MIN_MATCH:]]
    for place in places[::-1][:MAX_PLACES]:
        length = next((n for n in range(MIN_MATCH, MAX_MATCH) if n == place or text[place - 1 - n] != text[-1 - n]), 16)
        if best is None or length > best.length:
            best = Match(place, length)
    return best


@pytest.mark.parametrize("vocab", [1, 2, 5, 50])
def test_finds_what_a_search_finds(vocab: int) -> None:
    dice = random.Random(vocab)
    text: list[int] = []
    index = NgramIndex()
    hits = 0
    for _ in range(300):
        text += [dice.randrange(vocab) for _ in range(dice.randint(1, 3))]
        found = index.find(text)
        assert found == searched(text)
        assert found == NgramIndex().find(text)
        hits += found is not None
    assert hits > 10


def test_large_token_ids_are_told_apart() -> None:
    assert NgramIndex().find([0, 200_000, 7, 1, 0, 7]) is None
    assert NgramIndex().find([5, 200_000, 9, 8, 5, 200_000]) == Match(2, 2)


def test_a_short_text_has_no_match() -> None:
    assert [NgramIndex().find([3] * n) for n in range(4)] == [None, None, None, Match(2, 2)]


def test_a_repetition_goes_on() -> None:
    text = [1, 2, 3, 1, 2, 3, 1, 2]
    match = NgramIndex().find(text)
    assert match == Match(5, 5)
    assert continuation(text, match.place, 8) == [3, 1, 2, 3, 1, 2, 3, 1]
    assert continuation(text, 0, 3) == [1, 2, 3]
    assert continuation([4, 4, 4], 2, 3) == [4, 4, 4]
