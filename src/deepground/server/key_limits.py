"""Limits of single keys: requests and tokens per minute, requests at one time, tokens in all."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException

from deepground.server.callers import Caller, KeyLimits


class Bucket:
    """Fills at a steady rate up to one minute's worth; what is taken may leave it in debt.

    Args:
        per_minute: its size, and what flows in during a minute.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self._size = float(per_minute)
        self._level = float(per_minute)
        self._filled_at = now

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `amount` is in it; 0 if it is."""
        self._fill(now)
        return max(0.0, (amount - self._level) / self._size * 60)

    def take(self, amount: float, now: float) -> None:
        """Take some out, even if it is not there."""
        self._fill(now)
        self._level -= amount

    def _fill(self, now: float) -> None:
        self._level = min(self._size, self._level + (now - self._filled_at) * self._size / 60)
        self._filled_at = now


@dataclass
class _Account:
    limits: KeyLimits
    requests: Bucket | None
    tokens: Bucket | None
    under_way: int = field(default=0)


class KeyLimiter:
    """Keeps every caller within its limits; belongs to one event loop."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def enter(self, caller: Caller) -> None:
        """Take on one request of the caller; `leave` must follow.

        Tokens are charged when they are known, so a request may go beyond the limit; the next one waits for it.

        Raises:
            HTTPException: 402 or 429, the latter with the seconds after which the same request would be let in.
        """
        now = time.monotonic()
        account = self._account(caller, now)
        limits = caller.limits
        if limits.token_budget is not None and caller.tokens_used >= limits.token_budget:
            raise HTTPException(402, f"Insufficient Balance: the key's budget of {limits.token_budget} tokens is used")
        if limits.max_concurrent is not None and account.under_way >= limits.max_concurrent:
            raise _too_many(f"{account.under_way} requests of this key are under way, its limit", 1)
        if account.requests is not None and (wait_s := account.requests.wait_s(1, now)) > 0:
            raise _too_many(f"the key's limit is {limits.requests_per_minute} requests per minute", wait_s)
        if account.tokens is not None and (wait_s := account.tokens.wait_s(1, now)) > 0:
            raise _too_many(f"the key's limit is {limits.tokens_per_minute} tokens per minute", wait_s)
        if account.requests is not None:
            account.requests.take(1, now)
        account.under_way += 1

    def leave(self, caller: Caller, tokens: int) -> None:
        """A request has been answered, and has cost so many tokens."""
        now = time.monotonic()
        account = self._account(caller, now)
        account.under_way -= 1
        if account.tokens is not None:
            account.tokens.take(tokens, now)

    def _account(self, caller: Caller, now: float) -> _Account:
        account = self._accounts.get(caller.id)
        if account is None or account.limits != caller.limits:
            limits = caller.limits
            account = self._accounts[caller.id] = _Account(
                limits,
                Bucket(limits.requests_per_minute, now) if limits.requests_per_minute else None,
                Bucket(limits.tokens_per_minute, now) if limits.tokens_per_minute else None,
                under_way=account.under_way if account else 0,
            )
        return account


def _too_many(why: str, wait_s: float) -> HTTPException:
    seconds = max(1, math.ceil(wait_s))
    return HTTPException(
        429, f"Rate limit reached: {why}; try again in {seconds} s", headers={"retry-after": str(seconds)}
    )
