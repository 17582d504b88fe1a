"""What a request to the Responses API may hold. Stateless: the client sends the whole conversation each time.

Source: OpenAI's `create-response` reference; DeepSeek's is the part of it without state.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from deepground.server.chat.schema import Effort
from deepground.server.wire import (
    FUNCTION_NAME,
    MAX_MESSAGES,
    MAX_TOOLS,
    PRINTABLE,
    Wire,
    check_tools,
    conflict,
    refuse,
    word_or_object,
)

ENCRYPTED_REASONING = "reasoning.encrypted_content"
OUTPUT_LOGPROBS = "message.output_text.logprobs"


class InputText(Wire):
    """A piece of text, the person's or the model's."""

    ignored = frozenset({"annotations", "logprobs"})
    """As the model's own replies carry them; sent back they mean nothing."""

    type: Literal["input_text", "output_text", "text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if kind in ("input_image", "input_file", "input_audio", "refusal"):
            raise refuse("type", f"{kind!r} is not supported: the model reads text only")
        return data


def _as_texts(content: Any) -> Any:
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    if isinstance(content, list):
        return content
    raise PydanticCustomError("content_type", "must be a string or a list of text parts")


TextParts = Annotated[list[InputText], BeforeValidator(_as_texts, json_schema_input_type=str | list[InputText])]


class MessageItem(Wire):
    """A message of the conversation."""

    ignored = frozenset({"id", "status", "phase"})

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: TextParts


class FunctionCallItem(Wire):
    """A call that the model made."""

    ignored = frozenset({"id", "status"})

    type: Literal["function_call"]
    call_id: str = Field(min_length=1, max_length=256)
    name: str = Field(pattern=FUNCTION_NAME)
    arguments: str
    """JSON text, as the model wrote it."""


class FunctionOutputItem(Wire):
    """What a function answered."""

    ignored = frozenset({"id", "status"})

    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1, max_length=256)
    output: TextParts


class ReasoningText(Wire):
    """A piece of thinking."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Wire):
    """The model's thinking of an earlier turn, as a reply had it."""

    ignored = frozenset({"id", "status"})

    type: Literal["reasoning"]
    summary: list[ReasoningText] = Field(default_factory=list)
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    """As a reply had it, for clients that keep nothing else."""


def _item_tag(item: Any) -> str:
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "message")
    return f"<{kind}>"


InputItem = Annotated[
    Annotated[MessageItem, Tag("<message>")]
    | Annotated[FunctionCallItem, Tag("<function_call>")]
    | Annotated[FunctionOutputItem, Tag("<function_call_output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")],
    Discriminator(_item_tag),
]


def _as_items(value: Any) -> Any:
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if isinstance(value, list):
        return value
    raise PydanticCustomError("input_type", "must be a string or a list of items")


class ResponseTool(Wire):
    """A function that the model may call."""

    refused = {"defer_loading": (False,), "allowed_callers": (["direct"],)}

    type: Literal["function"]
    name: str = Field(pattern=FUNCTION_NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON Schema of the arguments, of type object; without it the function takes none."""
    strict: bool | None = None
    """True: a schema that cannot be enforced in full is refused."""

    @model_validator(mode="before")
    @classmethod
    def _only_functions(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind != "function":
            raise refuse("type", f"{kind!r} is not supported: only functions of the caller's own are")
        return data


class NamedResponseTool(Wire):
    """The choice of one function."""

    type: Literal["function"]
    name: str = Field(pattern=FUNCTION_NAME)


ResponseToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<word>")] | Annotated[NamedResponseTool, Tag("<object>")],
    Discriminator(word_or_object),
]


class TextFormat(Wire):
    """The shape of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(default=None, pattern=FUNCTION_NAME)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> TextFormat:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise conflict("schema", "goes with type json_schema, and only with it")
        return self


class TextConfig(Wire):
    """How the answer looks."""

    refused = {"verbosity": ("medium",)}

    format: TextFormat | None = None


class ReasoningConfig(Wire):
    """How the model thinks."""

    ignored = frozenset({"summary", "generate_summary"})
    """The thinking is told in full; nothing is summed up."""

    effort: Effort | None = None
    """low limits the thinking, none switches it off."""


class ResponsesRequest(Wire):
    """The body of `POST /responses`."""

    refused = {
        "background": (False,),
        "context_management": (),
        "conversation": (),
        "max_tool_calls": (),
        "moderation": (),
        "previous_response_id": (),
        "prompt": (),
        "prompt_cache_key": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "safety_identifier": (),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "truncation": ("disabled",),
    }

    model: str
    """One of the ids of `GET /v1/models`."""
    input: Annotated[
        list[InputItem],
        Field(min_length=1, max_length=MAX_MESSAGES),
        BeforeValidator(_as_items, json_schema_input_type=str | list[InputItem]),
    ]
    """The whole conversation; the server keeps none."""
    instructions: str | None = None
    """Stands before the conversation, as a system message."""
    max_output_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of the reply, thinking included. Default: what the context leaves room for."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0 is greedy."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    tools: list[ResponseTool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    """False: at most one call in a reply."""
    reasoning: ReasoningConfig | None = None
    text: TextConfig | None = None
    include: list[str] | None = Field(default=None, max_length=16)
    """`reasoning.encrypted_content` and `message.output_text.logprobs` are known."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Only with `message.output_text.logprobs` in `include`."""
    stream: bool | None = None
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    """Comes back in the reply."""
    user: str | None = Field(default=None, pattern=PRINTABLE)
    """Who asks; goes to the logs, and cached prefixes are shared within one id only."""

    @model_validator(mode="after")
    def _fields_agree(self) -> ResponsesRequest:
        for place, wanted in enumerate(self.include or ()):
            if wanted not in (ENCRYPTED_REASONING, OUTPUT_LOGPROBS):
                raise refuse(f"include[{place}]", f"{wanted!r} is not known here")
        if self.top_logprobs is not None and OUTPUT_LOGPROBS not in (self.include or ()):
            raise conflict("top_logprobs", f"is allowed only with {OUTPUT_LOGPROBS!r} in include")
        choice = self.tool_choice
        check_tools(
            [tool.name for tool in self.tools or ()],
            called=choice not in (None, "none", "auto"),
            chosen=choice.name if isinstance(choice, NamedResponseTool) else None,
        )
        return self
