"""Conversations on top of the engine: messages in; thinking, answer and tool calls out, apart from each other."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from deepground.engine.attempts import Attempts
from deepground.engine.engine import Engine
from deepground.engine.reply_plan import ReplyPlan, ReplyWish
from deepground.engine.reply_reader import ChatEvent, ChatReader
from deepground.engine.request import StepOutput
from deepground.engine.service import EngineService
from deepground.errors import RequestError
from deepground.messages import (
    Delta,
    Message,
    ReasoningDelta,
    SamplingParams,
    TextDelta,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    ToolChoice,
)


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """A conversation to be continued."""

    messages: Sequence[Message]
    params: SamplingParams = field(default_factory=SamplingParams)
    tools: Sequence[Tool] = ()
    """Functions that the model may call."""
    tool_choice: ToolChoice = "auto"
    """Whether the reply must, may or must not hold calls. With "none" the model is not told of the tools."""
    parallel_tool_calls: bool = True
    """A reply may hold several calls, where the chat format can write them."""
    thinking: bool = True
    """Think before answering, where the model can."""
    thinking_language: str | None = None
    """The language that the model is asked to think in, by its name ("English", "繁體中文"); a hint."""
    continue_last: bool = False
    """The last message is the beginning of the assistant's reply, to be gone on with; the events hold only what is new.
    With reasoning and no text the thinking is gone on with."""
    cache_salt: str | None = None
    """Whose cached prefixes the reply may use: only those of requests with the same one."""


class ChatSession:
    """Continues conversations with a running engine; any number at the same time.

    Args:
        service: a started service whose engine has a chat format.

    Raises:
        RequestError: the model has no chat format.
    """

    def __init__(self, service: EngineService) -> None:
        require_chat_format(service.engine)
        self.service = service

    @property
    def is_healthy(self) -> bool:
        """False once no request can be answered any more."""
        return self.service.health.status in ("new", "ready")

    def start_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        thinking: bool = True,
        thinking_language: str | None = None,
        continue_last: bool = False,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[ChatEvent, None]:
        """Check a request and hand out its events, for asyncio; closing the generator aborts it at once.

        The arguments are the fields of `ChatRequest`. The check renders and encodes the conversation and compiles
        what the output must look like, and may run in any thread; the engine begins when the first event is asked for.

        Raises:
            RequestError: the request can never run.
            ChatFormatError: the model's chat format cannot express the messages.
            EngineError: the service has failed or is stopping.
        """
        request = ChatRequest(
            messages=messages,
            params=params,
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            thinking=thinking,
            thinking_language=thinking_language,
            continue_last=continue_last,
            cache_salt=cache_salt,
        )
        return self._events(self._prepare(request), request)

    def start_chat_blocking(self, request: ChatRequest) -> Generator[ChatEvent, None, None]:
        """As `start_chat`, for a thread."""
        prepared = self._prepare(request)
        return self._events_blocking(prepared, request)

    def _prepare(self, request: ChatRequest) -> PreparedChat:
        prepared = prepare_chat(self.service.engine, request)
        self.service.validate(prepared.prompt_ids, request.params, constraint=prepared.plan.constraint)
        return prepared

    async def _events(self, prepared: PreparedChat, request: ChatRequest) -> AsyncGenerator[ChatEvent, None]:
        if prepared.plan.recheck is None:
            async with aclosing(self._stream(prepared, request)) as events:
                async for event in events:
                    yield event
            return
        attempts = Attempts(self.service.engine.planner.compiler, prepared.plan.recheck)
        while True:
            async with aclosing(self._stream(prepared, request)) as events:
                events_so_far = [event async for event in events]
            reply = await asyncio.to_thread(attempts.judge, events_so_far)
            if reply is not None:
                yield reply
                return
            request = replace(request, params=attempts.next_params(request.params))
            prepared = await asyncio.to_thread(self._prepare, request)

    async def _stream(self, prepared: PreparedChat, request: ChatRequest) -> AsyncGenerator[ChatEvent, None]:
        stream = self.service.submit(
            prepared.prompt_ids,
            request.params,
            cache_salt=request.cache_salt,
            constraint=prepared.plan.constraint,
        )
        async with aclosing(stream) as outputs:
            async for output in outputs:
                yield _read_or_raise(prepared.reader, output)

    def _events_blocking(self, prepared: PreparedChat, request: ChatRequest) -> Generator[ChatEvent, None, None]:
        if prepared.plan.recheck is None:
            yield from self._stream_blocking(prepared, request)
            return
        attempts = Attempts(self.service.engine.planner.compiler, prepared.plan.recheck)
        while (reply := attempts.judge(list(self._stream_blocking(prepared, request)))) is None:
            request = replace(request, params=attempts.next_params(request.params))
            prepared = self._prepare(request)
        yield reply

    def _stream_blocking(self, prepared: PreparedChat, request: ChatRequest) -> Generator[ChatEvent, None, None]:
        stream = self.service.submit_blocking(
            prepared.prompt_ids,
            request.params,
            cache_salt=request.cache_salt,
            constraint=prepared.plan.constraint,
        )
        with closing(stream) as outputs:
            for output in outputs:
                yield _read_or_raise(prepared.reader, output)


class PreparedChat(NamedTuple):
    """A conversation ready for the engine."""

    prompt_ids: list[int]
    reader: ChatReader
    """Of the reply."""
    plan: ReplyPlan
    """What holds for the reply."""


def prepare_chat(engine: Engine, request: ChatRequest) -> PreparedChat:
    """Prompt, constraint and reader of a conversation's next reply; good for one reply.

    Raises:
        RequestError: the model has no chat format, or the request contradicts itself.
        SchemaError: the wanted output or a tool's parameters cannot be enforced.
        ChatFormatError: the format cannot express the messages.
        TokenizerError: the checkpoint lacks a token that the format needs.
    """
    require_chat_format(engine)
    chat_format = engine.chat_format
    assert chat_format is not None
    messages = request.messages
    thinks = request.thinking and chat_format.supports_thinking
    if thinks and request.thinking_language:
        messages = _with_instruction(messages, f"Think in this language: {request.thinking_language}.")
    tools = request.tools if request.tool_choice != "none" else ()
    render = chat_format.render_continued if request.continue_last else chat_format.render
    prompt = render(messages, tools=tools, thinking=request.thinking)
    given = messages[-1].text if request.continue_last else ""
    wish = ReplyWish(
        tools=tools,
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        in_reasoning=prompt.in_reasoning,
        may_think=thinks and not prompt.in_reasoning and chat_format.opens_thinking,
        given=given,
    )
    plan = engine.planner.plan_chat(request.params, wish)
    parser = chat_format.parser(in_reasoning=prompt.in_reasoning, tools=tools)
    if given:
        parser.continue_answer()
    return PreparedChat(
        engine.tokenizer.encode_prompt(prompt), ChatReader(parser, engine.tokenizer, engine.end_ids), plan
    )


def _with_instruction(messages: Sequence[Message], text: str) -> list[Message]:
    """The conversation with one more sentence for the model, at the end of the system message."""
    if messages and messages[0].role == "system":
        first = messages[0].text
        return [Message.system(f"{first}\n\n{text}" if first else text), *messages[1:]]
    return [Message.system(text), *messages]


def require_chat_format(engine: Engine) -> None:
    """Refuse to chat with a model that only continues text.

    Raises:
        RequestError: the model has no chat format.
    """
    if engine.chat_format is None:
        raise RequestError("this model has no chat format; use generate, or name a chat format when loading it")


def assemble_reply(deltas: Iterable[Delta]) -> Message:
    """The assistant message that a whole reply's deltas add up to; calls get ids as DeepSeek's API makes them."""
    reasoning: list[str] = []
    text: list[str] = []
    calls: dict[int, tuple[str, list[str]]] = {}
    for delta in deltas:
        match delta:
            case ReasoningDelta():
                reasoning.append(delta.text)
            case TextDelta():
                text.append(delta.text)
            case ToolCallDelta():
                calls.setdefault(delta.index, (delta.name or "", []))[1].append(delta.arguments)
    return Message.assistant(
        "".join(text),
        reasoning="".join(reasoning),
        tool_calls=tuple(
            ToolCallPart(id=f"call_{index:02d}_{secrets.token_hex(12)}", name=name, arguments="".join(pieces))
            for index, (name, pieces) in sorted(calls.items())
        ),
    )


def _read_or_raise(reader: ChatReader, output: StepOutput) -> ChatEvent:
    if output.error is not None:
        raise output.error
    return reader.read(output)
