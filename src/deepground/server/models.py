"""Which model ids a request may name, and what each says about thinking."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException

from deepground.errors import RequestError
from deepground.server.callers import Caller
from deepground.server.service import ServedModel

DIRECT_ALIAS = "deepseek-chat"
"""Also names the served model, without thinking: clients of DeepSeek's API change only the base URL."""
THINKING_ALIAS = "deepseek-reasoner"
"""Also names the served model, with thinking."""

_LOW_EFFORT_TOKENS = 2048
"""Most tokens of thinking at low effort, where the context is large."""


def model_ids(model: ServedModel) -> tuple[str, ...]:
    """Every id that a request may name; the served name first."""
    ids = [model.name]
    if model.can_answer_directly:
        ids.append(DIRECT_ALIAS)
    if model.can_think:
        ids.append(THINKING_ALIAS)
    return tuple(dict.fromkeys(ids))


def check_model(name: str, model: ServedModel, *, status: int = 400) -> None:
    """Refuse an id that this server does not have.

    Raises:
        RequestError: the id is unknown.
        HTTPException: the same, if another status than 400 is wanted.
    """
    if name not in model_ids(model):
        message = f"Model Not Exist: {name!r}; this server has {', '.join(model_ids(model))}"
        if status != 400:
            raise HTTPException(status, message)
        raise RequestError(message, field="model")


def thinks_by_default(name: str, model: ServedModel) -> bool:
    """Whether a request that says nothing about thinking gets it: as the id says, else on if the model can."""
    if name in (THINKING_ALIAS, DIRECT_ALIAS):
        return name == THINKING_ALIAS
    return model.can_think


def decide_thinking(wanted: bool | None, name: str, model: ServedModel, *, field: str) -> bool:
    """Whether the model thinks.

    Args:
        wanted: what the request says; None: nothing.
        name: the id in the request.
        model: what is served.
        field: the field that said so, for the error.

    Raises:
        RequestError: the model cannot do what is wanted.
    """
    if wanted is None:
        return thinks_by_default(name, model)
    if wanted and not model.can_think:
        raise RequestError(f"{model.name} has no thinking mode; leave {field} out", field=field)
    if not wanted and not model.can_answer_directly:
        raise RequestError(f"{model.name} always thinks; leave {field} out", field=field)
    return wanted


def effort_budget(effort: str | None, model: ServedModel) -> int | None:
    """Most tokens of thinking at an effort; None: no limit. Only the low efforts limit it.

    A quarter of the context at the most, so that an answer always finds room.
    """
    return min(_LOW_EFFORT_TOKENS, model.context_length // 4) if effort in ("minimal", "low") else None


def models_json(model: ServedModel) -> dict[str, Any]:
    """The list of models."""
    return {"object": "list", "data": [model_json(name, model) for name in model_ids(model)]}


def model_json(name: str, model: ServedModel) -> dict[str, Any]:
    """One entry of the list."""
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "deepground",
        "context_length": model.context_length,
    }


def balance_json(caller: Caller) -> dict[str, Any]:
    """DeepSeek's balance, which here is free of charge, and the budget of tokens, if the caller has one."""
    budget = caller.limits.token_budget
    nothing = "0.00"
    answer: dict[str, Any] = {
        "is_available": budget is None or caller.tokens_used < budget,
        "balance_infos": [
            {
                "currency": "USD",
                "total_balance": nothing,
                "granted_balance": nothing,
                "topped_up_balance": nothing,
            }
        ],
    }
    if budget is not None:
        used = min(caller.tokens_used, budget)
        answer["token_budget"] = {"total": budget, "used": used, "remaining": budget - used}
    return answer
