from __future__ import annotations

import pytest

from deepground.engine.bitmask import unpack
from deepground.engine.constraint import TokenAutomaton
from deepground.errors import EngineError


def allowed(automaton: TokenAutomaton) -> list[int]:
    return unpack(automaton.mask())


def test_choices_share_their_beginnings() -> None:
    automaton = TokenAutomaton.from_choices([[1, 2], [1, 3, 4], [5]], end_id=9)
    assert allowed(automaton) == [1, 5]
    assert automaton.advance(1)
    assert allowed(automaton) == [2, 3]
    assert automaton.advance(3)
    assert automaton.advance(4)
    assert allowed(automaton) == [9]
    assert automaton.advance(9)
    assert allowed(automaton) == []


def test_a_token_that_is_not_allowed_changes_nothing() -> None:
    automaton = TokenAutomaton.from_choices([[1, 2]], end_id=9)
    assert not automaton.advance(2)
    assert allowed(automaton) == [1]


def test_rollback_goes_back_any_number_of_tokens() -> None:
    automaton = TokenAutomaton([{1: 1}, {1: 2, 2: 0}, {3: 0}])
    seen = [allowed(automaton)]
    for token_id in (1, 2, 1, 1, 3):
        assert automaton.advance(token_id)
        seen.append(allowed(automaton))
    automaton.rollback(0)
    assert allowed(automaton) == seen[-1]
    automaton.rollback(2)
    assert allowed(automaton) == seen[3]
    automaton.rollback(3)
    assert allowed(automaton) == seen[0]


def test_impossible_tables_are_refused() -> None:
    with pytest.raises(EngineError, match="token 4 leads from state 1 to state 2"):
        TokenAutomaton([{3: 1}, {4: 2}])
    for choices in ([], [[1], []]):
        with pytest.raises(EngineError, match="at least one"):
            TokenAutomaton.from_choices(choices, end_id=9)
