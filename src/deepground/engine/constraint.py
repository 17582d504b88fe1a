"""What a request may say: a constraint on its next token, kept in step with its tokens.

A constraint is a state and its transitions: grammars, thinking budgets and choices all are. The sampler asks it at
every position, drafts included: it advances along the drafts, masks the position after each, and rolls back, so
speculation and constraints do not know of each other.

Legend: W words of 32 tokens each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from deepground.engine.bitmask import Bitmask, pack
from deepground.errors import EngineError
from deepground.messages import FinishReason


class Constraint(Protocol):
    """The state of one request's constraint. It belongs to that request alone and is used by the engine's thread."""

    @property
    def verdict(self) -> FinishReason | None:
        """Why the reply ends with the token that was taken in last, whatever the model would go on with."""
        ...

    def mask(self) -> Bitmask | None:
        """The tokens that may come next, int32 (W,), good until the next call; None: any token.

        No token at all means that the text has reached a dead end.

        Raises:
            RequestError: to find out is beyond the constraint's budget.
        """
        ...

    def advance(self, token_id: int) -> bool:
        """Take in a token, generated or drafted; False, with nothing changed, if it is not allowed."""
        ...

    def rollback(self, count: int) -> None:
        """Undo the last `count` advances that were accepted."""
        ...


class TokenAutomaton:
    """A constraint given as a table: for each state, the tokens that may come and the state that each leads to.

    Args:
        transitions: one mapping of token id to next state per state; state 0 is the first. A state without tokens is
            a dead end.

    Raises:
        EngineError: a transition leads to a state that does not exist; the error names it.
    """

    def __init__(self, transitions: Sequence[Mapping[int, int]]) -> None:
        for state, table in enumerate(transitions):
            for token_id, target in table.items():
                if not 0 <= target < len(transitions):
                    raise EngineError(
                        f"token {token_id} leads from state {state} to state {target}, which does not exist; "
                        f"the automaton has {len(transitions)} states"
                    )
        self._transitions = transitions
        self._path = [0]

    @classmethod
    def from_choices(cls, choices: Sequence[Sequence[int]], *, end_id: int) -> TokenAutomaton:
        """Exactly one of some token sequences, then the end token.

        Raises:
            EngineError: there is no choice, or one is empty.
        """
        if not choices or not all(choices):
            raise EngineError("a constraint to choices needs at least one, and none may be empty")
        transitions: list[dict[int, int]] = [{}]
        for choice in choices:
            state = 0
            for token_id in (*choice, end_id):
                if token_id not in transitions[state]:
                    transitions[state][token_id] = len(transitions)
                    transitions.append({})
                state = transitions[state][token_id]
        return cls(transitions)

    @property
    def verdict(self) -> None:
        """A table never ends a reply by itself."""
        return

    def mask(self) -> Bitmask:
        """The tokens that have a transition."""
        table = self._transitions[self._path[-1]]
        return pack(table, max(table, default=0) + 1)

    def advance(self, token_id: int) -> bool:
        """Follow a transition; False if there is none."""
        target = self._transitions[self._path[-1]].get(token_id)
        if target is not None:
            self._path.append(target)
        return target is not None

    def rollback(self, count: int) -> None:
        """Go back `count` transitions."""
        if count:
            del self._path[-count:]
