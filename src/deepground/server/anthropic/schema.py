"""What a request to Anthropic's Messages API may hold.

Source: Anthropic's `messages` reference, and DeepSeek's guide to its own Anthropic-compatible API, which names the
fields that are accepted without effect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from deepground.server.wire import (
    FUNCTION_NAME,
    MAX_MESSAGES,
    MAX_STOP_LENGTH,
    MAX_STOPS,
    MAX_TOOLS,
    PRINTABLE,
    Wire,
    by_type,
    check_tools,
    conflict,
    refuse,
)

_UNREADABLE = {
    "image": "the model reads text only",
    "document": "the model reads text only; send the text itself",
    "search_result": "send its text instead",
    "container_upload": "there are no containers here",
    "redacted_thinking": "there is nothing in it that this server could read; leave it out",
    "server_tool_use": "tools that the server runs are not offered",
    "web_search_tool_result": "tools that the server runs are not offered",
    "code_execution_tool_result": "tools that the server runs are not offered",
    "mcp_tool_use": "tools that the server runs are not offered",
    "mcp_tool_result": "tools that the server runs are not offered",
}
"""Block types that the API has and this server refuses, and what to tell the client."""


class Block(Wire):
    """Base of content blocks."""

    ignored = frozenset({"cache_control", "citations"})

    @model_validator(mode="before")
    @classmethod
    def _only_readable(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind in _UNREADABLE:
            raise refuse("type", f"{kind!r} is not supported: {_UNREADABLE[kind]}")
        return data


class TextBlock(Block):
    """Text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(Block):
    """The model's thinking of an earlier turn, as a reply had it."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None
    """Not needed: nothing is signed here."""


class ToolUseBlock(Block):
    """A call that the model made."""

    ignored = frozenset({"cache_control", "caller"})
    refused = {"toolset_name": ()}

    type: Literal["tool_use"]
    id: str = Field(min_length=1, max_length=256)
    name: str = Field(pattern=FUNCTION_NAME)
    input: dict[str, Any]


def _as_blocks(content: Any) -> Any:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is None or isinstance(content, list):
        return content
    raise PydanticCustomError("content_type", "must be a string or a list of content blocks")


def _tag(value: Any) -> str | None:
    """As `by_type`; block types that are refused go to the text block, whose check names them."""
    tag = by_type(value)
    return "<text>" if tag is not None and tag.strip("<>") in _UNREADABLE else tag


Texts = Annotated[list[TextBlock], BeforeValidator(_as_blocks, json_schema_input_type=str | list[TextBlock])]


class ToolResultBlock(Block):
    """What a tool answered."""

    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1, max_length=256)
    content: Texts | None = None
    is_error: bool | None = None
    """The model is told, before the content."""


UserBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")] | Annotated[ToolResultBlock, Tag("<tool_result>")], Discriminator(_tag)
]
AssistantBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")],
    Discriminator(_tag),
]
UserContent = Annotated[
    list[UserBlock], Field(min_length=1), BeforeValidator(_as_blocks, json_schema_input_type=str | list[UserBlock])
]
AssistantContent = Annotated[
    list[AssistantBlock], BeforeValidator(_as_blocks, json_schema_input_type=str | list[AssistantBlock])
]


class UserTurn(Wire):
    """What the person says, or what tools answered."""

    role: Literal["user"]
    content: UserContent


class AssistantTurn(Wire):
    """What the model said; as the last message, the beginning of what it is to say."""

    role: Literal["assistant"]
    content: AssistantContent


Turn = Annotated[UserTurn | AssistantTurn, Field(discriminator="role")]


class AnthropicTool(Wire):
    """A function that the model may call."""

    ignored = frozenset({"cache_control", "eager_input_streaming"})
    refused = {"allowed_callers": (["direct"],), "defer_loading": (False,), "input_examples": ([],)}

    type: Literal["custom"] | None = None
    name: str = Field(pattern=FUNCTION_NAME)
    description: str | None = None
    input_schema: dict[str, Any]
    """JSON Schema of the arguments, of type object."""
    strict: bool | None = None
    """True: a schema that cannot be enforced in full is refused."""

    @model_validator(mode="before")
    @classmethod
    def _only_custom(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind != "custom":
            raise refuse("type", f"{kind!r} is not supported: tools that the server runs or knows are not offered")
        return data


class AnthropicToolChoice(Wire):
    """Whether, and which, tools are called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(default=None, pattern=FUNCTION_NAME)
    """Only, and always, with `tool`."""
    disable_parallel_tool_use: bool | None = None
    """True: at most one call in a reply."""

    @model_validator(mode="after")
    def _fields_agree(self) -> AnthropicToolChoice:
        if (self.type == "tool") != (self.name is not None):
            raise conflict("name", "goes with type tool, and only with it")
        return self


class AnthropicThinking(Wire):
    """The switch of the thinking, and its limit."""

    ignored = frozenset({"display"})

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(default=None, ge=1, le=2**31 - 1)
    """Most tokens of thinking; then it is closed and the answer begins."""

    @model_validator(mode="after")
    def _fields_agree(self) -> AnthropicThinking:
        if self.type != "enabled" and self.budget_tokens is not None:
            raise conflict("budget_tokens", "is allowed only with type: enabled")
        return self


class OutputFormatSchema(Wire):
    """The shape of the answer."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Wire):
    """How much effort to make, and the shape of the answer."""

    refused = {"task_budget": ()}

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    """`low` limits the thinking."""
    format: OutputFormatSchema | None = None


class Metadata(Wire):
    """Who asks."""

    user_id: str | None = Field(default=None, pattern=PRINTABLE)


class CountTokensRequest(Wire):
    """The body of `POST /messages/count_tokens`: a request without its limits."""

    ignored = frozenset({"cache_control", "container", "mcp_servers", "service_tier"})
    refused = {"context_management": (), "speed": ("standard",)}

    model: str = Field(min_length=1, max_length=256)
    """One of the ids of `GET /v1/models`; any other name means the served model, as in DeepSeek's API."""
    messages: list[Turn] = Field(min_length=1, max_length=MAX_MESSAGES)
    system: Texts | None = None
    tools: list[AnthropicTool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: AnthropicToolChoice | None = None
    thinking: AnthropicThinking | None = None
    """Default: off, unless the model always thinks."""
    output_config: OutputConfig | None = None

    @model_validator(mode="after")
    def _tools_agree(self) -> CountTokensRequest:
        choice = self.tool_choice
        check_tools(
            [tool.name for tool in self.tools or ()],
            called=choice is not None and choice.type in ("any", "tool"),
            chosen=None if choice is None else choice.name,
        )
        return self


class MessagesRequest(CountTokensRequest):
    """The body of `POST /messages`."""

    ignored = CountTokensRequest.ignored | {"inference_geo"}
    refused = {**CountTokensRequest.refused, "diagnostics": (), "user_profile_id": (), "workspace_id": ()}

    max_tokens: int = Field(ge=1)
    """Most tokens of the reply, thinking included."""
    stop_sequences: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]], Field(max_length=MAX_STOPS)]
        | None
    ) = None
    """The answer ends before the first of them."""
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0 is greedy."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """Keep the k most likely tokens; 0 keeps all."""
    metadata: Metadata | None = None
    """`user_id` goes to the logs, and cached prefixes are shared within one id only."""

    @model_validator(mode="after")
    def _budget_fits(self) -> MessagesRequest:
        budget = None if self.thinking is None else self.thinking.budget_tokens
        if budget is not None and budget >= self.max_tokens:
            raise conflict("max_tokens", "must be greater than thinking.budget_tokens")
        return self
