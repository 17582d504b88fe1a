"""What all request bodies share: strict types, known fields, and how a field that cannot be honoured is refused.

A field is either honoured or refused. One that is known but cannot be honoured is listed in its class's `refused`:
its value is let through only if it asks for nothing; every other value is an error that names it. A field that
nobody knows is an error as well. The one exception is a wire whose own documentation says that it ignores a field:
such fields stand in the class's `ignored`, and the reference page lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

NOT_SUPPORTED = "not_supported_yet"
"""Pydantic error type of a known field or value that this version refuses."""

FUNCTION_NAME = r"^[a-zA-Z0-9_-]{1,64}$"
PRINTABLE = r"^[^\x00-\x1f\x7f]{1,512}$"
USER_ID = r"^[a-zA-Z0-9_-]{1,512}$"

MAX_MESSAGES = 2048
MAX_TOOLS = 128
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_CHOICES = 16
"""Answers to one request; they are computed side by side."""
MAX_BIASED_TOKENS = 1024
MAX_PROMPTS = 64
"""Prompts of one request for completions."""


def refuse(field: str, why: str) -> PydanticCustomError:
    """The error for a known field or value that is not supported.

    Args:
        field: the field's name within its object; empty when the object itself is meant.
        why: ends the sentence that begins with the field's path.
    """
    return PydanticCustomError(NOT_SUPPORTED, "{why}", {"field": field, "why": why})


def conflict(field: str, why: str) -> PydanticCustomError:
    """The error for a field that does not go with the others.

    Args:
        field: the field's name within its object.
        why: ends the sentence that begins with the field's path.
    """
    return PydanticCustomError("conflict", "{why}", {"field": field, "why": why})


class Wire(BaseModel):
    """Base of everything that a client sends: strict types, no unknown fields."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Known fields that are not supported -> values that ask for nothing (null always does)."""
    ignored: ClassVar[frozenset[str]] = frozenset()
    """Fields that the wire's own documentation says are accepted without effect."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name in data.keys() & cls.refused.keys():
            value, harmless = data[name], cls.refused[name]
            if value is not None and not any(type(value) is type(h) and value == h for h in harmless):
                raise refuse(name, "is not supported by this server; leave it out")
        return {name: value for name, value in data.items() if name not in cls.refused and name not in cls.ignored}


def _as_list(stop: Any) -> Any:
    if isinstance(stop, str):
        return [stop]
    if stop is None or isinstance(stop, list):
        return stop
    raise PydanticCustomError("stop_type", "must be a string or a list of strings")


StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
StopList = Annotated[list[StopString], Field(max_length=MAX_STOPS)]
Stop = Annotated[StopList | None, BeforeValidator(_as_list, json_schema_input_type=StopString | StopList | None)]
"""Strings that the text ends before."""

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
BiasKey = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
LogitBias = Annotated[
    dict[BiasKey, Annotated[float, Field(ge=-100, le=100)]] | None, Field(max_length=MAX_BIASED_TOKENS)
]
"""Token ids, as JSON writes an object's keys, and what is added to their logits."""
Seed = Annotated[int | None, Field(ge=-(2**63), lt=2**63)]


def by_type(value: Any) -> str | None:
    """Discriminator of objects that say what they are in `type`; the tags are `<type>`, which error paths leave out."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>" if isinstance(kind, str) else None


def word_or_object(value: Any) -> str:
    """Discriminator of a field that is either a word or an object."""
    return "<word>" if isinstance(value, str) else "<object>"


class StreamOptions(Wire):
    """What a stream carries besides its deltas."""

    refused = {"include_obfuscation": (False,)}

    include_usage: bool | None = None
    """True: one more chunk before `[DONE]`, with the usage and no choices."""


class SampledRequest(Wire):
    """What requests for chats and for completions share: how tokens are drawn, streams, and who asks."""

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
    logit_bias: LogitBias = None
    """Token ids and what is added to their logits; -100 forbids a token."""
    seed: Seed = None
    stop: Stop = None
    """At most 16 strings; the answer ends before the first of them."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    """Only with `stream`."""
    user_id: str | None = Field(default=None, pattern=USER_ID)
    """Who asks; goes to the logs, and cached prefixes are shared within one id only."""
    user: str | None = Field(default=None, pattern=PRINTABLE)
    """OpenAI's name of `user_id`."""

    @model_validator(mode="after")
    def _shared_fields_agree(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise conflict("stream_options", "is allowed only with stream: true")
        if len({self.user, self.user_id} - {None}) > 1:
            raise conflict("user", "differs from user_id; send one of them")
        return self


def check_tools(names: Sequence[str], *, called: bool, chosen: str | None) -> None:
    """Refuse tools of one name, and a choice that cannot be met.

    Args:
        names: of the tools.
        called: the choice asks for a call.
        chosen: the one tool that it picks.

    Raises:
        PydanticCustomError: names the field.
    """
    if len(names) != len(set(names)):
        raise conflict("tools", "holds two functions of the same name")
    if called and not names:
        raise conflict("tool_choice", "asks for a call, but there are no tools")
    if chosen is not None and chosen not in names:
        raise conflict("tool_choice", f"names {chosen!r}, which is not among the tools")
