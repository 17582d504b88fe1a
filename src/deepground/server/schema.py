"""What a chat request may hold: every field, its type and its range.

Source: DeepSeek's `create-chat-completion` reference, OpenAI's where DeepSeek is silent. A field that
is known but cannot be honoured yet is listed in its class's `refused`: its value is let through only if
it asks for nothing; every other value is an error that names it. A field that nobody knows is an error
as well. `docs/reference/api.md` is the same table for readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

NOT_SUPPORTED = "not_supported_yet"
"""Pydantic error type of a known field or value that this version refuses."""

_UNICODE_NAME = r"^[^\x00-\x1f\x7f]{1,512}$"
_FUNCTION_NAME = r"^[a-zA-Z0-9_-]{1,64}$"


def refuse(field: str, why: str) -> PydanticCustomError:
    """The error for a known field or value that is not supported yet.

    Args:
        field: the field's name within its object; empty when the object itself is meant.
        why: ends the sentence that begins with the field's path.
    """
    return PydanticCustomError(NOT_SUPPORTED, "{why}", {"field": field, "why": why})


class Wire(BaseModel):
    """Base of everything that a client sends: strict types, no unknown fields."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Known fields that are not supported yet -> values that ask for nothing (null always does)."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name in data.keys() & cls.refused.keys():
            value, harmless = data[name], cls.refused[name]
            if value is not None and not any(type(value) is type(h) and value == h for h in harmless):
                raise refuse(name, "is not supported yet by this version; leave it out")
        return {name: value for name, value in data.items() if name not in cls.refused}


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

    refused = {"name": ()}

    role: Literal["system"]
    content: Content


class UserMessage(Wire):
    """What the person says."""

    refused = {"name": ()}

    role: Literal["user"]
    content: Content


class CalledFunction(Wire):
    """The function of a tool call in the history."""

    name: str = Field(pattern=_FUNCTION_NAME)
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
    """What the model said earlier, as a reply's `message` has it."""

    refused = {
        "name": (),
        "prefix": (False,),
        "refusal": (),
        "annotations": ([],),
        "audio": (),
        "function_call": (),
    }

    role: Literal["assistant"]
    content: OptionalContent = None
    """May be null or missing beside `tool_calls` or `reasoning_content`."""
    reasoning_content: str | None = None
    """The thinking of that turn; the chat format decides which turns keep it, as DeepSeek's does."""
    tool_calls: list[CallInHistory] | None = Field(default=None, max_length=128)

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        if self.content is None and not self.tool_calls and self.reasoning_content is None:
            raise PydanticCustomError(
                "empty_message", "needs content, tool_calls or reasoning_content", {"field": "content"}
            )
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

    refused = {"strict": (False,)}

    name: str = Field(pattern=_FUNCTION_NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema of the arguments, of type object; without it the function takes none."""


class FunctionTool(Wire):
    """One entry of `tools`."""

    type: Literal["function"]
    function: Function


class Thinking(Wire):
    """DeepSeek's switch for the thinking mode."""

    type: Literal["enabled", "disabled"]


class StreamOptions(Wire):
    """What a stream carries besides its deltas."""

    refused = {"include_obfuscation": (False,)}

    include_usage: bool | None = None
    """True: one more chunk before `[DONE]`, with the usage and no choices."""


class ResponseFormat(Wire):
    """The shape of the answer; only free text so far."""

    type: Literal["text"]

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("type") in ("json_object", "json_schema"):
            raise refuse("type", f"{data['type']!r} is not supported yet by this version; use 'text'")
        return data


def _as_list(stop: Any) -> Any:
    if isinstance(stop, str):
        return [stop]
    if stop is None or isinstance(stop, list):
        return stop
    raise PydanticCustomError("stop_type", "must be a string or a list of strings")


StopString = Annotated[str, Field(min_length=1)]
StopList = Annotated[list[StopString], Field(max_length=16)]
Stop = Annotated[StopList | None, BeforeValidator(_as_list, json_schema_input_type=StopString | StopList | None)]


def _only_free_choice(choice: Any) -> Any:
    if choice == "required" or isinstance(choice, dict):
        raise refuse("", "is supported as 'none' or 'auto' only; forcing a call is not supported yet")
    return choice


ToolChoice = Annotated[Literal["none", "auto"] | None, BeforeValidator(_only_free_choice)]


class ChatCompletionRequest(Wire):
    """The body of `POST /v1/chat/completions`."""

    refused = {
        "audio": (),
        "best_of": (1,),
        "function_call": (),
        "functions": ([],),
        "logit_bias": ({},),
        "metadata": ({},),
        "modalities": (["text"],),
        "moderation": (),
        "n": (1,),
        "parallel_tool_calls": (True,),
        "prediction": (),
        "prompt_cache_key": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "reasoning_effort": (),
        "safety_identifier": (),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "verbosity": (),
        "web_search_options": (),
    }

    model: str
    """One of the ids of `GET /v1/models`."""
    messages: list[ChatMessage] = Field(min_length=1)
    """The whole conversation; the server keeps none."""
    thinking: Thinking | None = None
    """Default: as the model id says, otherwise enabled if the model can think."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of the reply, thinking included. Default: what the context leaves room for."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """OpenAI's newer name of `max_tokens`."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0 is greedy."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """Keep the k most likely tokens; 0 keeps all."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=2)
    """1 is off."""
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stop = None
    """At most 16 strings; the answer ends before the first of them."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    """Only with `stream`."""
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Only with `logprobs`."""
    tools: list[FunctionTool] | None = Field(default=None, min_length=1, max_length=128)
    tool_choice: ToolChoice = None
    """`none` hides the tools from the model. Default: `auto` with tools."""
    response_format: ResponseFormat | None = None
    user_id: str | None = Field(default=None, pattern=r"^[a-zA-Z0-9_-]{1,512}$")
    """Who asks; goes to the request log, and cached prefixes are shared within one id only."""
    user: str | None = Field(default=None, pattern=_UNICODE_NAME)
    """OpenAI's name of `user_id`."""

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatCompletionRequest:
        def conflict(field: str, message: str) -> PydanticCustomError:
            return PydanticCustomError("conflict", "{why}", {"field": field, "why": message})

        if self.stream_options is not None and not self.stream:
            raise conflict("stream_options", "is allowed only with stream: true")
        if self.top_logprobs is not None and not self.logprobs:
            raise conflict("top_logprobs", "is allowed only with logprobs: true")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise conflict("max_completion_tokens", "differs from max_tokens; send one of them")
        if len({self.user, self.user_id} - {None}) > 1:
            raise conflict("user", "differs from user_id; send one of them")
        names = [tool.function.name for tool in self.tools or ()]
        if len(names) != len(set(names)):
            raise conflict("tools", "holds two functions of the same name")
        return self
