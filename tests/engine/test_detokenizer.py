"""Text comes as early as it can, and stop strings never leak."""

import random
from collections.abc import Sequence

import pytest

from deepground.engine.detokenizer import Detokenizer
from engine_fakes import SPECIALS, byte_tokenizer

TOKENIZER = byte_tokenizer()


def pieces(text: str | bytes, stop: Sequence[str] = ()) -> list[str]:
    """What each byte of `text` lets go, and the rest."""
    detokenizer = Detokenizer(TOKENIZER, stop)
    data = text.encode() if isinstance(text, str) else text
    return [*(detokenizer.feed(byte) for byte in data), detokenizer.finish()]


def test_without_stop_strings_nothing_waits() -> None:
    assert pieces("abc") == ["a", "b", "c", ""]


def test_characters_come_out_whole() -> None:
    assert pieces("é€") == ["", "é", "", "", "€", ""]
    assert pieces("😀"[:1])[-2] == "😀"
    assert pieces("😀".encode()[:3])[-1] == "�"


def test_possible_beginnings_of_a_stop_string_wait() -> None:
    assert pieces("xabaabcy", ["abc"])[:8] == ["x", "", "", "ab", "a", "", "", ""]
    assert "".join(pieces("xabaabcy", ["abc"])) == "xaba"
    assert pieces("ab", ["abc"]) == ["", "", "ab"]


def test_first_complete_match_wins() -> None:
    assert "".join(pieces("xabc", ["abc", "b"])) == "xa"
    assert "".join(pieces("one two three", ["three", "two"])) == "one "
    assert "".join(pieces("aab", ["ab", "aab"])) == ""
    detokenizer = Detokenizer(TOKENIZER, ["END"])
    text = "".join(detokenizer.feed(byte) for byte in b"go ENDED")
    assert (text, detokenizer.stopped, detokenizer.finish()) == ("go ", True, "")


def test_stop_strings_of_wide_characters() -> None:
    assert "".join(pieces("好的。停止。再见", ["。停"])) == "好的"
    assert "".join(pieces("好的。", ["。停"])) == "好的。"


def test_markers_show_in_the_text() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    assert detokenizer.feed(256 + SPECIALS.index("</think>")) == "</think>"


def test_stop_string_may_span_a_marker() -> None:
    detokenizer = Detokenizer(TOKENIZER, ["</think>!"])
    text = detokenizer.feed(ord("a")) + detokenizer.feed(256 + SPECIALS.index("</think>"))
    assert text == "a"
    assert detokenizer.feed(ord("?")) == "</think>?"


@pytest.mark.parametrize("seed", range(20))
def test_equals_cutting_the_whole_text(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(50):
        text = "".join(dice.choice("abé") for _ in range(dice.randint(0, 30)))
        stop = ["".join(dice.choice("abé") for _ in range(dice.randint(1, 4))) for _ in range(dice.randint(1, 3))]
        cuts = [(at + len(word), at) for word in stop if (at := text.find(word)) >= 0]
        expected = text[: min(cuts)[1]] if cuts else text
        out = pieces(text, stop)
        assert "".join(out) == expected
        for step in range(len(out)):
            assert expected.startswith("".join(out[:step]))
