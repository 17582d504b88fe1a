"""Does a model still do as it is told about the form of its answer? Instructions that a machine can check.

Fine-tuning on one domain is known to cost exactly this (47,000 samples of mathematics took IFEval from 69 to 42 in
one study), so this suite is there to be run before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from deepground.messages import Message
from deepground.train.answering import Question

_TOPICS = ("the sea", "a bicycle", "coffee", "the moon", "a library", "rice", "rain", "a hammer", "music", "a train")
_WORDS = ("amber", "cobalt", "harbour", "lantern", "meadow", "orchid", "pebble", "river", "summit", "willow")
Made = tuple[str, dict[str, Any]]


def _regex(pattern: str) -> dict[str, Any]:
    return {"type": "regex", "pattern": pattern, "whole_reply": True}


def _one_word(rng: Random) -> Made:
    return f"Name one thing that goes with {rng.choice(_TOPICS)}. Answer with a single word.", _regex(r"^\w+[.!]?$")


def _numbered(rng: Random) -> Made:
    count = rng.randint(2, 5)
    lines = "".join(rf"{i}[.)] [^\n]+(?:\n+|$)" for i in range(1, count + 1))
    asked = f"Give exactly {count} facts about {rng.choice(_TOPICS)} as a numbered list, nothing else."
    return asked, _regex(rf"^{lines}$")


def _capitals(rng: Random) -> Made:
    return f"Say one sentence about {rng.choice(_TOPICS)} in capital letters only.", _regex(r"^(?=.*[A-Z])[^a-z]+$")


def _begins(rng: Random) -> Made:
    word = rng.choice(_WORDS)
    asked = f"Say something about {rng.choice(_TOPICS)}. Your reply must begin with the word {word}."
    return asked, _regex(rf"(?i)^{word}\b")


def _ends(rng: Random) -> Made:
    word = rng.choice(_WORDS)
    asked = f"Say something about {rng.choice(_TOPICS)}. The last word of your reply must be {word}."
    return asked, _regex(rf"(?i)\b{word}[.!]?$")


def _json(rng: Random) -> Made:
    first, second = rng.sample(_WORDS, 2)
    schema = {
        "type": "object",
        "required": [first, second],
        "additionalProperties": False,
        "properties": {first: {"type": "string"}, second: {"type": "integer"}},
    }
    asked = f'Reply with a JSON object with a text under "{first}" and a whole number under "{second}", nothing else.'
    return asked, {"type": "json_schema", "schema": schema}


def _no_comma(rng: Random) -> Made:
    asked = f"Say two sentences about {rng.choice(_TOPICS)} without using any comma."
    return asked, _regex(r"^(?!.*,)[^.]+\.[^.]+\.?$")


def _choice(rng: Random) -> Made:
    return f"Do people like {rng.choice(_TOPICS)}? Answer only with yes or no.", _regex(r"(?i)^(yes|no)[.!]?$")


def _wrapped(rng: Random) -> Made:
    asked = f"Say one thing about {rng.choice(_TOPICS)} and put double quotation marks around your whole reply."
    return asked, _regex(r'(?s)^".+"$')


def _keyword(rng: Random) -> Made:
    word, count = rng.choice(_WORDS), rng.randint(2, 3)
    asked = f"Write a short text in which the word {word} occurs exactly {count} times."
    return asked, _regex(rf"(?is)^(?!(?:.*?\b{word}\b){{{count + 1}}})(?:.*?\b{word}\b){{{count}}}")


_KINDS: tuple[Callable[[Random], Made], ...] = (
    _one_word,
    _numbered,
    _capitals,
    _begins,
    _ends,
    _json,
    _no_comma,
    _choice,
    _wrapped,
    _keyword,
)


def format_questions(count: int, seed: int) -> list[Question]:
    """Different instructions, of ten kinds in turn; fewer than `count` once the wordings run out."""
    questions: dict[str, Question] = {}
    rng = Random(f"format {seed}")
    for number in range(count * 4):
        if len(questions) == count:
            break
        text, grader = _KINDS[number % len(_KINDS)](rng)
        id_ = f"format-{seed}-{number}"
        question = Question(id=id_, messages=(Message.user(text),), grader=grader, suite="format")
        questions.setdefault(text, question)
    return list(questions.values())
