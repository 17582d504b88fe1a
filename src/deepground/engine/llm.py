"""The engine for scripts and notebooks: many prompts in, all results out, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from deepground.engine.attempts import Attempts
from deepground.engine.chat import ChatRequest, PreparedChat, assemble_reply, prepare_chat
from deepground.engine.config import EngineConfig
from deepground.engine.constraint import Constraint
from deepground.engine.engine import Engine
from deepground.engine.reply_reader import ChatEvent
from deepground.engine.request import StepOutput
from deepground.errors import DeepgroundError, RequestError
from deepground.messages import (
    FinishReason,
    Message,
    SamplingParams,
    TokenLogprob,
    Tool,
    ToolCallPart,
    ToolChoice,
    Usage,
)
from deepground.model import RowBatch, ServingDtype

MessageLike = Message | Mapping[str, str]
"""A message, or its plain form {"role": ..., "content": ...}."""


@dataclass(frozen=True, kw_only=True)
class CompletionOutput:
    """The result of one prompt or conversation."""

    text: str
    """Generated text; from `chat`, the answer alone."""
    reasoning: str = ""
    """The thinking; only from `chat`."""
    tool_calls: tuple[ToolCallPart, ...] = ()
    """Calls that the model asks for; only from `chat`."""
    token_ids: tuple[int, ...]
    """All generated tokens, end token included."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Of `token_ids`; None unless asked for."""
    finish_reason: FinishReason
    usage: Usage
    error: DeepgroundError | None = None
    """Why this one failed while the others went on; set when `finish_reason` is "error"."""


