"""Replies split into thinking, answer and calls; usage and reasons counted right."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from deepground.engine import LLM, ChatEvent, ChatRequest, ChatSession, Engine, EngineService, assemble_reply
from deepground.errors import ContextLengthError, EngineError, RequestError
from deepground.messages import Message, ReasoningDelta, SamplingParams, TextDelta, Tool, ToolCallDelta
from deepground.model import Special, Text
from deepground.model.prompt import Prompt, Segment
from engine_fakes import (
    FakeDecoder,
    FaultyDecoder,
    GatedDecoder,
    HistoryDecoder,
    ReplyDecoder,
    byte_tokenizer,
    make_engine,
)

TOKENIZER = byte_tokenizer()
HELLO = [Message.user("hello")]
GREEDY = SamplingParams(temperature=0)
WEATHER = Tool("weather", "of a city", {"type": "object", "properties": {"city": {"type": "string"}}})


def reply(*segments: Segment) -> ReplyDecoder:
    """A model that writes these after its <think> or </think>."""
    return ReplyDecoder(TOKENIZER.encode_prompt(Prompt(tuple(segments))), skip=1)


THOUGHTFUL = (Text("hm, hi"), Special("</think>"), Text("Hi! 你好"))
CALLING = (
    Text("Look:"),
    Special("<｜tool▁calls▁begin｜>"),
    Special("<｜tool▁call▁begin｜>"),
    Text("weather"),
    Special("<｜tool▁sep｜>"),
    Text('{"city": "Oslo"}'),
    Special("<｜tool▁call▁end｜>"),
    Special("<｜tool▁calls▁end｜>"),
)


def ask(decoder: FakeDecoder, **request: object) -> list[ChatEvent]:
    with EngineService(make_engine(decoder)) as service:
        asked = ChatRequest(**{"messages": HELLO, "params": GREEDY, **request})  # type: ignore[arg-type]
        return list(ChatSession(service).start_chat_blocking(asked))


def message_of(events: Sequence[ChatEvent]) -> Message:
    return assemble_reply(delta for event in events for delta in event.deltas)


def test_thinking_comes_apart_from_the_answer() -> None:
    events = ask(reply(*THOUGHTFUL))
    message = message_of(events)
    assert (message.reasoning, message.text) == ("hm, hi", "Hi! 你好")
    assert [event.finish_reason for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].finish_reason == "stop"
    usage = events[-1].usage
    assert usage is not None
    # Six bytes and </think>; "Hi! " with two wide characters and the end token.
    assert (usage.reasoning_tokens, usage.completion_tokens) == (7, 7 + 10 + 1)
    assert usage.prompt_tokens > len("hello")


def test_without_thinking_all_is_answer() -> None:
    events = ask(reply(Text("Hi!")), thinking=False)
    message = message_of(events)
    assert (message.reasoning, message.text) == ("", "Hi!")
    assert events[-1].usage is not None
    assert events[-1].usage.reasoning_tokens == 0


def test_cut_off_in_the_middle_of_thinking() -> None:
    events = ask(reply(*THOUGHTFUL), params=SamplingParams(temperature=0, max_tokens=3))
    assert message_of(events) == Message.assistant(reasoning="hm,")
    assert events[-1].finish_reason == "length"
    assert events[-1].usage is not None
    assert events[-1].usage.reasoning_tokens == 3


def test_tool_calls() -> None:
    events = ask(reply(*CALLING), thinking=False, tools=(WEATHER,))
    message = message_of(events)
    (call,) = message.tool_calls
    assert (message.text, call.name, call.arguments) == ("Look:", "weather", '{"city": "Oslo"}')
    assert call.id.startswith("call_00_")
    assert events[-1].finish_reason == "tool_calls"
    cut = ask(reply(*CALLING), thinking=False, tools=(WEATHER,), params=SamplingParams(temperature=0, max_tokens=20))
    assert cut[-1].finish_reason == "length"


def test_logprobs_follow_the_text_they_belong_to() -> None:
    events = ask(reply(*THOUGHTFUL), params=SamplingParams(temperature=0, logprobs=0))
    thinking = b"".join(entry.bytes for event in events for entry in event.reasoning_logprobs)
    answer = b"".join(entry.bytes for event in events for entry in event.content_logprobs)
    assert thinking.decode() == "hm, hi</think>"
    assert answer.decode() == "Hi! 你好"


def test_assembled_calls_keep_their_order_and_get_different_ids() -> None:
    message = assemble_reply(
        [
            ReasoningDelta("r"),
            ToolCallDelta(0, "a", ""),
            ToolCallDelta(1, "b", "{"),
            ToolCallDelta(1, None, "}"),
            TextDelta("t"),
        ]
    )
    assert [(call.name, call.arguments) for call in message.tool_calls] == [("a", ""), ("b", "{}")]
    assert len({call.id for call in message.tool_calls}) == 2
    assert message.tool_calls[1].id.startswith("call_01_")


def test_async_chats_at_once() -> None:
    async def chat(session: ChatSession) -> list[ChatEvent]:
        async with aclosing(session.start_chat(HELLO, GREEDY)) as events:
            return [event async for event in events]

    async def many(session: ChatSession) -> list[list[ChatEvent]]:
        return await asyncio.gather(*(chat(session) for _ in range(10)))

    with EngineService(make_engine(reply(*THOUGHTFUL))) as service:
        for events in asyncio.run(many(ChatSession(service))):
            assert message_of(events).text == "Hi! 你好"


def test_closing_a_chat_aborts_it() -> None:
    decoder = GatedDecoder()

    async def leave(session: ChatSession) -> None:
        events = session.start_chat(HELLO, GREEDY)
        decoder.gate.set()
        await anext(events)
        await events.aclose()
        while not session.service.stats.aborted:
            await asyncio.sleep(0.002)

    with EngineService(make_engine(decoder)) as service:
        session = ChatSession(service)
        # A chat that nobody begins to read never reaches the engine.
        asyncio.run(_close_unread(session))
        asyncio.run(asyncio.wait_for(leave(session), 10))
        assert service.stats.pages_used == 0
        assert service.stats.aborted == 1


async def _close_unread(session: ChatSession) -> None:
    await session.start_chat(HELLO, GREEDY).aclose()


def test_bad_requests_fail_before_the_first_event() -> None:
    engine = make_engine(HistoryDecoder(max_positions=64))
    with EngineService(engine) as service:
        session = ChatSession(service)
        with pytest.raises(ContextLengthError):
            session.start_chat([Message.user("x" * 100)], GREEDY)
        with pytest.raises(ContextLengthError):
            session.start_chat_blocking(ChatRequest(messages=[Message.user("x" * 100)]))
    with pytest.raises(RequestError, match="chat format"):
        ChatSession(EngineService(Engine(HistoryDecoder(), TOKENIZER)))


def test_a_failing_request_raises_in_its_chat() -> None:
    decoder = FaultyDecoder()
    first = decoder.next_token(TOKENIZER.encode_prompt(make_engine(decoder).chat_format.render(HELLO)))
    with EngineService(make_engine(FaultyDecoder(poison=first))) as service:
        session = ChatSession(service)
        with pytest.raises(EngineError, match="overflowed"):
            list(session.start_chat_blocking(ChatRequest(messages=HELLO, params=GREEDY)))
        assert session.is_healthy


def test_llm_chat_and_session_agree() -> None:
    events = ask(reply(*THOUGHTFUL))
    (output,) = LLM.from_engine(make_engine(reply(*THOUGHTFUL))).chat(HELLO, GREEDY)
    message = message_of(events)
    assert (output.reasoning, output.text, output.usage) == (message.reasoning, message.text, events[-1].usage)
