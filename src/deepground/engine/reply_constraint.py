"""The rules of one reply, token by token: thinking, its end, then an answer that a grammar may bind.

    opening    the model may open its thinking, or answer
    thinking   any text; it ends where the model closes it, where the budget is spent, or where it goes in circles
    closing    the tokens that close the thinking are written for the model
    answer     what the grammar allows, or any text

No grammar ever reaches into the thinking; and where there is one, the reply does not end before its answer.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple

from deepground.engine.bitmask import Bitmask, contains, pack
from deepground.engine.grammar import Grammar, GrammarState
from deepground.engine.repetition import CHECK_EVERY, goes_in_circles
from deepground.engine.thinking import Alphabet, ThinkingMarkers, is_complete, rest_after
from deepground.messages import FinishReason, LoopDetection
from deepground.model import Tokenizer

Phase = Literal["opening", "thinking", "closing", "answer"]

REMEMBERED = 64
"""Tokens that can be undone; more than a step has drafts."""
ANSWER_PATIENCE = 3
"""An answer may repeat itself so many times longer than thinking: tables and lists do."""


@dataclass(frozen=True, kw_only=True)
class ReplyRules:
    """What holds for one reply."""

    phase: Phase
    """Where the prompt leaves the reply."""
    grammar: Grammar | None = None
    """Of the answer; None: it is free."""
    given_ids: tuple[int, ...] = ()
    """Tokens of the answer that the prompt holds already."""
    markers: ThinkingMarkers | None = None
    budget: int | None = None
    """Most tokens of thinking."""
    loop_detection: LoopDetection = "off"


class _State(NamedTuple):
    phase: Phase
    tail: bytes
    """The newest bytes of the thinking, as many as a marker or a character needs."""
    forced: int
    """Tokens of the closing that are written."""
    thought: int
    """Tokens of thinking."""
    answered: int
    """Tokens of the answer."""
    fed: int
    """Tokens that the grammar has taken in."""
    fed_early: int
    """Tokens that it has taken in before thinking that the model opened itself."""
    verdict: FinishReason | None


class ReplyConstraint:
    """A `Constraint` that leads one reply through its phases.

    Args:
        rules: of the reply.
        alphabet: tokens that are free where no grammar rules.
        tokenizer: of the model.
    """

    def __init__(self, rules: ReplyRules, alphabet: Alphabet, tokenizer: Tokenizer) -> None:
        self._rules = rules
        self._alphabet = alphabet
        self._tokenizer = tokenizer
        self._keep = max(4, len(rules.markers.close_text) if rules.markers else 0)
        self._state = _State(rules.phase, b"", 0, 0, 0, 0, 0, None)
        self._before: deque[_State] = deque(maxlen=REMEMBERED)
        self._written: list[int] = []
        """Tokens of the current phase, thinking or answer, for the loop detector."""
        self._answer = self._start_grammar()
        self._early = self._answer if rules.phase == "opening" else None
        """Follows an answer that comes without thinking; another state follows one after it."""
        if rules.phase == "opening":
            self._answer = self._start_grammar()

    @property
    def verdict(self) -> FinishReason | None:
        """See `Constraint`."""
        return self._state.verdict

    def mask(self) -> Bitmask | None:
        """See `Constraint`."""
        state, rules = self._state, self._rules
        match state.phase:
            case "thinking":
                if self._must_close():
                    assert rules.markers is not None
                    return pack([rules.markers.close_ids[0]], self._tokenizer.vocab_size)
                return self._thinking_mask(state.tail)
            case "closing":
                assert rules.markers is not None
                return pack([rules.markers.close_ids[state.forced]], self._tokenizer.vocab_size)
            case "opening":
                return self._opening_mask()
            case "answer":
                grammar = self._following()
                return self._alphabet.answer_W if grammar is None else grammar.mask()

    def advance(self, token_id: int) -> bool:
        """See `Constraint`."""
        state = self._state
        match state.phase:
            case "thinking":
                after = self._think(token_id)
            case "closing":
                after = self._close(token_id)
            case "opening":
                after = self._open(token_id)
            case "answer":
                after = self._take(state, token_id)
        if after is None:
            return False
        self._before.append(state)
        self._written.append(token_id)
        self._state = self._judged(after)
        return True

    def rollback(self, count: int) -> None:
        """See `Constraint`."""
        if not count:
            return
        now = self._state
        for _ in range(count):
            self._state = self._before.pop()
        del self._written[-count:]
        if self._answer is not None:
            self._answer.rollback(now.fed - self._state.fed)
        if self._early is not None:
            self._early.rollback(now.fed_early - self._state.fed_early)

    def _start_grammar(self) -> GrammarState | None:
        if self._rules.grammar is None:
            return None
        state = self._rules.grammar.start()
        for token_id in self._rules.given_ids:
            state.advance(token_id)
        return state

    def _following(self) -> GrammarState | None:
        """The grammar's state that an answer is held to now."""
        return self._answer if self._early is None or self._state.thought else self._early

    def _must_close(self) -> bool:
        state, rules = self._state, self._rules
        if rules.markers is None or not is_complete(state.tail):
            return False
        if rules.budget is not None and state.thought >= rules.budget:
            return True
        return (
            rules.loop_detection != "off"
            and state.thought > 0
            and state.thought % CHECK_EVERY == 0
            and goes_in_circles(self._written, state.thought)
        )

    def _think(self, token_id: int) -> _State | None:
        state, markers = self._state, self._rules.markers
        assert markers is not None
        if self._must_close():
            return self._close(token_id) if token_id == markers.close_ids[0] else None
        if not contains(self._thinking_mask(state.tail), token_id):
            return None
        if token_id == markers.close_id:
            return state._replace(phase="answer", tail=b"", thought=state.thought + 1)
        text = state.tail + self._tokenizer.token_bytes(token_id)
        rest = rest_after(text, markers.close_text) if markers.close_id is None else None
        if rest is None:
            return state._replace(tail=text[-self._keep :], thought=state.thought + 1)
        after = state._replace(phase="answer", tail=b"", thought=state.thought + 1)
        return self._feed_text(after, rest)

    def _thinking_mask(self, tail: bytes) -> Bitmask:
        mask_W = self._alphabet.thinking(tail)
        return mask_W if self._rules.grammar is not None else mask_W | self._alphabet.end_W

    def _feed_text(self, state: _State, text: bytes) -> _State | None:
        """Line breaks that came in one token with the end of the thinking."""
        for id_ in self._tokenizer.encode(text.decode()) if text and self._answer is not None else ():
            assert self._answer is not None
            if not self._answer.advance(id_):
                return state
            state = state._replace(fed=state.fed + 1)
        return state

    def _close(self, token_id: int) -> _State | None:
        state, markers = self._state, self._rules.markers
        assert markers is not None
        if token_id != markers.close_ids[state.forced]:
            return None
        done = state.forced + 1 == len(markers.close_ids)
        thought = state.thought + 1
        if done:
            return state._replace(phase="answer", tail=b"", forced=0, thought=thought)
        return state._replace(phase="closing", forced=state.forced + 1, thought=thought)

    def _opening_mask(self) -> Bitmask:
        grammar = self._early
        if grammar is None:
            return self._alphabet.opening_W
        return grammar.mask() | self._alphabet.thinking_opener_W

    def _open(self, token_id: int) -> _State | None:
        state, markers = self._state, self._rules.markers
        assert markers is not None
        if token_id == markers.open_id:
            return state._replace(phase="thinking", thought=state.thought + 1)
        if not self._tokenizer.token_bytes(token_id).strip() and contains(self._opening_mask(), token_id):
            # White space decides nothing; a grammar that does not know it is not asked.
            fed = self._early is not None and self._early.advance(token_id)
            return state._replace(fed_early=state.fed_early + int(fed))
        return self._take(state._replace(phase="answer"), token_id)

    def _take(self, state: _State, token_id: int) -> _State | None:
        grammar = self._following()
        if grammar is None:
            if not contains(self._alphabet.answer_W, token_id):
                return None
            return state._replace(answered=state.answered + 1)
        if not grammar.advance(token_id):
            return None
        if grammar is self._early:
            return state._replace(answered=state.answered + 1, fed_early=state.fed_early + 1)
        return state._replace(answered=state.answered + 1, fed=state.fed + 1)

    def _judged(self, state: _State) -> _State:
        """With a verdict, if the answer has begun to go in circles."""
        if (
            self._rules.loop_detection == "all"
            and state.phase == "answer"
            and state.answered
            and state.answered % CHECK_EVERY == 0
            and goes_in_circles(self._written, state.answered, patience=ANSWER_PATIENCE)
        ):
            return state._replace(verdict="repetition")
        return state
