"""The growing text of a grammar: named rules and terminals, and chat markers as the tokens or texts that they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llguidance import regex_to_lark

from deepground.model import Tokenizer
from deepground.model.prompt import Segment, Special, Text


@dataclass(frozen=True)
class Rule:
    """A reference to a rule, or any other expression of the grammar."""

    expression: str


@dataclass(frozen=True)
class Token:
    """One special token."""

    token_id: int


Item = Text | Token | Rule


class RuleBook:
    """Collects the rules of one grammar.

    Args:
        tokenizer: says which markers are tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._rules: list[str] = []

    @property
    def text(self) -> str:
        """All rules, one a line."""
        return "\n".join(self._rules)

    def rule(self, body: str, *, lazy: bool = False) -> Rule:
        """Add a rule; lazy: it is a single lexeme that ends as soon as it can."""
        name = f"rule_{len(self._rules)}"
        self._rules.append(f"{name}{'[lazy]' if lazy else ''}: {body}")
        return Rule(name)

    def terminal(self, regex: str) -> Rule:
        """Add a terminal: text that matches a regular expression as a whole."""
        name = f"TEXT_{len(self._rules)}"
        self._rules.append(f"{name}: {slashed(regex)}")
        return Rule(name)

    def resolve(self, parts: Iterable[Segment | Rule]) -> list[Item]:
        """Markers as tokens where the checkpoint has them and as text where it has not; neighbouring texts in one."""
        items: list[Item] = []
        for part in parts:
            item = self._item(part)
            if isinstance(item, Text):
                if not item.text:
                    continue
                if items and isinstance(items[-1], Text):
                    items[-1] = Text(items[-1].text + item.text)
                    continue
            items.append(item)
        return items

    def expression(self, items: Sequence[Item]) -> str:
        """Items one after the other."""
        return " ".join(_expression(item) for item in items)

    def _item(self, part: Segment | Rule) -> Item:
        if not isinstance(part, Special):
            return part
        token_id = self._tokenizer.special_id(part.text)
        return Text(part.text) if token_id is None else Token(token_id)


def slashed(regex: str) -> str:
    r"""A regular expression as the grammar quotes it; \d and \w mean ASCII, as in JSON Schema."""
    return f"/{regex_to_lark(regex, 'dw')}/"


def _expression(item: Item) -> str:
    match item:
        case Text(text):
            return json.dumps(text, ensure_ascii=False)
        case Token(token_id):
            return f"<[{token_id}]>"
        case Rule(expression):
            return expression
