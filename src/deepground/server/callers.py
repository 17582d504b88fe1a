"""Who asks, what the caller may do, and where keys are looked up."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fastapi import Request

KeyScope = Literal["all", "api", "metrics"]
"""What a key opens: everything; everything but the metrics, which tell of other keys; the metrics alone."""


@dataclass(frozen=True, kw_only=True)
class KeyLimits:
    """What one key may ask for; None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Computed prompt tokens and generated tokens; cached prompt tokens are free."""
    max_concurrent: int | None = None
    """Requests under way at one time."""
    token_budget: int | None = None
    """Tokens in the key's whole life, counted as above; then requests are told 402."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Whoever sent a request."""

    id: str
    """What logs and metrics call the caller; never the key."""
    tenant: str = ""
    """Callers of one tenant may share cached prefixes."""
    scope: KeyScope = "all"
    limits: KeyLimits = field(default_factory=KeyLimits)
    tokens_used: int = 0
    """Of the budget."""


LOCAL = Caller(id="local")
"""Everyone, where there are no keys."""


class KeyRing(Protocol):
    """Knows the keys."""

    def find(self, presented: str) -> Caller | None:
        """The caller with this key; None if there is none, or no longer."""
        ...

    def spend(self, caller: Caller, tokens: int) -> None:
        """Count tokens against the caller's budget."""
        ...

    def cache_salt(self, caller: Caller, user: str | None) -> str | None:
        """Whose cached prefixes a request may use: only those with the same salt."""
        ...


class SingleKey:
    """One key for everyone, as `--api-key` gives it. Only its hash is kept."""

    def __init__(self, key: str) -> None:
        self._hash = key_hash(key)
        self._caller = Caller(id="api-key")

    def find(self, presented: str) -> Caller | None:
        """As `KeyRing` has it."""
        return self._caller if hmac.compare_digest(key_hash(presented), self._hash) else None

    def spend(self, caller: Caller, tokens: int) -> None:
        """There is no budget."""

    def cache_salt(self, caller: Caller, user: str | None) -> str | None:
        """One tenant; its users are kept apart as far as it names them."""
        return user


class KeyRings:
    """Several key rings as one; the first that knows a key decides."""

    def __init__(self, rings: list[KeyRing]) -> None:
        self._rings = rings

    def find(self, presented: str) -> Caller | None:
        """As `KeyRing` has it."""
        found = [ring.find(presented) for ring in self._rings]
        return next((caller for caller in found if caller is not None), None)

    def spend(self, caller: Caller, tokens: int) -> None:
        """As `KeyRing` has it."""
        for ring in self._rings:
            ring.spend(caller, tokens)

    def cache_salt(self, caller: Caller, user: str | None) -> str | None:
        """The first ring's that has something to say."""
        return next((salt for ring in self._rings if (salt := ring.cache_salt(caller, user)) is not None), None)


def key_hash(key: str) -> bytes:
    """SHA-256. A slow hash is for passwords that people choose; keys are random."""
    return hashlib.sha256(key.encode("utf-8", "backslashreplace")).digest()


def caller_of(request: Request) -> Caller:
    """Who sent a request; `AccessControl` has written it down."""
    caller = request.scope["state"]["caller"]
    assert isinstance(caller, Caller)
    return caller
