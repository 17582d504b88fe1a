"""A model without sense: it writes any token that it may, and what comes of it must still be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from chat_samples import ALL_MARKERS, tiny_tokenizer
from deepground.engine.bitmask import contains
from deepground.engine.reply_plan import ReplyPlan, ReplyPlanner, ReplyWish
from deepground.engine.reply_reader import ChatEvent, ChatReader
from deepground.engine.request import StepOutput
from deepground.messages import Message, SamplingParams, Tool
from deepground.model import ChatFormat, Tokenizer

WORDS = (
    "{",
    "}",
    "[",
    "]",
    '"',
    '": ',
    ", ",
    "null",
    "true",
    "1",
    "7",
    "-3.5",
    "<think>\n",
    "\n</think>",
    "你好",
    "\\",
)
END_SOON = ('"', '"}', "}", "]", "}]", "\n", "1")
"""What a walk that has gone on for long enough prefers, so that it comes to an end."""


@cache
def walker_tokenizer(special: bool = True) -> Tokenizer:
    """With the markers of all formats; if not `special`, those of thinking and calls are spelled in ordinary tokens."""
    spelled = ("tool", "think", "arg_", "DSML", "function")
    markers = [text for text in ALL_MARKERS if special or not any(word in text for word in spelled)]
    return Tokenizer(tiny_tokenizer(markers, special=True, corpus=WORDS))


@cache
def planner_of(chat_format: ChatFormat, special: bool = True) -> ReplyPlanner:
    """A planner for a format; it keeps what it has compiled."""
    tokenizer = walker_tokenizer(special)
    ends = [id_ for text in chat_format.stop_markers if (id_ := tokenizer.special_id(text)) is not None]
    return ReplyPlanner(tokenizer, chat_format, frozenset(ends))


@dataclass(frozen=True)
class Walked:
    """A reply that was walked to its end."""

    events: list[ChatEvent]
    token_ids: list[int]
    ended: bool
    """With an end token; else it was cut off."""
    plan: ReplyPlan


def walk(
    chat_format: ChatFormat,
    params: SamplingParams,
    *,
    seed: int,
    thinking: bool = True,
    tools: Sequence[Tool] = (),
    most: int = 400,
    patience: int = 40,
    special: bool = True,
    rollbacks: bool = False,
    **wish: object,
) -> Walked:
    """Write random tokens that the constraint of a reply allows.

    Args:
        chat_format: of the model.
        params: what the reply must look like.
        seed: of the walk.
        thinking: asked for.
        tools: offered.
        most: tokens at most.
        patience: tokens after which the walk prefers what ends things.
        special: see `walker_tokenizer`.
        rollbacks: now and then some tokens are taken back and written again, as drafts are.
        wish: further fields of `ReplyWish`.
    """
    planner, tokenizer, chance = planner_of(chat_format, special), walker_tokenizer(special), Random(seed)
    prompt = chat_format.render([Message.user("?")], tools=tools, thinking=thinking)
    wishes = ReplyWish(tools=tools, in_reasoning=prompt.in_reasoning, **wish)  # type: ignore[arg-type]
    plan = planner.plan_chat(params, wishes)
    ends = [id_ for text in chat_format.stop_markers if (id_ := tokenizer.special_id(text)) is not None]
    reader = ChatReader(chat_format.parser(in_reasoning=prompt.in_reasoning, tools=tools), tokenizer, frozenset(ends))
    soon = [ids[0] for text in END_SOON if len(ids := tokenizer.encode(text)) == 1]
    written: list[int] = []
    while len(written) < most:
        if rollbacks and written and chance.random() < 0.3:
            _take_back_and_again(plan, written, chance)
        mask_W = plan.constraint.mask()
        allowed = range(tokenizer.vocab_size)
        if mask_W is not None:
            allowed = [id_ for id_ in allowed if contains(mask_W, id_)]
        assert allowed, "a dead end"
        late = len(written) >= patience
        choices = [id_ for id_ in allowed if id_ in ends] if chance.random() < (0.7 if late else 0.05) else []
        if late and not choices:
            choices = [id_ for id_ in soon if id_ in allowed] if chance.random() < 0.8 else []
        token_id = chance.choice(choices or list(allowed))
        written.append(token_id)
        if token_id in ends:
            break
        assert plan.constraint.advance(token_id), tokenizer.token_bytes(token_id)
        if plan.constraint.verdict is not None:
            break
    return Walked(_read(reader, written, tokenizer, ends), written, written[-1] in ends, plan)


def _take_back_and_again(plan: ReplyPlan, written: Sequence[int], chance: Random) -> None:
    count = chance.randrange(1, min(8, len(written)) + 1)
    plan.constraint.rollback(count)
    for token_id in written[-count:]:
        assert plan.constraint.advance(token_id)


def _read(reader: ChatReader, written: Sequence[int], tokenizer: Tokenizer, ends: Sequence[int]) -> list[ChatEvent]:
    from deepground.engine.detokenizer import Detokenizer

    detokenizer = Detokenizer(tokenizer)
    events = []
    for number, token_id in enumerate(written):
        last = number + 1 == len(written)
        piece = "" if token_id in ends else detokenizer.feed(token_id)
        if last:
            piece += detokenizer.finish()
        events.append(
            reader.read(
                StepOutput(
                    request_id="r",
                    token_ids=(token_id,),
                    pieces=(piece,),
                    finish_reason=None if not last else "stop" if token_id in ends else "length",
                    prompt_tokens=1,
                    completion_tokens=number + 1,
                )
            )
        )
    return events
