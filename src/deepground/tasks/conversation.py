"""Conversations for supervised training: problems, small talk, and several turns of both."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from deepground.messages import Message, Tool
from deepground.tasks.problem import Problem
from deepground.tasks.small_talk import phrases, small_talk

_SYSTEM_SHARE = 0.1


@dataclass(frozen=True)
class Conversation:
    """Messages that training shows; the loss falls on the assistant's."""

    messages: tuple[Message, ...]
    thinking: bool
    """Whether the assistant thinks first; if not, no message carries reasoning."""
    tools: tuple[Tool, ...] = ()
    """Functions that are offered."""


def problem_turn(problem: Problem, *, thinking: bool) -> tuple[Message, ...]:
    """Question and answer, with the trace as the thinking."""
    return (*problem.conversation, problem.expected(thinking=thinking))


def small_talk_turn(rng: Random, *, thinking: bool) -> tuple[Message, Message]:
    """A remark and the reply to it."""
    question, thought, answer = small_talk(rng)
    return Message.user(question), Message.assistant(answer, reasoning=thought if thinking else "")


def problem_conversation(problem: Problem, *, thinking: bool = True) -> Conversation:
    """One problem as a whole conversation; without the answer's message it is the prompt of an evaluation."""
    return Conversation(problem_turn(problem, thinking=thinking), thinking and not problem.tools, problem.tools)


def with_system_prompt(rng: Random, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Puts one of the usual system prompts first, at times, where there is none: clients send them for nothing."""
    if rng.random() < _SYSTEM_SHARE and messages[0].role != "system":
        return (Message.system(rng.choice(phrases().system_prompts)), *messages)
    return messages
