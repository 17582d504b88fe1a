"""What a chat request may hold: every field, its type and its range.

Source: DeepSeek's `create-chat-completion` reference, OpenAI's where DeepSeek is silent. `docs/reference/api.md` is
the same table for readers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from deepground.server.wire import (
    FUNCTION_NAME,
    MAX_CHOICES,
    MAX_MESSAGES,
    MAX_TOOLS,
    SampledRequest,
    Wire,
    check_tools,
    conflict,
    refuse,
    word_or_object,
)

Name = Annotated[str | None, Field(pattern=r"^[^\x00-\x1f\x7f]{1,64}$")]
"""Tells people of one role apart: the model sees it before the message, as `name: `."""


class TextContent(Wire):
    """A text part of a message."""

    type: Literal["text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, data: Any) -> Any:
        other = {"image_url", "input_audio", "file", "refusal", "image", "document"}
        if isinstance(data, dict) and isinstance(data.get("type"), str) and data["type"] in other:
            raise refuse("type", f"{data['type']!r} is not supported: the model reads text only")
        return data


def _as_parts(content: Any) -> Any:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is None or isinstance(content, list):
        return content
    raise PydanticCustomError("content_type", "must be a string or a list of text parts")


Content = Annotated[list[TextContent], BeforeValidator(_as_parts, json_schema_input_type=str | list[TextContent])]
OptionalContent = Annotated[
    list[TextContent] | None, BeforeValidator(_as_parts, json_schema_input_type=str | list[TextContent] | None)
]


class SystemMessage(Wire):
    """Instructions for the whole conversation."""

    role: Literal["system"]
    content: Content
    name: Name = None


class UserMessage(Wire):
    """What the person says."""

    role: Literal["user"]
    content: Content
    name: Name = None


class CalledFunction(Wire):
    """The function of a tool call in the history."""

    name: str = Field(pattern=FUNCTION_NAME)
    arguments: str
    """JSON text, as the model wrote it."""


class CallInHistory(Wire):
    """A tool call that the assistant made earlier."""

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = Field(default=None, ge=0)
    """As DeepSeek's replies carry it; the order of the list decides."""


class AssistantMessage(Wire):
    """What the model said earlier, as a reply's `message` has it; or the beginning of what it is to say."""

    refused = {"refusal": (), "annotations": ([],), "audio": (), "function_call": ()}

    role: Literal["assistant"]
    content: OptionalContent = None
    """May be null or missing beside `tool_calls` or `reasoning_content`."""
    name: Name = None
    prefix: bool | None = None
    """True, on the last message: the reply goes on from here, and holds only what is new."""
    reasoning_content: str | None = None
    """The thinking of that turn; the chat format decides which turns keep it, as DeepSeek's does."""
    tool_calls: list[CallInHistory] | None = Field(default=None, max_length=128)

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        if self.content is None and not self.tool_calls and self.reasoning_content is None:
            raise PydanticCustomError(
                "empty_message", "needs content, tool_calls or reasoning_content", {"field": "content"}
            )
        if self.prefix and self.tool_calls:
            raise conflict("prefix", "cannot be combined with tool_calls")
        return self


class ToolMessage(Wire):
    """The result of one tool call."""

    refused = {"name": ()}

    role: Literal["tool"]
    content: Content
    tool_call_id: str = Field(min_length=1, max_length=256)


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Wire):
    """A function that the model may call."""

    name: str = Field(pattern=FUNCTION_NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema of the arguments, of type object; without it the function takes none."""
    strict: bool | None = None
    """True: a schema that cannot be enforced in full is refused, and the arguments always fit it."""


class FunctionTool(Wire):
    """One entry of `tools`."""

    type: Literal["function"]
    function: Function


class NamedFunction(Wire):
    """The function that a named choice picks."""

    name: str = Field(pattern=FUNCTION_NAME)


class NamedToolChoice(Wire):
    """The choice of one function: the reply is a call of it."""

    type: Literal["function"]
    function: NamedFunction


ToolChoiceField = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<word>")] | Annotated[NamedToolChoice, Tag("<object>")],
    Discriminator(word_or_object),
]


class Thinking(Wire):
    """DeepSeek's switch for the thinking mode, and this server's limits on it."""

    type: Literal["enabled", "disabled"]
    budget_tokens: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """Most tokens of thinking; then it is closed and the answer begins. This server's own field."""
    language: str | None = Field(default=None, pattern=r"^[^\x00-\x1f\x7f]{1,64}$")
    """The name of the language to think in, a hint to the model. This server's own field."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Thinking:
        for name in ("budget_tokens", "language"):
            if self.type == "disabled" and getattr(self, name) is not None:
                raise conflict(name, "is allowed only with type: enabled")
        return self


class JsonSchemaFormat(Wire):
    """OpenAI's description of a JSON answer."""

    name: str = Field(pattern=FUNCTION_NAME)
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    """JSON Schema of the answer; without it any object will do."""
    strict: bool | None = None
    """True: a keyword that cannot be enforced while the answer is written is refused. Otherwise it is checked at the
    end, and the answer is written anew if it does not fit."""


class ResponseFormat(Wire):
    """The shape of the answer; the thinking before it is free."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    """Only, and always, with `json_schema`."""

    @model_validator(mode="after")
    def _fields_agree(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise conflict("json_schema", "goes with type json_schema, and only with it")
        return self


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""DeepSeek's low, high and max; the other names are OpenAI's: minimal counts as low, medium and xhigh as high."""


class ChatCompletionRequest(SampledRequest):
    """The body of `POST /chat/completions`."""

    refused = {
        "audio": (),
        "best_of": (1,),
        "function_call": (),
        "functions": ([],),
        "metadata": ({},),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "prompt_cache_key": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "safety_identifier": (),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "verbosity": (),
        "web_search_options": (),
    }

    model: str
    """One of the ids of `GET /v1/models`."""
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    """The whole conversation; the server keeps none."""
    thinking: Thinking | None = None
    """Default: as the model id says, otherwise enabled if the model can think."""
    reasoning_effort: Effort | None = None
    """How long to think: low limits it, high and max do not, none switches it off."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of the reply, thinking included. Default: what the context leaves room for."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """OpenAI's newer name of `max_tokens`."""
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    """Number of answers."""
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Only with `logprobs`."""
    tools: list[FunctionTool] | None = Field(default=None, min_length=1, max_length=MAX_TOOLS)
    tool_choice: ToolChoiceField | None = None
    """Default: `auto` with tools, `none` without. `none` hides the tools from the model."""
    parallel_tool_calls: bool | None = None
    """False: at most one call in a reply."""
    response_format: ResponseFormat | None = None
    loop_detection: Literal["off", "thinking", "all"] | None = None
    """Where endless repetition is looked for and ended. This server's own field; default: thinking."""

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatCompletionRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise conflict("top_logprobs", "is allowed only with logprobs: true")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise conflict("max_completion_tokens", "differs from max_tokens; send one of them")
        choice = self.tool_choice
        check_tools(
            [tool.function.name for tool in self.tools or ()],
            called=choice not in (None, "none", "auto"),
            chosen=choice.function.name if isinstance(choice, NamedToolChoice) else None,
        )
        for place, message in enumerate(self.messages[:-1]):
            if isinstance(message, AssistantMessage) and message.prefix:
                raise conflict(f"messages[{place}].prefix", "is allowed on the last message only")
        return self
