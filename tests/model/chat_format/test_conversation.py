"""Conversations that a format cannot express are refused with the message's index; the rest is paired up."""

import pytest

from chat_samples import ADD, FORMATS, call, can_call
from deepground.errors import ChatFormatError
from deepground.messages import Message, ReasoningPart, TextPart, ToolCallPart
from deepground.model.chat_format import CHAT_FORMATS, ChatFormat
from deepground.model.chat_format.conversation import read_turns

QUESTION = Message.user("Hi")
CALLS = Message.assistant(tool_calls=(call("add", {"x": 1}, "a"), call("add", {"x": 2}, "b")))


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "messages is empty"),
        ([Message.system("S")], "system messages only"),
        ([QUESTION, Message.assistant("Hello")], r"messages\[1\] is the last one"),
        ([QUESTION, Message.tool("a", "3")], r"messages\[1\] is a tool result"),
        ([QUESTION, CALLS], r"messages\[1\] made the tool call 'a'"),
        ([QUESTION, CALLS, Message.tool("a", "1")], r"messages\[1\] made the tool call 'b'"),
        ([QUESTION, CALLS, Message.tool("a", "1"), QUESTION], "made the tool call 'b'"),
        ([QUESTION, CALLS, Message.tool("a", "1"), Message.tool("a", "1")], r"messages\[3\] answers .* a second time"),
        ([QUESTION, CALLS, Message.tool("z", "1")], r"messages\[2\] answers the tool call 'z'.*'a', 'b'"),
        ([QUESTION, Message.assistant(tool_calls=(call("f", {}), call("f", {})))], r"messages\[1\]: two tool calls"),
        ([Message("robot", (TextPart("x"),))], r"messages\[0\] has the role 'robot'"),  # type: ignore[arg-type]
        ([Message("user", (ReasoningPart("x"),))], r"messages\[0\]: a user message cannot carry a ReasoningPart"),
        ([Message("tool", (TextPart("x"),))], "cannot carry a TextPart"),
    ],
)
def test_impossible_conversations_name_the_message(messages: list[Message], says: str) -> None:
    with pytest.raises(ChatFormatError, match=says):
        read_turns(messages)


@pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-r1", "deepseek-v3.1", "deepseek-v3.2"])
def test_deepseek_answers_follow_questions(name: str) -> None:
    for messages in (
        [Message.assistant("Welcome"), QUESTION],
        [QUESTION, Message.assistant("a"), Message.assistant("b"), QUESTION],
    ):
        with pytest.raises(ChatFormatError, match="directly before it"):
            CHAT_FORMATS[name].render(messages)


def test_results_come_in_the_order_of_the_calls() -> None:
    turns = read_turns([QUESTION, CALLS, Message.tool("b", "second"), Message.tool("a", "first")])
    assert turns[1].results == ("first", "second")


@pytest.mark.parametrize("name", ["deepseek-v3.2", "glm-4.5"])
@pytest.mark.parametrize("arguments", ["{", "[1]", '"text"'])
def test_arguments_must_be_an_object_where_they_are_taken_apart(name: str, arguments: str) -> None:
    broken = Message.assistant(tool_calls=(ToolCallPart("a", "add", arguments),))
    with pytest.raises(ChatFormatError, match=r"messages\[1\]: the tool call 'add'"):
        CHAT_FORMATS[name].render([QUESTION, broken, Message.tool("a", "1")])


@pytest.mark.parametrize("chat_format", [f for f in FORMATS if not f.supports_thinking], ids=lambda f: f.name)
def test_formats_without_thinking(chat_format: ChatFormat) -> None:
    assert chat_format.render([QUESTION], thinking=True) == chat_format.render([QUESTION], thinking=False)
    with pytest.raises(ChatFormatError, match="no thinking block"):
        chat_format.render_reply(Message.assistant("a", reasoning="b"), in_reasoning=False)


