"""What is wrong with one answer, whoever gave it: checks that need nothing but the answer and its question."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from deepground.errors import TrainingError
from deepground.tasks.graders import final_answer
from deepground.train.answering import Answer, Question
from deepground.train.language import script_share

_MARKERS = ("<think>", "</think>", "<｜", "<|im_", "<|eot", "[INST]")
_KEY_WORDS = r"(?:answer|solution|result|key|expected|correct|答案|解答)"
_REPEATED = 12.0
"""Times that a text can be compressed before it counts as repeating itself; prose reaches 4, worked steps 8."""
_SHORT = 2_000
"""Characters below which repetition is not looked for."""


@dataclass(frozen=True, kw_only=True)
class QualityRules:
    """What is asked of an answer besides being right."""

    max_tokens: int = 16_384
    """Longer answers are dropped, never cut: one without its end teaches not to stop."""
    need_thinking: bool = True
    language: float = 0.8
    """Least share of the thinking's letters that are of the question's script; 0: not looked at."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise TrainingError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if not 0 <= self.language <= 1:
            raise TrainingError(f"language is {self.language}; it must be from 0 to 1")


def fault(answer: Answer, rules: QualityRules, count_tokens: Callable[[str], int] | None) -> tuple[str, str] | None:
    """The first thing that is wrong with an answer: its name and a detail; None if nothing is.

    Args:
        answer: graded.
        rules: what is asked.
        count_tokens: the student's tokenizer; None: the teacher's own count.
    """
    reply = answer.reply
    if reply.error:
        return "no reply", reply.error
    if not reply.text.strip() and not reply.tool_calls:
        return "empty", "thinking without an answer" if reply.reasoning.strip() else "nothing at all"
    if reply.finish_reason == "length":
        return "cut off", f"after {reply.completion_tokens} tokens"
    tokens = answer_tokens(answer, count_tokens)
    if tokens > rules.max_tokens:
        return "too long", f"{tokens} tokens"
    if rules.need_thinking and not reply.reasoning.strip():
        return "no thinking", ""
    whole = f"{reply.reasoning}\n{reply.text}"
    marker = next((m for m in _MARKERS if m in whole), None)
    if marker is not None:
        return "rubbish", f"holds the marker {marker}"
    if whole.count("\ufffd") > 2 or sum(not (c.isprintable() or c.isspace()) for c in whole) > 2:
        return "rubbish", "holds characters that are no text"
    ratio = compression(whole)
    if len(whole) > _SHORT and ratio > _REPEATED:
        return "rubbish", f"repeats itself: compresses {ratio:.0f} times"
    if answer.grade.verdict in ("timeout", "error"):
        return "undecided", answer.grade.detail
    if not answer.is_right:
        return "wrong", answer.grade.detail
    share = script_share(reply.reasoning or reply.text, answer.question.text)
    if share < rules.language:
        return "language", f"{share:.0%} of the letters are of the question's script"
    return None


def answer_tokens(answer: Answer, count_tokens: Callable[[str], int] | None) -> int:
    """Length of an answer, thinking included."""
    if count_tokens is not None:
        return count_tokens(answer.reply.reasoning) + count_tokens(answer.reply.text)
    return answer.reply.completion_tokens or (len(answer.reply.reasoning) + len(answer.reply.text)) // 3


def gives_away_answer(question: Question) -> bool:
    """The question holds its answer with a word that says so ("Answer: 42"): copying it would look like solving it."""
    answer = question.answer.strip()
    if not answer or len(answer) > 200:
        return False
    after = rf"{_KEY_WORDS}\W{{0,4}}(?:is|=|:|：|是|為)?\W{{0,6}}{re.escape(answer)}(?!\w)"
    boxed = final_answer(question.text) == answer and "\\boxed" in question.text
    return boxed or re.search(after, question.text, re.IGNORECASE) is not None


def compression(text: str) -> float:
    """How many times smaller zlib makes a text."""
    data = text.encode("utf-8", "surrogatepass")
    return len(data) / max(1, len(zlib.compress(data, 6)))
