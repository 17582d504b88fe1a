"""A model folder, run by the engine in this process."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from deepground.engine import (
    PILOT_FOLDER,
    ChatEvent,
    ChatSession,
    EngineConfig,
    EngineService,
    assemble_reply,
    load_engine,
)
from deepground.errors import ChatFormatError, ContextLengthError, EngineError, RequestError
from deepground.messages import Delta, Message, SamplingParams, Tool, Usage
from deepground.train.answering.respondent import Reply


class LocalModel:
    """A `Respondent` in this process.

    Args:
        folder: a Hugging Face folder; None: the bundled model.
        max_sequences: conversations computed at one time.
        threads: for the arithmetic; None: all cores.
        chat_format: its name, where the folder's own is wrong.

    Raises:
        ModelFolderError: the folder is not a model that can be loaded.
        RequestError: the model has no chat format.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        max_sequences: int = 32,
        threads: int | None = None,
        chat_format: str | None = None,
    ) -> None:
        config = EngineConfig(
            max_sequences=max_sequences, max_batch_tokens=max(1024, max_sequences), num_threads=threads
        )
        self._folder = folder or PILOT_FOLDER
        engine = load_engine(folder, config, chat_format=chat_format)
        self._service = EngineService(engine)
        self._service.start()
        self._session = ChatSession(self._service)
        assert engine.chat_format is not None
        self.supports_thinking = engine.chat_format.supports_thinking
        """The chat format has a thinking block."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._folder.resolve().name

    async def ask(
        self, messages: Sequence[Message], params: SamplingParams, *, tools: Sequence[Tool], thinking: bool | None
    ) -> Reply:
        """See `Respondent`."""
        start = time.monotonic()
        deltas: list[Delta] = []
        finish, usage = "error", Usage(0, 0)
        try:
            events = self._start(messages, params, tools, thinking is not False)
            async with aclosing(events):
                async for event in events:
                    deltas += event.deltas
                    finish, usage = event.finish_reason or finish, event.usage or usage
        except (RequestError, ChatFormatError, EngineError) as error:
            return Reply(error=str(error))
        message = assemble_reply(deltas)
        return Reply(
            text=message.text,
            reasoning=message.reasoning,
            tool_calls=message.tool_calls,
            finish_reason=finish,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            seconds=round(time.monotonic() - start, 3),
        )

    async def aclose(self) -> None:
        """See `Respondent`."""
        self._service.stop()

    def _start(
        self, messages: Sequence[Message], params: SamplingParams, tools: Sequence[Tool], thinking: bool
    ) -> AsyncGenerator[ChatEvent, None]:
        try:
            return self._session.start_chat(messages, params, tools=tools, thinking=thinking)
        except ContextLengthError:
            # A limit beyond the model's context means: as far as the context goes. A prompt without room still fails.
            return self._session.start_chat(messages, replace(params, max_tokens=None), tools=tools, thinking=thinking)
