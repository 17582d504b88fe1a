"""From the wire's chat request to the engine's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deepground.engine import ChatRequest
from deepground.errors import RequestError
from deepground.messages import (
    JsonObject,
    JsonSchema,
    Message,
    NamedTool,
    OutputFormat,
    ReasoningPart,
    SamplingParams,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from deepground.server.chat.schema import (
    AssistantMessage,
    ChatCompletionRequest,
    ChatMessage,
    FunctionTool,
    NamedToolChoice,
    TextContent,
    ToolMessage,
)
from deepground.server.models import check_model, decide_thinking, effort_budget
from deepground.server.sampling import check_max_tokens, given_sampling, to_logit_bias
from deepground.server.service import ServedModel


def to_chat_request(body: ChatCompletionRequest, model: ServedModel, cache_salt: str | None) -> ChatRequest:
    """Messages, tools and parameters of a request.

    Raises:
        RequestError: unknown model, or something that this model cannot do.
    """
    check_model(body.model, model)
    thinking = _wants_thinking(body, model)
    tools = to_tools(body.tools or ())
    last = body.messages[-1]
    request = ChatRequest(
        messages=to_messages(body.messages),
        params=_to_params(body, model, thinking=thinking),
        tools=tools,
        tool_choice=_to_choice(body) if tools else "none",
        parallel_tool_calls=body.parallel_tool_calls is not False,
        thinking=thinking,
        thinking_language=body.thinking.language if body.thinking else None,
        continue_last=isinstance(last, AssistantMessage) and bool(last.prefix),
        cache_salt=cache_salt,
    )
    _check_history(body, request, model)
    return request


def _wants_thinking(body: ChatCompletionRequest, model: ServedModel) -> bool:
    effort = body.reasoning_effort
    wanted = None if body.thinking is None else body.thinking.type == "enabled"
    if wanted is not None:
        thinking = decide_thinking(wanted, body.model, model, field="thinking")
    else:
        thinking = decide_thinking(False if effort == "none" else None, body.model, model, field="reasoning_effort")
    if thinking and effort == "none":
        raise RequestError("reasoning_effort is 'none', but thinking is enabled", field="reasoning_effort")
    if not thinking and effort not in (None, "none"):
        raise RequestError(
            "reasoning_effort needs the thinking mode, which is off in this request; enable thinking, or leave it out",
            field="reasoning_effort",
        )
    return thinking


def _check_history(body: ChatCompletionRequest, request: ChatRequest, model: ServedModel) -> None:
    """DeepSeek's rules for a history: thinking of every turn beside tools, "json" somewhere for JSON mode.

    Raises:
        RequestError: names the message.
    """
    if request.thinking and request.tools and model.thinks_with_tools:
        for place, message in enumerate(body.messages):
            if isinstance(message, AssistantMessage) and message.reasoning_content is None:
                raise RequestError(
                    f"Missing reasoning_content field in the assistant message at message index {place}: with tools, "
                    "send every assistant message back as it came (an empty string if there was no thinking)",
                    field=f"messages[{place}].reasoning_content",
                )
    if body.response_format is not None and body.response_format.type == "json_object":
        asked = any("json" in m.text.lower() for m in request.messages if m.role in ("system", "user"))
        if not asked:
            raise RequestError(
                "Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'",
                field="messages",
            )


def to_tools(entries: Sequence[FunctionTool]) -> tuple[Tool, ...]:
    """The functions that the model may call.

    Raises:
        RequestError: parameters that are no schema of an object.
    """
    tools = []
    for position, entry in enumerate(entries):
        function = entry.function
        parameters = function.parameters or {}
        if parameters and parameters.get("type") != "object":
            field = f"tools[{position}].function.parameters"
            raise RequestError(f"{field} must be a JSON Schema of type 'object'", field=field)
        tools.append(Tool(function.name, function.description or "", parameters, strict=bool(function.strict)))
    return tuple(tools)


def _to_choice(body: ChatCompletionRequest) -> ToolChoice:
    if isinstance(body.tool_choice, NamedToolChoice):
        return NamedTool(body.tool_choice.function.name)
    return body.tool_choice or "auto"


def _to_params(body: ChatCompletionRequest, model: ServedModel, *, thinking: bool) -> SamplingParams:
    field = "max_tokens" if body.max_tokens else "max_completion_tokens"
    max_tokens = check_max_tokens(body.max_tokens or body.max_completion_tokens, model, field=field)
    budget = None
    if thinking:
        budget = body.thinking.budget_tokens if body.thinking else None
        budget = effort_budget(body.reasoning_effort, model) if budget is None else budget
    return replace(
        model.default_params,
        **given_sampling(body),
        max_tokens=max_tokens or model.default_params.max_tokens,
        stop=tuple(body.stop or ()),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        logit_bias=to_logit_bias(body.logit_bias),
        output=_to_output(body),
        thinking_budget=budget,
    )


def _to_output(body: ChatCompletionRequest) -> OutputFormat | None:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    described = wanted.json_schema
    if described is None or described.schema_ is None:
        return JsonObject()
    return JsonSchema(described.schema_, strict=described.strict is True)


def to_messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The conversation as values; whether its order makes sense is the chat format's to say."""
    return tuple(_to_message(message) for message in messages)


def _to_message(message: ChatMessage) -> Message:
    text = _join(message.content)
    if isinstance(message, ToolMessage):
        return Message("tool", (ToolResultPart(message.tool_call_id, text),))
    if message.name and text:
        text = f"{message.name}: {text}"
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
