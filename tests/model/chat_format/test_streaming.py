"""What every parser promises, for every format."""

import codecs
import itertools
import random

import pytest

from chat_samples import (
    ALL_MARKERS,
    FORMAT_NAMES,
    FORMATS,
    TOOLS,
    assemble,
    call,
    can_call,
    can_call_often,
    read,
    reply_text,
)
from deepground.messages import Message, ReasoningDelta, TextDelta
from deepground.model.chat_format import ChatFormat
from deepground.model.chat_format.streaming import longest_overlap

WORDS = [
    "plain",
    " ",
    "\n",
    "<",
    "</",
    "<th",
    "{",
    "}",
    '"',
    "\\",
    "``",
    "é",
    "日本",
    "😀",
    "|>",
    "｜",
    "<|im_",
    "=",
    "5",
]


def words(rng: random.Random, most: int = 8) -> str:
    return "".join(rng.choices(WORDS, k=rng.randrange(most)))


def inner_words(rng: random.Random) -> str:
    """Words that formats which trim their texts keep as they are."""
    return f"a{words(rng)}z"


def arguments(rng: random.Random) -> dict[str, object]:
    values: list[object] = [words(rng), rng.randrange(100), True, None, [1, "two"], {"k": words(rng)}]
    return {key: rng.choice(values) for key in ("x", "long key", "日")[: rng.randrange(4)]} | {"note": inner_words(rng)}


def random_reply(rng: random.Random, chat_format: ChatFormat, *, in_reasoning: bool) -> Message:
    text = inner_words(rng) if rng.random() < 0.7 else ""
    thinks = in_reasoning or (chat_format.supports_thinking and rng.random() < 0.5)
    calls = [call(name, arguments(rng), f"id{n}") for n, name in enumerate(rng.choices(["add", "find_city"], k=3))]
    if not can_call(chat_format):
        calls = []
    elif can_call_often(chat_format):
        calls = calls[: rng.randrange(4)]
    else:
        calls = [] if text else calls[:1]
    return Message.assistant(text, reasoning=inner_words(rng) if thinks else "", tool_calls=tuple(calls))


def starts_of(chat_format: ChatFormat) -> list[bool]:
    return [False, True] if chat_format.supports_thinking else [False]