def test_llama_says_what_it_cannot_express() -> None:
    llama = CHAT_FORMATS["llama3"]
    results = [Message.tool("a", "1"), Message.tool("b", "2")]
    with pytest.raises(ChatFormatError, match=r"messages\[1\] makes 2 tool calls"):
        llama.render([QUESTION, CALLS, *results])
    both = Message.assistant("text", tool_calls=(call("add", {}, "a"),))
    with pytest.raises(ChatFormatError, match="both text and a tool call"):
        llama.render([QUESTION, both, Message.tool("a", "1")])
    with pytest.raises(ChatFormatError, match=r"messages\[0\] must be the user's"):
        llama.render([Message.assistant("Hello"), QUESTION], tools=[ADD])


def test_deepseek_v2_has_no_tools() -> None:
    v2 = CHAT_FORMATS["deepseek-v2"]
    with pytest.raises(ChatFormatError, match="has no tools"):
        v2.render([QUESTION], tools=[ADD])
    with pytest.raises(ChatFormatError, match="has no tool calls"):
        v2.render([QUESTION, Message.assistant(tool_calls=(call("f", {}, "a"),)), Message.tool("a", "1")])


def test_kimi_renumbers_ids_of_another_kind() -> None:
    messages = [QUESTION, CALLS, Message.tool("a", "1"), Message.tool("b", "2")]
    text = CHAT_FORMATS["kimi-k2"].render(messages).text
    assert "## Return of functions.add:0\n1<" in text
    assert "## Return of functions.add:1\n2<" in text


@pytest.mark.parametrize(
    ("name", "thinking", "ends", "in_reasoning"),
    [
        ("deepseek-r1", True, "<｜Assistant｜><think>\n", True),
        ("deepseek-r1", False, "<｜Assistant｜><think>\n\n</think>\n\n", False),
        ("deepseek-v3", True, "<｜Assistant｜>", False),
        ("deepseek-v3.1", True, "<｜Assistant｜><think>", True),
        ("deepseek-v3.1", False, "<｜Assistant｜></think>", False),
        ("deepseek-v3.2", True, "<｜Assistant｜><think>", True),
        ("deepseek-v3.2", False, "<｜Assistant｜></think>", False),
        ("qwen3", True, "<|im_start|>assistant\n", False),
        ("qwen3", False, "<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("qwen3-thinking", True, "<|im_start|>assistant\n<think>\n", True),
        ("glm-4.5", True, "Hi<|assistant|>", False),
        ("glm-4.5", False, "Hi/nothink<|assistant|>\n<think></think>", False),
    ],
)
def test_the_prompt_decides_about_thinking(name: str, thinking: bool, ends: str, in_reasoning: bool) -> None:
    prompt = CHAT_FORMATS[name].render([QUESTION], thinking=thinking)
    assert prompt.text.endswith(ends)
    assert prompt.in_reasoning is in_reasoning


def test_v31_tools_switch_the_thinking_off() -> None:
    prompt = CHAT_FORMATS["deepseek-v3.1"].render([QUESTION], tools=[ADD], thinking=True)
    assert prompt.text.endswith("<｜Assistant｜></think>")
    assert not prompt.in_reasoning


@pytest.mark.parametrize("chat_format", [f for f in FORMATS if can_call(f)], ids=lambda f: f.name)
def test_prompt_and_reply_make_the_next_prompt(chat_format: ChatFormat) -> None:
    """What the model wrote stands in the next turn's prompt as it wrote it: the cache of the prefix stays good."""
    answer = Message.assistant(tool_calls=(call("add", {"x": 1}, "functions.add:0"),))
    prompt = chat_format.render([QUESTION], thinking=False)
    reply = chat_format.render_reply(answer, in_reasoning=prompt.in_reasoning)
    later = chat_format.render([QUESTION, answer, Message.tool("functions.add:0", "1")], thinking=False)
    if chat_format.name in ("qwen3", "qwen3-thinking", "deepseek-r1"):
        # These drop the empty thinking block of the prompt from stored turns.
        assert later.text.startswith(prompt.text[: prompt.text.index("<think>")])
    else:
        assert later.text.startswith(prompt.text + reply.text)
