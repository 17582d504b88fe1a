"""Conversations for supervised training: problems, small talk, and several turns of both."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from deepground.messages import Message
from deepground.tasks.problem import Problem
from deepground.tasks.small_talk import phrases, small_talk

_SYSTEM_SHARE = 0.1


@dataclass(frozen=True)
class Conversation:
    """Messages that training shows; the loss falls on the assistant's."""

    messages: tuple[Message, ...]
    thinking: bool
    """Whether the assistant thinks first; if not, no message carries reasoning."""


def problem_turn(problem: Problem, *, thinking: bool) -> tuple[Message, Message]:
    """Question and answer, with the trace as the thinking."""
    reasoning = problem.trace if thinking else ""
    return Message.user(problem.question), Message.assistant(problem.answer, reasoning=reasoning)


def small_talk_turn(rng: Random, *, thinking: bool) -> tuple[Message, Message]:
    """A remark and the reply to it."""
    question, thought, answer = small_talk(rng)
    return Message.user(question), Message.assistant(answer, reasoning=thought if thinking else "")


def problem_conversation(problem: Problem, *, thinking: bool = True) -> Conversation:
    """One problem as a whole conversation; without the answer's message it is the prompt of an evaluation."""
    return Conversation(problem_turn(problem, thinking=thinking), thinking)


def with_system_prompt(rng: Random, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Puts one of the usual system prompts first, at times: clients send them, and they change nothing."""
    if rng.random() < _SYSTEM_SHARE:
        return (Message.system(rng.choice(phrases().system_prompts)), *messages)
    return messages
