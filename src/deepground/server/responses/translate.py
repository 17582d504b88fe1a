"""From a Responses request to the engine's."""

from __future__ import annotations

import base64
import binascii
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
    Part,
    ReasoningPart,
    SamplingParams,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
)
from deepground.server.models import check_model, decide_thinking, effort_budget
from deepground.server.responses.schema import (
    OUTPUT_LOGPROBS,
    FunctionCallItem,
    FunctionOutputItem,
    InputItem,
    InputText,
    MessageItem,
    NamedResponseTool,
    ReasoningItem,
    ResponsesRequest,
    ResponseTool,
)
from deepground.server.sampling import check_max_tokens, given_sampling
from deepground.server.service import ServedModel


def to_chat_request(body: ResponsesRequest, model: ServedModel, cache_salt: str | None) -> ChatRequest:
    """Messages, tools and parameters of a request.

    Raises:
        RequestError: unknown model, or something that this model cannot do.
    """
    check_model(body.model, model)
    effort = None if body.reasoning is None else body.reasoning.effort
    wanted = None if effort is None else effort != "none"
    thinking = decide_thinking(wanted, body.model, model, field="reasoning.effort")
    tools = tuple(_to_tool(entry, place) for place, entry in enumerate(body.tools or ()))
    return ChatRequest(
        messages=to_messages(body.input, body.instructions),
        params=_to_params(body, model, budget=effort_budget(effort, model) if thinking else None),
        tools=tools,
        tool_choice=_to_choice(body) if tools else "none",
        parallel_tool_calls=body.parallel_tool_calls is not False,
        thinking=thinking,
        cache_salt=cache_salt,
    )


def _to_tool(entry: ResponseTool, place: int) -> Tool:
    parameters = entry.parameters or {}
    if parameters and parameters.get("type") != "object":
        field = f"tools[{place}].parameters"
        raise RequestError(f"{field} must be a JSON Schema of type 'object'", field=field)
    return Tool(entry.name, entry.description or "", parameters, strict=bool(entry.strict))


def _to_choice(body: ResponsesRequest) -> ToolChoice:
    if isinstance(body.tool_choice, NamedResponseTool):
        return NamedTool(body.tool_choice.name)
    return body.tool_choice or "auto"


def _to_params(body: ResponsesRequest, model: ServedModel, *, budget: int | None) -> SamplingParams:
    max_tokens = check_max_tokens(body.max_output_tokens, model, field="max_output_tokens")
    logprobs = OUTPUT_LOGPROBS in (body.include or ())
    return replace(
        model.default_params,
        **given_sampling(body),
        max_tokens=max_tokens or model.default_params.max_tokens,
        logprobs=(body.top_logprobs or 0) if logprobs else None,
        output=_to_output(body),
        thinking_budget=budget,
    )


def _to_output(body: ResponsesRequest) -> OutputFormat | None:
    wanted = None if body.text is None else body.text.format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.schema_ is None:
        return JsonObject()
    return JsonSchema(wanted.schema_, strict=wanted.strict is True)


def to_messages(items: Sequence[InputItem], instructions: str | None) -> tuple[Message, ...]:
    """The conversation as values: neighbouring items of the model's are one message.

    Raises:
        RequestError: thinking that cannot be read.
    """
    messages = [Message.system(instructions)] if instructions else []
    parts: list[Part] = []

    def close() -> None:
        if parts:
            messages.append(Message("assistant", tuple(parts)))
            parts.clear()

    for place, item in enumerate(items):
        match item:
            case ReasoningItem():
                text = _thinking(item, place)
                parts.extend([ReasoningPart(text)] if text else [])
            case FunctionCallItem():
                parts.append(ToolCallPart(item.call_id, item.name, item.arguments))
            case MessageItem(role="assistant"):
                parts.append(TextPart(_joined(item.content)))
            case FunctionOutputItem():
                close()
                messages.append(Message.tool(item.call_id, _joined(item.output)))
            case MessageItem():
                close()
                text = _joined(item.content)
                messages.append(Message.user(text) if item.role == "user" else Message.system(text))
    close()
    return tuple(messages)


def _joined(parts: Sequence[InputText]) -> str:
    return "".join(part.text for part in parts)


def _thinking(item: ReasoningItem, place: int) -> str:
    if item.content:
        return "".join(part.text for part in item.content)
    if item.encrypted_content is None:
        return ""
    try:
        return base64.b64decode(item.encrypted_content, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        field = f"input[{place}].encrypted_content"
        raise RequestError(f"{field} does not come from this server; leave the item out", field=field) from None


def sealed_thinking(text: str) -> str:
    """Thinking as `encrypted_content` carries it: encoded, so that it survives the way; it is no secret here."""
    return base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
