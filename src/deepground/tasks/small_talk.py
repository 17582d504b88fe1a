"""Remarks that are no problems, with the pilot's replies; the texts are in small_talk.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random

from deepground.tasks.words import common_words

_CHINESE_SHARE = 0.18
_UNCHANGED = 0.6
"""Share of the English remarks that keep their case and punctuation."""


@dataclass(frozen=True, kw_only=True)
class Intent:
    """A kind of remark with the answers to it."""

    thought: str
    """What the model thinks before it answers; a few words."""
    weight: float
    """Share among the intents of its language."""
    answers: tuple[str, ...]
    questions: tuple[str, ...]
    """Templates, with the names of slots in braces."""


@dataclass(frozen=True, kw_only=True)
class Phrases:
    """The content of small_talk.toml."""

    system_prompts: tuple[str, ...]
    slots: dict[str, tuple[str, ...]]
    english: tuple[Intent, ...]
    chinese: tuple[Intent, ...]


@cache
def phrases() -> Phrases:
    """The texts, read once."""
    table = tomllib.loads(files("deepground.tasks").joinpath("small_talk.toml").read_text(encoding="utf-8"))

    def intents(language: str) -> tuple[Intent, ...]:
        return tuple(
            Intent(
                thought=entry["thought"],
                weight=entry["weight"],
                answers=tuple(entry["answers"]),
                questions=tuple(entry["questions"]),
            )
            for entry in table[language]
        )

    return Phrases(
        system_prompts=tuple(table["system_prompts"]),
        slots={name: tuple(values) for name, values in table["slots"].items()},
        english=intents("english"),
        chinese=intents("chinese"),
    )


def small_talk(rng: Random) -> tuple[str, str, str]:
    """A remark, the thought and the answer."""
    texts = phrases()
    intents = texts.chinese if rng.random() < _CHINESE_SHARE else texts.english
    intent = rng.choices(intents, [i.weight for i in intents])[0]
    return _filled(rng, rng.choice(intent.questions)), intent.thought, rng.choice(intent.answers)


def _filled(rng: Random, template: str) -> str:
    text = template
    while "{" in text:
        before, _, rest = text.partition("{")
        slot, _, after = rest.partition("}")
        text = before + _slot_value(rng, slot) + after
    if not text.isascii() or rng.random() < _UNCHANGED:
        return text
    change = rng.randrange(3)
    if change == 0:
        return text.lower()
    return text.rstrip(".?!") or text if change == 1 else text[0].lower() + text[1:]


def _slot_value(rng: Random, slot: str) -> str:
    if slot == "number":
        return str(rng.randrange(2, 1000))
    if slot in ("noun", "verb"):
        return rng.choice(common_words()[rng.randint(3, 8)])
    return rng.choice(phrases().slots[slot])
