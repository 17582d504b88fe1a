"""Messages, sampling parameters and usage: pure values that every room shares.

A conversation is a sequence of `Message`; a message is a role and typed parts. Identity, storage and
wire formats are other rooms' concern. Nothing here holds tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from deepground.errors import RequestError

_SEED_STRIDE = 0x9E3779B97F4A7C15
"""Apart enough that the seeds of neighbouring requests do not meet: 2**64 divided by the golden ratio."""

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "repetition", "abort", "error"]
"""Why a reply ended. "repetition": the answer went round in circles, and `SamplingParams.loop_detection` ended it."""


@dataclass(frozen=True)
class TextPart:
    """Ordinary text."""

    text: str


@dataclass(frozen=True)
class ReasoningPart:
    """The model's thinking; only assistant messages carry it."""

    text: str


@dataclass(frozen=True)
class ToolCallPart:
    """One call that the assistant asks for."""

    id: str
    name: str
    arguments: str
    """The arguments as JSON text, exactly as the model wrote them."""


@dataclass(frozen=True)
class ToolResultPart:
    """What a tool answered."""

    call_id: str
    content: str


Part = TextPart | ReasoningPart | ToolCallPart | ToolResultPart


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    parts: tuple[Part, ...]

    @classmethod
    def system(cls, text: str) -> Message:
        """A system message with one text part."""
        return cls("system", (TextPart(text),))

    @classmethod
    def user(cls, text: str) -> Message:
        """A user message with one text part."""
        return cls("user", (TextPart(text),))

    @classmethod
    def assistant(cls, text: str = "", *, reasoning: str = "", tool_calls: tuple[ToolCallPart, ...] = ()) -> Message:
        """An assistant message; empty text and reasoning leave no part."""
        parts: list[Part] = []
        if reasoning:
            parts.append(ReasoningPart(reasoning))
        if text:
            parts.append(TextPart(text))
        return cls("assistant", (*parts, *tool_calls))

    @classmethod
    def tool(cls, call_id: str, content: str) -> Message:
        """The result of one tool call."""
        return cls("tool", (ToolResultPart(call_id, content),))

    @property
    def text(self) -> str:
        """All text parts joined; for a tool message, the result's content."""
        return "".join(
            p.text if isinstance(p, TextPart) else p.content
            for p in self.parts
            if isinstance(p, TextPart | ToolResultPart)
        )

    @property
    def reasoning(self) -> str:
        """All reasoning parts joined."""
        return "".join(p.text for p in self.parts if isinstance(p, ReasoningPart))

    @property
    def tool_calls(self) -> tuple[ToolCallPart, ...]:
        """The calls that this message asks for, in order."""
        return tuple(p for p in self.parts if isinstance(p, ToolCallPart))


