"""What a request may say: a constraint on its next token, kept in step with its tokens.

A constraint is a state and its transitions: grammars, schemas and choices all are. The sampler asks it at every
position, drafts included: it advances along the drafts, masks the position after each, and rolls back, so
speculation and constraints do not know of each other.

Legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from deepground.errors import EngineError


class Constraint(Protocol):
    """The state of one request's constraint. It belongs to that request alone and is used by the engine's thread."""

    def allowed(self, vocab_size: int) -> Tensor:
        """The tokens that may come next, bool (V,) on the CPU; none means that the text has reached a dead end."""
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

    def allowed(self, vocab_size: int) -> Tensor:
        """The tokens that have a transition, bool (V,)."""
        mask_V = torch.zeros(vocab_size, dtype=torch.bool)
        mask_V[list(self._transitions[self._path[-1]])] = True
        return mask_V

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