def cuts(text: str, rng: random.Random) -> list[list[str]]:
    """The text whole, by character, by byte, and cut at random."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    by_byte = [decoder.decode(bytes([byte])) for byte in text.encode()]
    places = sorted(rng.randrange(len(text) + 1) for _ in range(5))
    at_random = [text[a:b] for a, b in itertools.pairwise([0, *places, len(text)])]
    return [[text], list(text), by_byte, at_random]


@pytest.mark.parametrize("chat_format", FORMATS, ids=FORMAT_NAMES)
def test_parsing_is_the_inverse_of_rendering_however_the_text_is_cut(chat_format: ChatFormat) -> None:
    rng = random.Random(chat_format.name)
    for _ in range(60):
        for in_reasoning in starts_of(chat_format):
            message = random_reply(rng, chat_format, in_reasoning=in_reasoning)
            text = reply_text(chat_format, message, in_reasoning=in_reasoning)
            expected = (message.reasoning, message.text, [(c.name, c.arguments) for c in message.tool_calls])
            for pieces in cuts(text, rng):
                parser = chat_format.parser(in_reasoning=in_reasoning, tools=TOOLS)
                assert assemble(read(parser, pieces)) == expected, text
                assert not parser.incomplete_call


@pytest.mark.parametrize("chat_format", FORMATS, ids=FORMAT_NAMES)
def test_any_text_at_all_is_read_the_same_however_it_is_cut(chat_format: ChatFormat) -> None:
    rng = random.Random(chat_format.name)
    heads = [
        '{"name": "add", "parameters": {"x": 1}}',
        '{"name": "add", "arguments": "{}"}',
        "add\n",
        "functions.add:0",
    ]
    heads += [
        'function_calls>\n<｜DSML｜invoke name="add">\n',
        '<｜DSML｜parameter name="x" string="true">',
        "```json\n",
    ]
    soup = [*ALL_MARKERS, *WORDS, *heads]
    for _ in range(150):
        text = "".join(rng.choices(soup, k=rng.randrange(1, 12)))
        for in_reasoning in starts_of(chat_format):
            whole, *others = [
                assemble(read(chat_format.parser(in_reasoning=in_reasoning, tools=TOOLS), pieces))
                for pieces in cuts(text, rng)
            ]
            assert all(other == whole for other in others), text


@pytest.mark.parametrize("chat_format", FORMATS, ids=FORMAT_NAMES)
def test_every_beginning_of_a_reply_loses_no_word(chat_format: ChatFormat) -> None:
    calls = (call("add", {"note": "KILO LIMA"}),) if can_call(chat_format) else ()
    text = "INDIA JULIET" if can_call_often(chat_format) or not calls else ""
    reasoning = "GOLF HOTEL" if chat_format.supports_thinking else ""
    message = Message.assistant(text, reasoning=reasoning, tool_calls=calls)
    reply = reply_text(chat_format, message, in_reasoning=bool(reasoning))
    for length in range(len(reply) + 1):
        parser = chat_format.parser(in_reasoning=bool(reasoning), tools=TOOLS)
        thought, content, found = assemble(read(parser, [reply[:length]]))
        everything = f"{thought} {content} {found}"
        for word in ("GOLF", "HOTEL", "INDIA", "JULIET", "KILO", "LIMA"):
            assert word not in reply[:length] or word in everything, reply[:length]


@pytest.mark.parametrize("chat_format", FORMATS, ids=FORMAT_NAMES)
def test_ordinary_words_are_not_held_back(chat_format: ChatFormat) -> None:
    parser = chat_format.parser(in_reasoning=False)
    assert parser.feed("Hello") == [TextDelta("Hello")]
    assert parser.feed(" world, 2 ") == [TextDelta(" world, 2 ")]
    assert parser.state == "content"
    if chat_format.supports_thinking:
        parser = chat_format.parser(in_reasoning=True)
        assert parser.state == "reasoning"
        assert parser.feed("Hmm, ") == [ReasoningDelta("Hmm, ")]


@pytest.mark.parametrize("chat_format", [f for f in FORMATS if f.supports_thinking], ids=lambda f: f.name)
def test_state_says_what_the_next_token_counts_as(chat_format: ChatFormat) -> None:
    message = Message.assistant(reasoning="thought", tool_calls=(call("add", {"note": "word"}),))
    reply = reply_text(chat_format, message, in_reasoning=True)
    parser = chat_format.parser(in_reasoning=True)
    parser.feed(reply[: reply.index("thought") + 3])
    assert parser.state == "reasoning"
    parser.feed(reply[reply.index("thought") + 3 : reply.index("word")])
    assert parser.state == "tool_calls"
    parser.feed(reply[reply.index("word") :])
    parser.feed(" and so on")
    assert parser.state == "content"


@pytest.mark.parametrize("chat_format", [f for f in FORMATS if f.supports_thinking], ids=lambda f: f.name)
def test_a_model_may_open_its_thinking_itself(chat_format: ChatFormat) -> None:
    parser = chat_format.parser(in_reasoning=False)
    reasoning, content, _ = assemble(read(parser, ["\n<th", "ink>why", "</thi", "nk>so"]))
    assert (reasoning, content) == ("why", "so")


@pytest.mark.parametrize("chat_format", [f for f in FORMATS if f.supports_thinking], ids=lambda f: f.name)
def test_thinking_that_never_ends_is_all_reasoning(chat_format: ChatFormat) -> None:
    parser = chat_format.parser(in_reasoning=True)
    assert assemble(read(parser, ["still ", "thinking </thi"])) == ("still thinking </thi", "", [])


@pytest.mark.parametrize("chat_format", [f for f in FORMATS if can_call(f)], ids=lambda f: f.name)
def test_a_call_cut_off_in_its_arguments_is_reported(chat_format: ChatFormat) -> None:
    message = Message.assistant(tool_calls=(call("add", {"note": "a long word"}),))
    reply = reply_text(chat_format, message, in_reasoning=False)
    parser = chat_format.parser(in_reasoning=False, tools=TOOLS)
    pieces = [reply[: reply.index("long") + 4]]
    _, _, calls = assemble(read(parser, pieces))
    assert [name for name, _ in calls] == ["add"]
    assert parser.incomplete_call
    if chat_format.name != "glm-4.5":  # its values are known to be JSON or text only when they end
        assert calls[0][1].endswith("a long")


@pytest.mark.parametrize("chat_format", [f for f in FORMATS if can_call(f)], ids=lambda f: f.name)
def test_arguments_stream(chat_format: ChatFormat) -> None:
    message = Message.assistant(tool_calls=(call("add", {"x": 1, "note": "some longer text"}),))
    parser = chat_format.parser(in_reasoning=False, tools=TOOLS)
    reply = reply_text(chat_format, message, in_reasoning=False)
    deltas = [parser.feed(character) for character in reply]
    assert sum(bool(delta) for delta in deltas) >= 3


def test_overlap_is_the_longest_beginning_of_a_marker() -> None:
    assert longest_overlap("abc <th", ("<think>", "</think>")) == 3
    assert longest_overlap("abc", ("<think>",)) == 0
    assert longest_overlap("x\n\n", ("\n\n<a>", "\n<a>", "<a>")) == 2
    assert longest_overlap("<think>", ("<think>",)) == 0
    assert longest_overlap("", ("<think>",)) == 0
