"""Prompts for filling in the middle of a text, by the markers that a checkpoint's tokenizer has.

A model is shown what comes before and what comes after, in that order, and writes what stands between; all families
below were trained on the order prefix, suffix, middle.
"""

from __future__ import annotations

from typing import NamedTuple

from deepground.model.prompt import Prompt, Special, Text
from deepground.model.tokenizer import Tokenizer


class FillMarkers(NamedTuple):
    """The three markers of one family."""

    before_prefix: str
    before_suffix: str
    before_middle: str


FILL_MARKERS = (
    FillMarkers("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek: V3 report, section 4.1
    FillMarkers("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5 and later
    FillMarkers("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM-4
)


def fill_markers(tokenizer: Tokenizer) -> FillMarkers | None:
    """The markers that the tokenizer has as tokens of their own; None: the model was not trained for it."""
    for markers in FILL_MARKERS:
        if all(tokenizer.special_id(text) is not None for text in markers):
            return markers
    return None


def fill_prompt(markers: FillMarkers, prefix: str, suffix: str) -> Prompt:
    """The prompt after which the model writes what stands between `prefix` and `suffix`."""
    return Prompt(
        (
            Special(markers.before_prefix),
            Text(prefix),
            Special(markers.before_suffix),
            Text(suffix),
            Special(markers.before_middle),
        )
    )
