"""Conversations on top of the engine: messages in; thinking, answer and tool calls out, apart from each other."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Collection, Generator, Iterable, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, field

from deepground.engine.engine import Engine
from deepground.engine.request import StepOutput
from deepground.engine.service import EngineService
from deepground.errors import RequestError
from deepground.messages import (
    Delta,
    FinishReason,
    Message,
    ReasoningDelta,
    SamplingParams,
    TextDelta,
    TokenLogprob,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    Usage,
)
from deepground.model import StreamParser


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """A conversation to be continued."""

    messages: Sequence[Message]
    params: SamplingParams = field(default_factory=SamplingParams)
    tools: Sequence[Tool] = ()
    """Functions that the model may call."""
    thinking: bool = True
    """Think before answering, where the model can."""
    cache_salt: str | None = None
    """Whose cached prefixes the reply may use: only those of requests with the same one."""


@dataclass(frozen=True, kw_only=True)
class ChatEvent:
    """What one step of the engine added to a reply."""

    deltas: tuple[Delta, ...] = ()
    reasoning_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens of this step that belong to the thinking; empty unless asked for."""
    content_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the other tokens of this step, end tokens left out."""
    finish_reason: FinishReason | None = None
    """Set on the last event; "tool_calls" when the model made calls and then ended its turn."""
    usage: Usage | None = None
    """Set on the last event."""


class ChatReader:
    """Reads one reply: engine outputs in, events out.

    Args:
        parser: of the conversation's chat format.
        end_ids: the engine's end tokens.
    """

    def __init__(self, parser: StreamParser, end_ids: Collection[int]) -> None:
        self._parser = parser
        self._end_ids = end_ids
        self._reasoning_tokens = 0
        self._has_calls = False

    def read(self, output: StepOutput) -> ChatEvent:
        """What `output` adds."""
        deltas: list[Delta] = []
        thought: list[bool] = []  # Token by token: the thinking may end between two tokens of one step.
        for piece in output.pieces:
            thought.append(self._parser.state == "reasoning")
            deltas += self._parser.feed(piece)
        self._reasoning_tokens += sum(thought[: len(output.token_ids)])
        if output.finish_reason is not None:
            deltas += self._parser.finish()
        self._has_calls = self._has_calls or any(isinstance(delta, ToolCallDelta) for delta in deltas)
        shown = [
            (entry, is_thought)
            for entry, is_thought in zip(output.logprobs or (), thought, strict=False)
            if entry.token_id not in self._end_ids
        ]
        return ChatEvent(
            deltas=_joined(deltas),
            reasoning_logprobs=tuple(entry for entry, is_thought in shown if is_thought),
            content_logprobs=tuple(entry for entry, is_thought in shown if not is_thought),
            finish_reason=self._finish_reason(output),
            usage=None if output.finish_reason is None else self._usage(output),
        )

    def _finish_reason(self, output: StepOutput) -> FinishReason | None:
        calls_made = self._has_calls and not self._parser.incomplete_call
        return "tool_calls" if output.finish_reason == "stop" and calls_made else output.finish_reason

    def _usage(self, output: StepOutput) -> Usage:
        return Usage(
            output.prompt_tokens,
            output.completion_tokens,
            self._reasoning_tokens,
            prompt_cache_hit_tokens=output.cached_tokens,
        )


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
        thinking: bool = True,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[ChatEvent, None]:
        """Check a request and hand out its events, for asyncio; closing the generator aborts it at once.

        The check renders and encodes the conversation, and may run in any thread; the engine begins when
        the first event is asked for.

        Raises:
            RequestError: the request can never run.
            ChatFormatError: the model's chat format cannot express the messages.
            EngineError: the service has failed or is stopping.
        """
        request = ChatRequest(messages=messages, params=params, tools=tools, thinking=thinking, cache_salt=cache_salt)
        prompt_ids, reader = self._prepare(request)
        return self._events(prompt_ids, request, reader)

    def start_chat_blocking(self, request: ChatRequest) -> Generator[ChatEvent, None, None]:
        """As `start_chat`, for a thread."""
        prompt_ids, reader = self._prepare(request)
        return self._events_blocking(prompt_ids, request, reader)

    def _prepare(self, request: ChatRequest) -> tuple[list[int], ChatReader]:
        prompt_ids, reader = prepare_chat(self.service.engine, request)
        self.service.validate(prompt_ids, request.params)
        return prompt_ids, reader

    async def _events(
        self, prompt_ids: Sequence[int], request: ChatRequest, reader: ChatReader
    ) -> AsyncGenerator[ChatEvent, None]:
        stream = self.service.submit(prompt_ids, request.params, cache_salt=request.cache_salt)
        async with aclosing(stream) as outputs:
            async for output in outputs:
                yield _read_or_raise(reader, output)

    def _events_blocking(
        self, prompt_ids: Sequence[int], request: ChatRequest, reader: ChatReader
    ) -> Generator[ChatEvent, None, None]:
        stream = self.service.submit_blocking(prompt_ids, request.params, cache_salt=request.cache_salt)
        with closing(stream) as outputs:
            for output in outputs:
                yield _read_or_raise(reader, output)


def prepare_chat(engine: Engine, request: ChatRequest) -> tuple[list[int], ChatReader]:
    """Prompt ids of a conversation, and the reader for its reply.

    Raises:
        RequestError: the model has no chat format.
        ChatFormatError: the format cannot express the messages.
        TokenizerError: the checkpoint lacks a token that the format needs.
    """
    require_chat_format(engine)
    assert engine.chat_format is not None
    prompt = engine.chat_format.render(request.messages, tools=request.tools, thinking=request.thinking)
    parser = engine.chat_format.parser(in_reasoning=prompt.in_reasoning, tools=request.tools)
    return engine.tokenizer.encode_prompt(prompt), ChatReader(parser, engine.end_ids)


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


def _joined(deltas: Sequence[Delta]) -> tuple[Delta, ...]:
    """The same with neighbours of one kind in one: readers pay for each delta."""
    joined: list[Delta] = []
    for delta in deltas:
        match joined[-1] if joined else None, delta:
            case TextDelta(before), TextDelta(text):
                joined[-1] = TextDelta(before + text)
            case ReasoningDelta(before), ReasoningDelta(text):
                joined[-1] = ReasoningDelta(before + text)
            case _:
                joined.append(delta)
    return tuple(joined)


def _read_or_raise(reader: ChatReader, output: StepOutput) -> ChatEvent:
    if output.error is not None:
        raise output.error
    return reader.read(output)
