"""API keys in a file: created and revoked by the command line, looked up by the server.

A SQLite file, because two programs use it at the same time: what the command line changes is seen at the next request.
Of a key only its SHA-256 is kept; the key itself is shown once, when it is made.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepground.errors import KeyStoreError
from deepground.server.callers import Caller, KeyLimits, KeyScope, key_hash

PREFIX = "dg-"
"""What every key begins with, so that secret scanners can find keys that leak."""

_VERSION = 1
_TABLES = """
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    hash BLOB NOT NULL,
    tenant TEXT NOT NULL,
    scope TEXT NOT NULL,
    created REAL NOT NULL,
    expires REAL,
    revoked REAL,
    last_used REAL,
    requests_per_minute INTEGER,
    tokens_per_minute INTEGER,
    max_concurrent INTEGER,
    token_budget INTEGER,
    tokens_used INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
"""


@dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """What is known of one key."""

    id: str
    name: str
    tenant: str
    scope: KeyScope
    created: float
    """Unix time, as the next three."""
    expires: float | None
    revoked: float | None
    last_used: float | None
    limits: KeyLimits
    tokens_used: int

    @property
    def status(self) -> str:
        """active, expired or revoked."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= time.time() else "active"


class KeyStore:
    """The keys of one file.

    Args:
        path: the file; it is made, readable by its owner only, if it does not exist.

    Raises:
        KeyStoreError: the file cannot be used, or is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            # One connection, used by one thread at a time: the command line's, or the server's event loop.
            self._db = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise KeyStoreError(f"{path} cannot be used as a file of API keys: {error}") from None

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("BEGIN IMMEDIATE")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in filter(str.strip, _TABLES.split(";")):
                self._db.execute(statement)
            self._db.execute("INSERT INTO secrets VALUES ('cache salt', ?)", (secrets.token_bytes(32),))
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        self._db.execute("COMMIT")
        if version not in (0, _VERSION):
            raise KeyStoreError(f"{self.path} was written by another version of deepground (format {version})")
        (self._salt,) = self._db.execute("SELECT value FROM secrets WHERE name = 'cache salt'").fetchone()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def create(
        self,
        name: str,
        *,
        tenant: str | None = None,
        scope: KeyScope = "api",
        limits: KeyLimits | None = None,
        expires: float | None = None,
    ) -> tuple[str, KeyRecord]:
        """Make a key.

        Args:
            name: what people call it.
            tenant: who shares cached prefixes; None: nobody.
            scope: what it opens.
            limits: see `KeyLimits`.
            expires: Unix time.

        Returns:
            The key, which cannot be seen again, and its record.

        Raises:
            KeyStoreError: the name is taken.
        """
        limits = limits or KeyLimits()
        id_ = secrets.token_hex(4)
        key = f"{PREFIX}{id_}-{secrets.token_urlsafe(32)}"
        try:
            self._db.execute(
                "INSERT INTO keys (id, name, hash, tenant, scope, created, expires, requests_per_minute, "
                "tokens_per_minute, max_concurrent, token_budget) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    id_, name, key_hash(key), tenant or f"key {id_}", scope, time.time(), expires,
                    limits.requests_per_minute, limits.tokens_per_minute, limits.max_concurrent, limits.token_budget,
                ),
            )  # fmt: skip
        except sqlite3.IntegrityError:
            raise KeyStoreError(f"there is a key named {name!r} already; choose another name") from None
        except sqlite3.Error as error:
            raise KeyStoreError(f"{self.path}: the key was not saved: {error}") from None
        return key, self.get(id_)

    def list(self) -> Sequence[KeyRecord]:
        """All keys, the oldest first."""
        return [_record(row) for row in self._db.execute("SELECT * FROM keys ORDER BY created, id")]

    def get(self, name: str) -> KeyRecord:
        """One key by its name or id.

        Raises:
            KeyStoreError: there is none.
        """
        row = self._db.execute("SELECT * FROM keys WHERE id = ? OR name = ?", (name, name)).fetchone()
        if row is None:
            raise KeyStoreError(f"there is no key {name!r}; `deepground keys list` shows them")
        return _record(row)

    def revoke(self, name: str) -> KeyRecord:
        """Make a key useless from the next request on.

        Raises:
            KeyStoreError: there is none, or the file cannot be written.
        """
        record = self.get(name)
        try:
            self._db.execute("UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", (time.time(), record.id))
        except sqlite3.Error as error:
            raise KeyStoreError(f"{self.path}: the key was not revoked: {error}") from None
        return self.get(record.id)

    def find(self, presented: str) -> Caller | None:
        """The caller with this key; None if there is none, or no longer.

        The id in the key finds the row; what is secret is compared in constant time.
        """
        id_ = presented.removeprefix(PREFIX).partition("-")[0]
        row = self._db.execute("SELECT * FROM keys WHERE id = ?", (id_.encode("utf-8", "replace").decode(),)).fetchone()
        known = bytes(32) if row is None else row["hash"]
        if not hmac.compare_digest(key_hash(presented), known) or row is None:
            return None
        record = _record(row)
        if record.status != "active":
            return None
        return Caller(
            id=record.name,
            tenant=record.tenant,
            scope=record.scope,
            limits=record.limits,
            tokens_used=record.tokens_used,
        )

    def spend(self, caller: Caller, tokens: int) -> None:
        """Count tokens against the caller's budget, and note that the key was used."""
        self._db.execute(
            "UPDATE keys SET tokens_used = tokens_used + ?, last_used = ? WHERE name = ?",
            (tokens, time.time(), caller.id),
        )

    def cache_salt(self, caller: Caller, user: str | None) -> str | None:
        """A name for tenant and user that nobody can choose, because a secret of this file goes into it."""
        who = f"{caller.tenant}\0{user or ''}".encode()
        return hmac.digest(self._salt, who, hashlib.sha256).hex()


def _record(row: sqlite3.Row) -> KeyRecord:
    return KeyRecord(
        id=row["id"],
        name=row["name"],
        tenant=row["tenant"],
        scope=row["scope"],
        created=row["created"],
        expires=row["expires"],
        revoked=row["revoked"],
        last_used=row["last_used"],
        limits=KeyLimits(
            requests_per_minute=row["requests_per_minute"],
            tokens_per_minute=row["tokens_per_minute"],
            max_concurrent=row["max_concurrent"],
            token_budget=row["token_budget"],
        ),
        tokens_used=row["tokens_used"],
    )
