"""From the sampling fields that several wires share to the engine's."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from deepground.errors import RequestError
from deepground.server.service import ServedModel

_SAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "loop_detection",
)
"""Fields that have the same name and meaning in `SamplingParams`."""


def given_sampling(body: BaseModel) -> dict[str, Any]:
    """The fields of a body that are given and mean the same in `SamplingParams`."""
    return {name: value for name in _SAME if (value := getattr(body, name, None)) is not None}


def to_logit_bias(biases: dict[str, float] | None) -> dict[int, float]:
    """Token ids as numbers; JSON knows only strings as keys."""
    return {int(id_): bias for id_, bias in (biases or {}).items()}


def check_max_tokens(value: int | None, model: ServedModel, *, field: str) -> int | None:
    """The same value.

    Raises:
        RequestError: it exceeds the context.
    """
    if value is not None and value > model.context_length:
        raise RequestError(
            f"Invalid {field} value, the valid range of {field} is [1, {model.context_length}]", field=field
        )
    return value
