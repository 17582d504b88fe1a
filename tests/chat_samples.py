"""Conversations, markers and a small tokenizer that the tests of tokenizer and chat formats share."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from deepground.messages import Delta, Message, ReasoningDelta, TextDelta, Tool, ToolCallDelta, ToolCallPart
from deepground.model.chat_format import CHAT_FORMATS, ChatFormat, StreamParser

DEEPSEEK_MARKERS = (
    *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
    *(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
    ),
    *("<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
    "｜DSML｜",
)
CHATML_MARKERS = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>", "</tool_call>"),
    *("<tool_response>", "</tool_response>"),
)
LLAMA_MARKERS = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    "<|python_tag|>",
)
GLM_MARKERS = (
    *("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "/nothink"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
)
KIMI_MARKERS = (
    *("<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "[EOS]"),
    *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>", "<|tool_call_end|>"),
    "<|tool_call_argument_begin|>",
)
ALL_MARKERS = (*DEEPSEEK_MARKERS, *CHATML_MARKERS, *LLAMA_MARKERS, *GLM_MARKERS, *KIMI_MARKERS)

ADD = Tool(
    "add",
    "Adds two numbers.",
    {
        "type": "object",
        "properties": {"x": {"type": "number"}, "y": {"type": "number"}, "note": {"type": "string"}},
        "required": ["x", "y"],
    },
)
CITY = Tool("find_city", "Finds a city <by> name.", {"type": "object", "properties": {"name": {"type": "string"}}})
TOOLS = (ADD, CITY)


def call(name: str, arguments: dict[str, Any], id_: str = "call_0") -> ToolCallPart:
    """A call with canonical JSON."""
    return ToolCallPart(id_, name, json.dumps(arguments, ensure_ascii=False))


def can_call(chat_format: ChatFormat) -> bool:
    """DeepSeek V2's format is the one without tools."""
    return chat_format.name != "deepseek-v2"


def can_call_often(chat_format: ChatFormat) -> bool:
    """Llama 3 expresses one call at a time, without text beside it."""
    return can_call(chat_format) and chat_format.name != "llama3"


def plain_conversation() -> list[Message]:
    """Two rounds without tools; the first answer had thinking."""
    return [
        Message.system("Be brief."),
        Message.user("What is 2 + 2?"),
        Message.assistant("4", reasoning="Two and two."),
        Message.user("And 3 + 3?"),
    ]


def tool_conversation(*, last_reasoning: str = "") -> list[Message]:
    """One call, its result, the answer, a further question, and a call whose result has just come."""
    return [
        Message.user("How much is 1 + 2?"),
        Message.assistant(reasoning="Use the tool.", tool_calls=(call("add", {"x": 1, "y": 2}, "a"),)),
        Message.tool("a", "3"),
        Message.assistant("It is 3."),
        Message.user("And Paris?"),
        Message.assistant(reasoning=last_reasoning, tool_calls=(call("find_city", {"name": "Paris"}, "b"),)),
        Message.tool("b", "France"),
    ]


def reply_text(chat_format: ChatFormat, message: Message, *, in_reasoning: bool) -> str:
    """What a model would write to say `message`, without the end-of-turn marker."""
    prompt = chat_format.render_reply(message, in_reasoning=in_reasoning)
    assert prompt.segments[-1].text in chat_format.stop_markers
    return "".join(segment.text for segment in prompt.segments[:-1])


def read(parser: StreamParser, pieces: Iterable[str]) -> list[Delta]:
    """All deltas of a reply that comes in pieces."""
    deltas = [delta for piece in pieces for delta in parser.feed(piece)]
    return [*deltas, *parser.finish()]


def assemble(deltas: Iterable[Delta]) -> tuple[str, str, list[tuple[str, str]]]:
    """Reasoning, content and (name, arguments) of each call."""
    reasoning = content = ""
    calls: list[tuple[str, str]] = []
    for delta in deltas:
        if isinstance(delta, ReasoningDelta):
            reasoning += delta.text
        elif isinstance(delta, TextDelta):
            content += delta.text
        elif delta.name is not None:
            assert delta.index == len(calls)
            calls.append((delta.name, delta.arguments))
        else:
            assert isinstance(delta, ToolCallDelta)
            assert delta.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + delta.arguments)
    return reasoning, content, calls


def tiny_tokenizer(
    markers: Iterable[str] = ALL_MARKERS, *, special: bool = False, corpus: Iterable[str] = (), vocab_size: int = 500
) -> dict[str, Any]:
    """tokenizer.json of a byte-level BPE, with `markers` as added tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    texts = ("the quick brown fox jumps over the lazy dog", "user assistant system think tool call", *corpus)
    tokenizer.train_from_iterator([*texts, *markers], trainer)
    tokenizer.add_tokens([AddedToken(marker, special=special, normalized=False) for marker in markers])
    definition: dict[str, Any] = json.loads(tokenizer.to_str())
    return definition


FORMATS = tuple(CHAT_FORMATS.values())
FORMAT_NAMES = tuple(CHAT_FORMATS)
