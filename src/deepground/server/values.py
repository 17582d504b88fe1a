"""Small pieces that the replies of several wires share."""

from __future__ import annotations

from typing import Any

from deepground.errors import EngineError, RequestAbortedError
from deepground.messages import FinishReason, TokenLogprob, Usage

Json = dict[str, Any]

NO_LOGPROB = -9999.0
"""DeepSeek's floor: JSON has no minus infinity."""


def usage_json(usage: Usage) -> Json:
    """Token counts; the cached ones once as DeepSeek's API has them and once as OpenAI's."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_cache_hit_tokens": usage.prompt_cache_hit_tokens,
        "prompt_cache_miss_tokens": usage.prompt_cache_miss_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.prompt_cache_hit_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def checked_finish(reason: FinishReason | None) -> FinishReason:
    """The same reason, if the reply ended by itself.

    Raises:
        EngineError: it did not.
    """
    match reason:
        case None:
            raise EngineError("the reply broke off without a reason")
        case "abort":
            raise RequestAbortedError("it was aborted before it finished")
        case "error":
            raise EngineError("the reply could not be finished")
    return reason


def finish_json(reason: FinishReason) -> Json:
    """`finish_reason` in DeepSeek's words; a reply that was ended for going round in circles counts as cut off.

    Raises:
        EngineError: the reply did not end by itself, so there is no word for it.
    """
    checked = checked_finish(reason)
    if checked == "repetition":
        return {"finish_reason": "length", "stop_reason": "repetition"}
    return {"finish_reason": checked}


def logprob_json(token: TokenLogprob) -> Json:
    """A token, its log-probability, and its strongest rivals'."""
    return {**_candidate_json(token), "top_logprobs": [_candidate_json(rival) for rival in token.top]}


def _candidate_json(token: TokenLogprob) -> Json:
    return {"token": token.token, "logprob": max(token.logprob, NO_LOGPROB), "bytes": list(token.bytes)}


def total(usages: list[Usage], *, prompts: int = 1) -> Usage:
    """The usage of several answers: what was generated adds up, a prompt that they share counts once.

    Args:
        usages: of each answer; those of one prompt stand together.
        prompts: how many prompts there were.
    """
    if not usages:
        return Usage(0, 0)
    firsts = usages[:: max(1, len(usages) // prompts)]
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in firsts),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        prompt_cache_hit_tokens=sum(usage.prompt_cache_hit_tokens for usage in firsts),
    )
