"""The grammar of a reply after its thinking: an answer of a given form, text, calls of tools, or a choice of these.

Written in llguidance's Lark dialect. Every text is quoted as JSON and every schema is JSON, so nothing that a user
sends can be read as a rule.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from deepground.engine.argument_rules import arguments_rule, parameters_rule
from deepground.engine.json_schema import Enforcement, json_rule
from deepground.engine.rule_book import Item, Rule, RuleBook, Token
from deepground.messages import Choices, JsonObject, JsonSchema, OutputFormat, Pattern, Tool
from deepground.model import CallLayout, Digits, JsonArguments, ParameterList, Tokenizer
from deepground.model.prompt import Segment, Text

ANY_TEXT = r"(?s:.*)"


@dataclass(frozen=True, kw_only=True)
class CallRules:
    """Which calls a reply may or must hold."""

    layout: CallLayout
    tools: Sequence[tuple[Tool, Enforcement]]
    """Those that may be called, and how far their schemas are held."""
    required: bool
    """There is at least one call, and no text."""
    parallel: bool
    """There may be several, if the format can write them."""


def reply_grammar(
    tokenizer: Tokenizer,
    *,
    lead: str = "",
    output: OutputFormat | None = None,
    enforcement: Enforcement = "exact",
    calls: CallRules | None = None,
) -> str | None:
    """The grammar's text; None if the reply is free.

    Args:
        tokenizer: says which markers are tokens.
        lead: a regular expression for white space that may come first and is no part of the answer.
        output: what an answer must look like.
        enforcement: how far a schema in it is held.
        calls: what calls there may be; None: none.
    """
    book = RuleBook(tokenizer)
    if calls is None:
        if output is None:
            return None
        leads = [book.terminal(lead).expression] if lead else []
        return _grammar(book, [*leads, book.rule(_output(output, book, enforcement)).expression])
    if output is None and not calls.required:
        return _grammar(book, [_text_or_calls(calls, lead, book)])
    block = _block_alone(calls, lead, book)
    if output is None:
        return _grammar(book, [block])
    answer = (
        f"{book.terminal(lead).expression if lead else ''} {book.rule(_output(output, book, enforcement)).expression}"
    )
    return _grammar(book, [f"{block} | {answer}"])


def _grammar(book: RuleBook, expressions: Sequence[str]) -> str:
    return f"start: {' '.join(expressions)}\n{book.text}\n"


def _output(output: OutputFormat, book: RuleBook, enforcement: Enforcement) -> str:
    match output:
        case JsonObject():
            return json_rule({"type": "object"})
        case JsonSchema(schema, _):
            return json_rule(schema, enforcement)
        case Pattern(regex):
            return book.terminal(regex).expression
        case Choices(texts):
            return " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)


def _block_alone(calls: CallRules, lead: str, book: RuleBook) -> str:
    """Calls and nothing else, but for white space that is no part of the reply."""
    blank = f"(?:{lead})(?:{calls.layout.lead})"
    before = book.terminal(blank).expression if lead or calls.layout.lead else ""
    opening = book.expression(book.resolve(calls.layout.opening))
    block = book.rule(f"{opening} {_any_call(calls, book).expression} {_rest(calls, book)}")
    return f"{before} {block.expression}"


def _text_or_calls(calls: CallRules, lead: str, book: RuleBook) -> str:
    """Text, or text and then calls: once they begin there is no way back."""
    layout = calls.layout
    if layout.only_at_start:
        # Text that begins as a call would is not text.
        free = book.terminal(r"(?s:\s*(?:[^\s{].*)?)")
        return f"{free.expression} | {_block_alone(calls, lead, book)}"
    opening = book.resolve(layout.opening)
    first_call = book.resolve(_segments(layout, calls.tools[0][0]))
    beginning = opening or first_call
    tokens_at = next((n for n, item in enumerate(beginning) if isinstance(item, Token)), None)
    if tokens_at is None:
        begun = _spelled_beginning(calls, book)
    else:
        # The token is the trigger; what stands before it in the opening cannot be told from text until it comes.
        prefix = "".join(item.text for item in opening[:tokens_at] if isinstance(item, Text))
        before = book.terminal(ANY_TEXT + re.escape(prefix))
        begun = f"{before.expression} {book.expression(opening[tokens_at:])} {_any_call(calls, book).expression}"
    return f"{book.terminal(ANY_TEXT).expression} | {book.rule(f'{begun} {_rest(calls, book)}').expression}"


def _spelled_beginning(calls: CallRules, book: RuleBook) -> str:
    """Text up to the words that begin a call, then the first call without them."""
    trigger = book.rule(f"/{ANY_TEXT}{calls.layout.trigger}/", lazy=True)
    firsts = []
    for tool, enforcement in calls.tools:
        items = book.resolve([*calls.layout.opening, *_call(calls.layout, tool, enforcement, book)])
        head = items[0]
        assert isinstance(head, Text)
        found = re.match(calls.layout.trigger, head.text)
        assert found is not None
        firsts.append(book.expression([Text(head.text[found.end() :]), *items[1:]]))
    return f"{trigger.expression} {book.rule(' | '.join(firsts)).expression}"


def _any_call(calls: CallRules, book: RuleBook) -> Rule:
    one_each = [
        book.expression(book.resolve(_call(calls.layout, tool, enforcement, book))) for tool, enforcement in calls.tools
    ]
    return book.rule(" | ".join(one_each))


def _rest(calls: CallRules, book: RuleBook) -> str:
    """Further calls, and the end of the block."""
    layout = calls.layout
    closing = book.expression(book.resolve(layout.closing))
    if not (calls.parallel and layout.parallel):
        return closing
    more: list[Item] = book.resolve([*layout.separator, _any_call(calls, book)])
    return f"({book.expression(more)})* {closing}"


def _segments(layout: CallLayout, tool: Tool) -> list[Segment]:
    """The markers and texts of a call."""
    return [part for part in layout.call(tool.name) if not isinstance(part, JsonArguments | Digits | ParameterList)]


def _call(layout: CallLayout, tool: Tool, enforcement: Enforcement, book: RuleBook) -> list[Segment | Rule]:
    parts: list[Segment | Rule] = []
    for part in layout.call(tool.name):
        match part:
            case JsonArguments():
                parts.append(arguments_rule(tool, enforcement, book))
            case Digits():
                parts.append(book.terminal("[0-9]{1,6}"))
            case ParameterList():
                parts.append(parameters_rule(tool, enforcement, part, book))
            case _:
                parts.append(part)
    return parts
