"""From Anthropic's request to the engine's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from deepground.engine import ChatRequest
from deepground.errors import RequestError
from deepground.messages import (
    JsonSchema,
    Message,
    NamedTool,
    Part,
    ReasoningPart,
    SamplingParams,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
)
from deepground.server.anthropic.schema import (
    AnthropicTool,
    AssistantTurn,
    CountTokensRequest,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    Turn,
)
from deepground.server.models import THINKING_ALIAS, decide_thinking, effort_budget, model_ids
from deepground.server.sampling import check_max_tokens, given_sampling
from deepground.server.service import ServedModel


def to_chat_request(body: CountTokensRequest, model: ServedModel, cache_salt: str | None = None) -> ChatRequest:
    """Messages, tools and parameters of a request; of one that is only counted, parameters of no effect.

    Raises:
        RequestError: something that this model cannot do.
    """
    thinking = _wants_thinking(body, model)
    tools = tuple(_to_tool(entry, place) for place, entry in enumerate(body.tools or ()))
    choice = body.tool_choice
    params = _to_params(body, model, thinking=thinking) if isinstance(body, MessagesRequest) else SamplingParams()
    return ChatRequest(
        messages=to_messages(body.messages, body.system),
        params=params,
        tools=tools,
        tool_choice=_to_choice(body) if tools else "none",
        parallel_tool_calls=choice is None or not choice.disable_parallel_tool_use,
        thinking=thinking,
        continue_last=isinstance(body.messages[-1], AssistantTurn),
        cache_salt=cache_salt,
    )


def _wants_thinking(body: CountTokensRequest, model: ServedModel) -> bool:
    if body.thinking is not None:
        return decide_thinking(body.thinking.type != "disabled", body.model, model, field="thinking")
    always = not model.can_answer_directly
    return always or (body.model == THINKING_ALIAS and THINKING_ALIAS in model_ids(model))


def _to_tool(entry: AnthropicTool, place: int) -> Tool:
    if entry.input_schema and entry.input_schema.get("type") != "object":
        field = f"tools[{place}].input_schema"
        raise RequestError(f"{field} must be a JSON Schema of type 'object'", field=field)
    return Tool(entry.name, entry.description or "", entry.input_schema, strict=bool(entry.strict))


def _to_choice(body: CountTokensRequest) -> ToolChoice:
    match body.tool_choice:
        case None:
            return "auto"
        case choice if choice.name is not None:
            return NamedTool(choice.name)
        case choice:
            words: dict[str, ToolChoice] = {"any": "required", "none": "none"}
            return words.get(choice.type, "auto")


def _to_params(body: MessagesRequest, model: ServedModel, *, thinking: bool) -> SamplingParams:
    config = body.output_config
    budget = None
    if thinking:
        budget = None if body.thinking is None else body.thinking.budget_tokens
        if budget is None and config is not None:
            budget = effort_budget(config.effort, model)
    return replace(
        model.default_params,
        **given_sampling(body),
        max_tokens=check_max_tokens(body.max_tokens, model, field="max_tokens"),
        stop=tuple(body.stop_sequences or ()),
        output=None if config is None or config.format is None else JsonSchema(config.format.schema_, strict=False),
        thinking_budget=budget,
    )


def to_messages(turns: Sequence[Turn], system: Sequence[TextBlock] | None) -> tuple[Message, ...]:
    """The conversation as values. Results of tools become messages of their own, before the text beside them."""
    messages = [Message.system("\n\n".join(block.text for block in system))] if system else []
    for turn in turns:
        messages += _assistant(turn) if isinstance(turn, AssistantTurn) else _user(turn.content)
    return tuple(messages)


def _assistant(turn: AssistantTurn) -> list[Message]:
    parts: list[Part] = []
    for block in turn.content:
        match block:
            case ThinkingBlock():
                parts.append(ReasoningPart(block.thinking))
            case TextBlock():
                parts.append(TextPart(block.text))
            case _:
                parts.append(ToolCallPart(block.id, block.name, json.dumps(block.input, ensure_ascii=False)))
    return [Message("assistant", tuple(parts))]


def _user(blocks: Sequence[TextBlock | ToolResultBlock]) -> Iterator[Message]:
    for block in blocks:
        if isinstance(block, ToolResultBlock):
            text = "\n".join(part.text for part in block.content or ())
            yield Message.tool(block.tool_use_id, f"Error: {text}" if block.is_error else text)
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    if texts:
        yield Message.user("\n\n".join(texts))