class LLM:
    """A model, loaded.

        llm = LLM("path/to/model")
        outputs = llm.generate(["1 + 1 =", "2 + 2 ="], SamplingParams(temperature=0, max_tokens=8))
        reply = llm.chat([Message.user("What is 17 + 25?")])[0]

    For one thread at a time; `EngineService` serves many.

    Args:
        path: a Hugging Face folder; None: the model that comes with the package.
        dtype: how the weights are held; see `Engine.from_folder`.
        config: sizes of batch and cache.
        chat_format: name of a chat format, where the folder's own is not right.

    Raises:
        ModelFolderError: the folder is not a model that can be loaded; several kinds, each naming the cure.
        OutOfMemoryError: model or cache do not fit.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        dtype: ServingDtype = "auto",
        config: EngineConfig | None = None,
        chat_format: str | None = None,
    ) -> None:
        self.engine = Engine.from_folder(path, config, dtype=dtype, chat_format=chat_format)

    @classmethod
    def from_engine(cls, engine: Engine) -> LLM:
        """Put this interface on an engine that exists already."""
        llm = cls.__new__(cls)
        llm.engine = engine
        return llm

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[CompletionOutput]:
        """Continue prompts.

        Args:
            prompts: one or many, each a text or a list of token ids. Texts never become special tokens; the
                beginning-of-text token is added where the model expects one.
            params: for all prompts, or one for each; None: the defaults.

        Returns:
            One output for each prompt, in their order.

        Raises:
            RequestError: a prompt can never run; nothing was generated.
        """
        one = isinstance(prompts, str) or _is_token_ids(prompts)
        token_ids = [self._to_ids(prompt) for prompt in ([prompts] if one else prompts)]
        results = self._run(token_ids, _spread(params, len(token_ids)))
        return [_completion(outputs, None) for outputs in results]

    def chat(
        self,
        messages: Sequence[MessageLike] | Sequence[Sequence[MessageLike]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice = "auto",
        thinking: bool = True,
        thinking_language: str | None = None,
    ) -> list[CompletionOutput]:
        """Write the next message of conversations.

        Args:
            messages: one conversation or many.
            params: for all conversations, or one for each; None: the defaults.
            tools: functions that the model may call.
            tool_choice: whether it must, may or must not call one.
            thinking: think before answering, where the model can.
            thinking_language: the language that it is asked to think in.

        Returns:
            One output for each conversation, in their order.

        Raises:
            RequestError: a conversation can never run, or the model has no chat format; nothing was generated.
            ChatFormatError: the model's chat format cannot express the messages.
        """
        conversations = _conversations(messages)
        wanted = _spread(params, len(conversations))
        return self.answer(
            [
                ChatRequest(
                    messages=turns,
                    params=p,
                    tools=tools,
                    tool_choice=tool_choice,
                    thinking=thinking,
                    thinking_language=thinking_language,
                )
                for turns, p in zip(conversations, wanted, strict=True)
            ]
        )

    def answer(self, requests: Sequence[ChatRequest]) -> list[CompletionOutput]:
        """As `chat`, each conversation with wishes of its own.

        Raises:
            RequestError: a conversation can never run; nothing was generated.
            ChatFormatError: the model's chat format cannot express the messages.
            EngineError: an answer did not fit its schema, however often it was written.
        """
        prepared = [prepare_chat(self.engine, request) for request in requests]
        results = self._run(
            [chat.prompt_ids for chat in prepared],
            [request.params for request in requests],
            [chat.plan.constraint for chat in prepared],
        )
        return [
            self._checked(request, outputs, chat)
            for request, outputs, chat in zip(requests, results, prepared, strict=True)
        ]

    def _checked(self, request: ChatRequest, outputs: Sequence[StepOutput], chat: PreparedChat) -> CompletionOutput:
        """The completion, written anew where its schema can only be checked at the end."""
        if chat.plan.recheck is None:
            return _completion(outputs, [chat.reader.read(output) for output in outputs])
        attempts = Attempts(self.engine.planner.compiler, chat.plan.recheck)
        while True:
            reply = attempts.judge([chat.reader.read(output) for output in outputs])
            if reply is not None:
                return _completion(outputs, [reply])
            request = replace(request, params=attempts.next_params(request.params))
            chat = prepare_chat(self.engine, request)
            (outputs,) = self._run([chat.prompt_ids], [request.params], [chat.plan.constraint])

    @torch.no_grad()
    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """The model's logits after each of `token_ids`, without a cache: float32 (T, V).

        Raises:
            RequestError: no tokens, tokens outside the vocabulary, or more than the model's context.
        """
        config = self.engine.decoder.config
        ids = _checked_ids(token_ids)
        if not 1 <= len(ids) <= config.max_positions:
            raise RequestError(
                f"token_ids holds {len(ids)} tokens; give 1 to {config.max_positions}", field="token_ids"
            )
        if min(ids) < 0 or max(ids) >= config.vocab_size:
            raise RequestError(f"token_ids must be from 0 to {config.vocab_size - 1}", field="token_ids")
        device = next(self.engine.decoder.parameters()).device
        batch = RowBatch.single(torch.tensor(ids, device=device))
        return self.engine.decoder.logits(self.engine.decoder(batch))

    def _to_ids(self, prompt: object) -> list[int]:
        if not isinstance(prompt, str):
            return _checked_ids(prompt)
        tokenizer = self.engine.tokenizer
        start = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
        return start + tokenizer.encode(prompt)

    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        params: Sequence[SamplingParams],
        constraints: Sequence[Constraint] | None = None,
    ) -> list[list[StepOutput]]:
        """Outputs of each prompt, in the order of the prompts."""
        given: Sequence[Constraint | None] = constraints or [None] * len(prompts)
        rows = list(zip(prompts, params, given, strict=True))
        for prompt_ids, wanted, constraint in rows:
            self.engine.validate(prompt_ids, wanted, constraint=constraint)
        results: dict[str, list[StepOutput]] = {}
        try:
            for prompt_ids, wanted, constraint in rows:
                results[self.engine.add(prompt_ids, wanted, constraint=constraint)] = []
            while self.engine.has_work:
                for output in self.engine.step():
                    results[output.request_id].append(output)
        finally:
            # After Ctrl-C or a fault, what is left must not go on with the next call.
            for request_id in results:
                self.engine.abort(request_id)
        return list(results.values())


def _is_token_ids(value: object) -> TypeGuard[Sequence[int]]:
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and isinstance(value[0], int)


def _checked_ids(prompt: object) -> list[int]:
    if not isinstance(prompt, Sequence) or not all(isinstance(id_, int) for id_ in prompt):
        raise RequestError("a prompt is a text or a list of integer token ids", field="prompt")
    return list(prompt)


def _spread(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise RequestError(f"there are {count} prompts but {len(params)} params; give one for all or one each")
    return list(params)


def _conversations(messages: Sequence[MessageLike] | Sequence[Sequence[MessageLike]]) -> list[list[Message]]:
    conversations = [messages] if _is_conversation(messages) else messages
    if not all(_is_conversation(turns) for turns in conversations):
        raise RequestError("messages must be a list of messages, or a list of such lists", field="messages")
    return [[_to_message(message) for message in turns] for turns in conversations if _is_conversation(turns)]


def _is_conversation(value: object) -> TypeGuard[Sequence[MessageLike]]:
    return isinstance(value, Sequence) and bool(value) and isinstance(value[0], Message | Mapping)


def _to_message(message: MessageLike) -> Message:
    if isinstance(message, Message):
        return message
    role, content = message.get("role"), message.get("content")
    if set(message) != {"role", "content"} or not isinstance(content, str):
        raise RequestError(
            'a message given as a dict has a "role" and a "content" of text and nothing else; for tool calls, tool '
            "results and reasoning use deepground.Message",
            field="messages",
        )
    match role:
        case "system":
            return Message.system(content)
        case "user":
            return Message.user(content)
        case "assistant":
            return Message.assistant(content)
    raise RequestError(f"a message has the role {role!r}; use system, user or assistant", field="messages")


def _completion(outputs: Sequence[StepOutput], events: Sequence[ChatEvent] | None) -> CompletionOutput:
    """One result of all outputs of a request; without events, the text is what was generated."""
    last = outputs[-1]
    finish_reason = last.finish_reason
    usage = Usage(last.prompt_tokens, last.completion_tokens, prompt_cache_hit_tokens=last.cached_tokens)
    if events is None:
        reply = Message.assistant("".join(output.text for output in outputs))
    else:
        reply = assemble_reply(delta for event in events for delta in event.deltas)
        finish_reason, usage = events[-1].finish_reason, events[-1].usage or usage
    return CompletionOutput(
        text=reply.text,
        reasoning=reply.reasoning,
        tool_calls=reply.tool_calls,
        token_ids=tuple(id_ for output in outputs for id_ in output.token_ids),
        logprobs=_joined_logprobs(outputs),
        finish_reason=finish_reason or "error",
        usage=usage,
        error=last.error,
    )


def _joined_logprobs(outputs: Sequence[StepOutput]) -> tuple[TokenLogprob, ...] | None:
    parts = [output.logprobs for output in outputs if output.logprobs is not None]
    return tuple(entry for part in parts for entry in part) if parts else None
