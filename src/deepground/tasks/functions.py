"""The functions that tasks about calls offer; their texts are in functions.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

from deepground.messages import Tool
from deepground.tasks import entities
from deepground.tasks.entities import Language, Written
from deepground.tasks.problem import Split
from deepground.tasks.words import random_word

_NUMBERS = frozenset({"count", "minutes", "amount", "number"})
"""Kinds whose value is an integer."""
_TITLES = (
    *("lunch", "team meeting", "yoga", "dentist", "review", "dinner", "training", "board meeting", "interview"),
    *("haircut", "party", "workshop", "call with sales", "swimming", "choir", "piano lesson", "budget meeting"),
)
_TITLES_ZH = ("開會", "午餐", "牙醫", "瑜珈", "面試", "訓練", "聚餐", "游泳", "理髮", "上課", "報告", "家長會")
_PHRASES = (
    *("I am late", "call me back", "the order is ready", "see you at the office", "thank you", "I need the report"),
    *("we start now", "please wait", "the train is late", "the door is open", "I am at home", "send me the price"),
)
_PHRASES_ZH = ("我會晚到", "請回電", "訂單好了", "謝謝你", "我在家", "請等我", "會議取消", "門開了", "報告寫好了")
_FOLDERS = ("src", "tests", "docs", "app", "data")
_ENDINGS = ("py", "txt", "md", "json", "csv")


@dataclass(frozen=True, kw_only=True)
class Function:
    """One entry of functions.toml; see its head."""

    names: tuple[str, ...]
    description: str
    arguments: Mapping[str, str]
    english: tuple[str, ...]
    chinese: tuple[str, ...]
    unseen_english: tuple[str, ...]
    unseen_chinese: tuple[str, ...]
    missing: Mapping[str, tuple[str, ...]]
    result: Mapping[str, str]
    reply_english: str
    reply_chinese: str

    def tool(self, name: str, *, described: bool) -> Tool:
        """The function as it is offered, under one of its names.

        Args:
            name: one of `names`.
            described: each argument carries a description.
        """
        properties = {}
        for argument, kind in self.arguments.items():
            properties[argument] = {"type": "integer" if kind in _NUMBERS else "string"}
            if described:
                properties[argument]["description"] = _DESCRIPTIONS[kind.partition(" ")[0]]
        parameters = {"type": "object", "properties": properties, "required": list(self.arguments)}
        return Tool(name, self.description, parameters)

    def requests(self, language: Language, split: Split) -> tuple[str, ...]:
        """Templates that name every argument; those of the test split are never trained on."""
        if split == "test":
            return self.unseen_chinese if language == "zh" else self.unseen_english
        return self.chinese if language == "zh" else self.english


_DESCRIPTIONS = {
    "city": "Name of the city",
    "person": "Full name",
    "item": "Name of the item",
    "date": "YYYY-MM-DD",
    "time": "HH:MM",
    "count": "How many",
    "minutes": "Minutes",
    "amount": "Amount of money",
    "number": "The number",
    "word": "One word",
    "title": "Title",
    "phrase": "What to say",
    "expression": "The expression",
    "path": "Path of the file",
    "one": "One of the usual ones",
}


@cache
def functions() -> tuple[Function, ...]:
    """All functions, in the order of the file."""
    table = tomllib.loads(files("deepground.tasks").joinpath("functions.toml").read_text(encoding="utf-8"))
    return tuple(_function(entry) for entry in table["function"])


def _function(entry: Mapping[str, Any]) -> Function:
    listed = ("names", "english", "chinese", "unseen_english", "unseen_chinese")
    missing = {argument: tuple(texts) for argument, texts in entry["missing"].items()}
    return Function(**{**entry, **{key: tuple(entry[key]) for key in listed}, "missing": missing})


def argument_value(rng: Random, kind: str, split: Split, language: Language) -> Written:
    """A value of an argument of this kind, and how a request writes it.

    Raises:
        KeyError: functions.toml names a kind that does not exist.
    """
    kind, _, choices = kind.partition(" ")
    match kind:
        case "city":
            text = entities.city(rng, split, language)
        case "person":
            text = entities.person(rng, split, language)
        case "item":
            text = entities.item(rng, split, language)
        case "date":
            return entities.date(rng, language)
        case "time":
            return entities.clock(rng, language)
        case "count":
            return entities.count(rng, language, 2, 12)
        case "minutes":
            return entities.count(rng, language, 1, 90)
        case "amount":
            return entities.money(rng, language, digits=(2, 4))
        case "number":
            number = rng.randrange(1000, 100_000)
            return Written(number, str(number))
        case "word":
            text = entities.invented(rng, split).lower()
        case "title":
            text = _said(rng, _TITLES_ZH if language == "zh" else _TITLES, split, language, (1, 3))
        case "phrase":
            text = _said(rng, _PHRASES_ZH if language == "zh" else _PHRASES, split, language, (2, 5))
        case "expression":
            text = f"{rng.randrange(2, 1000)} {rng.choice('+-*/')} {rng.randrange(2, 100)}"
        case "path":
            text = f"{rng.choice(_FOLDERS)}/{random_word(rng, rng.randint(3, 6))}.{rng.choice(_ENDINGS)}"
        case "one":
            text = rng.choice(choices.split("|"))
        case _:
            raise KeyError(kind)
    return Written(text, text)


def _said(rng: Random, listed: Sequence[str], split: Split, language: Language, words: tuple[int, int]) -> str:
    """One of a list, or as often words that mean nothing together, which only copying gets right."""
    if rng.random() < 0.5:
        return rng.choice(listed)
    count = rng.randint(*words)
    if language == "zh":
        return entities.invented_zh(rng, split, 2, 2 + count)
    return " ".join(random_word(rng, rng.randint(3, 7)) for _ in range(count))


def result_value(rng: Random, kind: str, split: Split, language: Language) -> str | int:
    """A value that a tool may give back."""
    name, _, rest = kind.partition(" ")
    if name == "int":
        low, high = map(int, rest.split())
        return rng.randint(low, high)
    if name == "name":
        if language == "zh":
            return entities.company(rng, split, "zh")
        return f"{entities.invented(rng, split)} {rng.choice(('House', 'Park', 'Plaza', 'Garden', 'Tower'))}"
    return argument_value(rng, kind, split, language).value
