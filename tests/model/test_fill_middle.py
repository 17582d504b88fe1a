"""Prompts for filling in the middle of a text."""

import pytest

from chat_samples import tiny_tokenizer
from deepground.model import Tokenizer
from deepground.model.fill_middle import FILL_MARKERS, FillMarkers, fill_markers, fill_prompt


@pytest.mark.parametrize("markers", FILL_MARKERS)
def test_markers_are_found_and_the_text_between_them_has_no_power(markers: FillMarkers) -> None:
    tokenizer = Tokenizer(tiny_tokenizer(markers, special=True))
    assert fill_markers(tokenizer) == markers
    ids = tokenizer.encode_prompt(fill_prompt(markers, f"def f({markers.before_suffix}", "return a"))
    places = [ids.index(tokenizer.special_id(text)) for text in markers]
    assert places == sorted(places)
    assert (places[0], places[2]) == (0, len(ids) - 1)
    assert ids.count(tokenizer.special_id(markers.before_suffix)) == 1


def test_a_model_without_them() -> None:
    assert fill_markers(Tokenizer(tiny_tokenizer())) is None
    assert fill_markers(Tokenizer(tiny_tokenizer(FILL_MARKERS[0][:2], special=True))) is None