@dataclass(frozen=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """JSON Schema of the arguments; empty means that there are none."""
    strict: bool = False
    """The arguments must fit `parameters` exactly: a schema that cannot be enforced in full is refused. Otherwise a
    call is still always valid JSON and of a known tool, and fits as much of the schema as can be enforced."""


@dataclass(frozen=True)
class NamedTool:
    """The choice of one tool: the reply is a call of it."""

    name: str


ToolChoice = Literal["none", "auto", "required"] | NamedTool
"""none: the reply has no calls; auto: the model decides; required: at least one call, of any tool."""


@dataclass(frozen=True)
class ReasoningDelta:
    """More thinking."""

    text: str


@dataclass(frozen=True)
class TextDelta:
    """More of the answer."""

    text: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A new tool call (`name` is set) or more of its arguments (`name` is None)."""

    index: int
    """Position of the call within the message, from 0."""
    name: str | None
    arguments: str
    """A piece of the JSON text; the pieces of one index concatenate to the whole."""


Delta = ReasoningDelta | TextDelta | ToolCallDelta


@dataclass(frozen=True)
class Usage:
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    """Completion tokens spent inside the thinking block."""
    prompt_cache_hit_tokens: int = 0
    """Prompt tokens that did not have to be computed, because the prefix cache had them."""

    @property
    def prompt_cache_miss_tokens(self) -> int:
        """Prompt tokens that were computed."""
        return self.prompt_tokens - self.prompt_cache_hit_tokens

    @property
    def total_tokens(self) -> int:
        """Prompt plus completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probability of one generated token and of its strongest rivals."""

    token_id: int
    token: str
    """The token's own text; bytes that are not valid UTF-8 show as U+FFFD."""
    bytes: bytes
    logprob: float
    """Natural logarithm, of the distribution after penalties and before temperature or filtering."""
    top: tuple[TokenLogprob, ...] = ()
    """The most likely tokens, best first, as many as were asked for; each without its own `top`."""


@dataclass(frozen=True)
class JsonObject:
    """The answer is one JSON object, of any content."""


@dataclass(frozen=True)
class JsonSchema:
    """The answer is one JSON value that fits a schema.

    Raises:
        RequestError: the schema is neither an object nor a boolean.
    """

    schema: Mapping[str, Any] | bool = field(hash=False)
    """JSON Schema; drafts 4 to 2020-12."""
    strict: bool = True
    """True: a keyword that cannot be enforced while the answer is written is refused. False: the answer is checked
    against the whole schema at its end, and written anew, up to a limit, if it does not fit."""

    def __post_init__(self) -> None:
        if not isinstance(self.schema, Mapping | bool):
            raise RequestError("a JSON Schema is an object or a boolean", field="output")


@dataclass(frozen=True)
class Pattern:
    """The answer as a whole matches a regular expression, without look-around or back-references."""

    regex: str


@dataclass(frozen=True)
class Choices:
    """The answer is exactly one of some texts.

    Raises:
        RequestError: there is no text, or one is empty.
    """

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.texts or not all(self.texts):
            raise RequestError("a choice needs at least one text, and none may be empty", field="output")


OutputFormat = JsonObject | JsonSchema | Pattern | Choices
"""What the answer must look like. It binds the answer alone: the thinking before it is free."""

LoopDetection = Literal["off", "thinking", "all"]
"""Where endless repetition is looked for. In the thinking it ends the thinking; in the answer it ends the reply."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen and when to stop.

    Raises:
        RequestError: a value is out of range; the error names the field.
    """

    max_tokens: int | None = None
    """Most tokens to generate, thinking included; None means what the context leaves room for."""
    temperature: float = 1.0
    """0 means greedy. Range 0 to 2."""
    top_k: int = 0
    """Keep only the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches this. Range above 0 to 1."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one. Range 0 to 1."""
    frequency_penalty: float = 0.0
    """Subtracted from a logit once for each time its token was generated. Range -2 to 2."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of all generated tokens. Range -2 to 2."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of prompt and generated tokens. Range above 0 to 2."""
    seed: int | None = None
    """Same seed, prompt and parameters give the same tokens, whatever else runs beside."""
    stop: tuple[str, ...] = ()
    """Generation ends before the first of these strings; it is not part of the text."""
    stop_token_ids: tuple[int, ...] = ()
    """Generation ends at any of these tokens, besides the model's own end tokens."""
    ignore_eos: bool = False
    """Go on after the model's own end tokens; for benchmarks."""
    logprobs: int | None = None
    """None: none. k: log-probability of each token and of the k most likely ones. Range 0 to 20."""
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """Added to the logits of these token ids before anything else. Range -100 to 100; -100 forbids a token."""
    output: OutputFormat | None = None
    """What the answer must look like, enforced token by token. An answer that is cut off by `max_tokens` ends with
    "length" and is incomplete."""
    thinking_budget: int | None = None
    """Most tokens of thinking; then the thinking is closed as the chat format closes it, and the answer begins. None:
    no limit but `max_tokens`. Needs a chat format with thinking; without one there is nothing to limit."""
    loop_detection: LoopDetection = "thinking"
    """Whether a reply that repeats itself without end is stopped, and where."""

    def __post_init__(self) -> None:
        self._check_range("temperature", self.temperature, 0, 2)
        self._check_range("top_p", self.top_p, 0, 1, low_open=True)
        self._check_range("min_p", self.min_p, 0, 1)
        self._check_range("frequency_penalty", self.frequency_penalty, -2, 2)
        self._check_range("presence_penalty", self.presence_penalty, -2, 2)
        self._check_range("repetition_penalty", self.repetition_penalty, 0, 2, low_open=True)
        if self.max_tokens is not None and self.max_tokens < 1:
            raise RequestError(f"max_tokens is {self.max_tokens}; it must be at least 1", field="max_tokens")
        if self.top_k < 0:
            raise RequestError(f"top_k is {self.top_k}; it must be 0 (off) or more", field="top_k")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise RequestError("seed must fit in a signed 64-bit integer", field="seed")
        if self.logprobs is not None:
            self._check_range("logprobs", self.logprobs, 0, 20)
        if any(not s for s in self.stop):
            raise RequestError("stop must not hold an empty string", field="stop")
        if any(not math.isfinite(bias) or abs(bias) > 100 for bias in self.logit_bias.values()):
            raise RequestError("logit_bias holds a bias outside -100 to 100", field="logit_bias")
        if self.thinking_budget is not None and self.thinking_budget < 0:
            raise RequestError(
                f"thinking_budget is {self.thinking_budget}; it must be 0 or more", field="thinking_budget"
            )
        if self.loop_detection not in ("off", "thinking", "all"):
            raise RequestError(
                f"loop_detection is {self.loop_detection!r}; choose off, thinking or all", field="loop_detection"
            )

    def for_choice(self, index: int) -> SamplingParams:
        """These parameters for answer number `index` of several to the same prompt: the same but for the seed.

        The first answer is the one that would be given alone.
        """
        if self.seed is None or index == 0:
            return self
        seed = (self.seed + index * _SEED_STRIDE + 2**63) % 2**64 - 2**63
        return replace(self, seed=seed)

    @staticmethod
    def _check_range(name: str, value: float, low: float, high: float, *, low_open: bool = False) -> None:
        inside = (low < value if low_open else low <= value) and value <= high
        if not math.isfinite(value) or not inside:
            bounds = f"{'above' if low_open else 'from'} {low:g} to {high:g}"
            raise RequestError(f"{name} is {value}; the valid range is {bounds}", field=name)
