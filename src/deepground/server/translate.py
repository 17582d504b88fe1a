"""From the wire's request to the engine's values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepground.errors import RequestError
from deepground.messages import (
    Message,
    ReasoningPart,
    SamplingParams,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from deepground.server.schema import (
    AssistantMessage,
    ChatCompletionRequest,
    ChatMessage,
    TextContent,
    ToolMessage,
)
from deepground.server.service import ServedModel

DIRECT_ALIAS = "deepseek-chat"
"""Also names the served model, without thinking: clients of DeepSeek's API change only the base URL."""
THINKING_ALIAS = "deepseek-reasoner"
"""Also names the served model, with thinking."""


@dataclass(frozen=True, kw_only=True)
class ChatTask:
    """A chat request that has passed every check the server can make."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    params: SamplingParams
    thinking: bool
    cache_salt: str | None
    """Whose cached prefixes may be used: those of the same `user_id`, or of all who name none."""


def model_ids(model: ServedModel) -> tuple[str, ...]:
    """Every id that a request may name; the served name first."""
    ids = [model.name]
    if model.can_answer_directly:
        ids.append(DIRECT_ALIAS)
    if model.can_think:
        ids.append(THINKING_ALIAS)
    return tuple(dict.fromkeys(ids))


def to_task(request: ChatCompletionRequest, model: ServedModel) -> ChatTask:
    """Messages, tools and parameters of a request.

    Raises:
        RequestError: unknown model, or something that this model cannot do.
    """
    if request.model not in model_ids(model):
        known = ", ".join(model_ids(model))
        raise RequestError(f"Model Not Exist: {request.model!r}; this server has {known}", field="model")
    return ChatTask(
        messages=to_messages(request.messages),
        tools=_to_tools(request),
        params=_to_params(request, model),
        thinking=_wants_thinking(request, model),
        cache_salt=request.user_id or request.user,
    )


def _wants_thinking(request: ChatCompletionRequest, model: ServedModel) -> bool:
    if request.thinking is None:
        if request.model == THINKING_ALIAS:
            return True
        if request.model == DIRECT_ALIAS:
            return False
        return model.can_think
    wanted = request.thinking.type == "enabled"
    if wanted and not model.can_think:
        raise RequestError(f"{model.name} has no thinking mode; leave thinking out", field="thinking")
    if not wanted and not model.can_answer_directly:
        raise RequestError(f"{model.name} always thinks; leave thinking out", field="thinking")
    return wanted


def _to_tools(request: ChatCompletionRequest) -> tuple[Tool, ...]:
    if request.tool_choice == "none":
        return ()
    tools = []
    for position, entry in enumerate(request.tools or ()):
        function = entry.function
        parameters = function.parameters or {}
        if parameters and parameters.get("type") != "object":
            field = f"tools[{position}].function.parameters"
            raise RequestError(f"{field} must be a JSON Schema of type 'object'", field=field)
        tools.append(Tool(function.name, function.description or "", parameters))
    return tuple(tools)


def _to_params(request: ChatCompletionRequest, model: ServedModel) -> SamplingParams:
    max_tokens = request.max_tokens or request.max_completion_tokens
    if max_tokens is not None and max_tokens > model.context_length:
        field = "max_tokens" if request.max_tokens else "max_completion_tokens"
        raise RequestError(
            f"Invalid {field} value, the valid range of {field} is [1, {model.context_length}]", field=field
        )
    given = {
        name: value
        for name in (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "frequency_penalty",
            "presence_penalty",
            "repetition_penalty",
            "seed",
        )
        if (value := getattr(request, name)) is not None
    }
    return replace(
        model.default_params,
        **given,
        max_tokens=max_tokens or model.default_params.max_tokens,
        stop=tuple(request.stop or ()),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )


def to_messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The conversation as values; whether its order makes sense is the chat format's to say."""
    return tuple(_to_message(message) for message in messages)


def _to_message(message: ChatMessage) -> Message:
    text = _join(message.content)
    if isinstance(message, ToolMessage):
        return Message("tool", (ToolResultPart(message.tool_call_id, text),))
    if not isinstance(message, AssistantMessage):
        return Message(message.role, (TextPart(text),))
    reasoning = (ReasoningPart(message.reasoning_content),) if message.reasoning_content else ()
    spoken = (TextPart(text),) if text else ()
    calls = tuple(
        ToolCallPart(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()
    )
    return Message("assistant", (*reasoning, *spoken, *calls))


def _join(content: Sequence[TextContent] | None) -> str:
    return "".join(part.text for part in content or ())
