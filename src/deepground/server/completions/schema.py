"""What a request for a completion may hold: a text to go on with, or one to fill in.

Source: DeepSeek's `create-completion` reference (fill in the middle), OpenAI's completions where DeepSeek is silent.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from deepground.server.wire import (
    MAX_CHOICES,
    MAX_PROMPTS,
    SampledRequest,
    TokenId,
    conflict,
)


def _as_prompts(prompt: Any) -> Any:
    """A list of prompts, each a text or a list of token ids; a single one is a list of one."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt and all(isinstance(part, int) for part in prompt):
        return [prompt]
    if isinstance(prompt, list):
        for part in prompt:
            if not isinstance(part, str | list):
                raise PydanticCustomError("prompt_type", "must be a text, token ids, or a list of these")
        return prompt
    raise PydanticCustomError("prompt_type", "must be a text, token ids, or a list of these")


def _text_or_ids(prompt: Any) -> str:
    return "<text>" if isinstance(prompt, str) else "<ids>"


TokenIds = Annotated[list[TokenId], Field(min_length=1)]
OnePrompt = Annotated[Annotated[str, Tag("<text>")] | Annotated[TokenIds, Tag("<ids>")], Discriminator(_text_or_ids)]
Prompts = Annotated[
    list[OnePrompt],
    Field(min_length=1, max_length=MAX_PROMPTS),
    BeforeValidator(_as_prompts, json_schema_input_type=str | TokenIds | list[str] | list[TokenIds]),
]


class CompletionRequest(SampledRequest):
    """The body of `POST /completions`."""

    refused = {"best_of": (1,), "response_format": (), "store": (False,), "metadata": ({},)}

    model: str
    """One of the ids of `GET /v1/models`."""
    prompt: Prompts
    """A text, token ids, or a list of either; each gets its own answers."""
    suffix: str | None = None
    """What comes after the text that is to be written; needs a model that can fill in."""
    echo: bool | None = None
    """True: the text begins with the prompt."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Default: what the context leaves room for."""
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    """Answers to each prompt."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """The number of most likely tokens to tell of, besides the one that was taken."""

    @model_validator(mode="after")
    def _fields_agree(self) -> CompletionRequest:
        if self.echo and self.suffix is not None:
            raise conflict("echo", "does not go with suffix: the text stands between the two")
        if self.echo and self.logprobs is not None:
            raise conflict("echo", "does not go with logprobs: those of a prompt are not computed")
        if self.echo and not all(isinstance(prompt, str) for prompt in self.prompt):
            raise conflict("echo", "needs prompts that are texts")
        if self.suffix is not None and not all(isinstance(prompt, str) for prompt in self.prompt):
            raise conflict("suffix", "needs prompts that are texts")
        if len(self.prompt) * (self.n or 1) > MAX_PROMPTS:
            raise conflict("n", f"times the number of prompts is more than {MAX_PROMPTS}")
        return self
