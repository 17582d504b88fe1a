"""Answers that a grammar can hold to a part of their schema only: checked at their end, and written anew if need be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deepground.engine.grammar import GrammarCompiler
from deepground.engine.json_schema import Schema
from deepground.engine.reply_reader import ChatEvent
from deepground.errors import EngineError
from deepground.messages import SamplingParams, TextDelta, Usage

MOST_ATTEMPTS = 5
LEAST_TEMPERATURE = 0.7
"""Of further attempts: without chance they would all be the same."""


class Attempts:
    """Judges the attempts at one answer.

    Args:
        compiler: has the process that checks answers.
        schema: what the answer must fit.

    Raises:
        EngineError: from `judge`, after the last attempt.
    """

    def __init__(self, compiler: GrammarCompiler, schema: Schema) -> None:
        self._compiler = compiler
        self._schema = schema
        self._made = 0
        self._spent = 0
        self._thought = 0

    def judge(self, events: Sequence[ChatEvent]) -> ChatEvent | None:
        """The whole reply as one event, if it can be given out: right, cut off, or made of calls. None: write anew.

        Raises:
            EngineError: that was the last attempt.
        """
        self._made += 1
        whole = joined(events)
        usage = whole.usage or Usage(0, 0)
        self._spent += usage.completion_tokens
        self._thought += usage.reasoning_tokens
        text = "".join(delta.text for delta in whole.deltas if isinstance(delta, TextDelta))
        problem = self._compiler.check_instance(self._schema, text) if whole.finish_reason == "stop" else ""
        if not problem:
            spent = replace(usage, completion_tokens=self._spent, reasoning_tokens=self._thought)
            return replace(whole, usage=spent)
        if self._made == MOST_ATTEMPTS:
            raise EngineError(
                f"the answer did not fit the schema in {MOST_ATTEMPTS} attempts ({problem}); ask for it in the prompt, "
                "or leave out what a grammar cannot enforce"
            )
        return None

    def next_params(self, params: SamplingParams) -> SamplingParams:
        """Parameters of the next attempt: another draw."""
        warm = max(params.temperature, LEAST_TEMPERATURE)
        return replace(params.for_choice(1), temperature=warm)


def joined(events: Sequence[ChatEvent]) -> ChatEvent:
    """All events of a reply as one."""
    return ChatEvent(
        deltas=tuple(delta for event in events for delta in event.deltas),
        reasoning_logprobs=tuple(entry for event in events for entry in event.reasoning_logprobs),
        content_logprobs=tuple(entry for event in events for entry in event.content_logprobs),
        finish_reason=events[-1].finish_reason if events else None,
        stop_string=events[-1].stop_string if events else None,
        usage=events[-1].usage if events else None,
    )
