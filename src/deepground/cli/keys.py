"""`deepground keys`: who may use a server, and how much."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from deepground.server import KeyRecord, KeyStore

keys = typer.Typer(help="Make, list and revoke API keys; check the audit log.", no_args_is_help=True)


class Scope(StrEnum):
    """What a key opens."""

    API = "api"
    METRICS = "metrics"
    ALL = "all"


KeysFile = Annotated[
    Path,
    typer.Option("--keys", envvar="DEEPGROUND_KEYS", help="The file of keys, as given to `deepground serve --keys`."),
]
_DEFAULT = Path("deepground-keys.db")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="What people call the key: a person, a team, a program.")],
    file: KeysFile = _DEFAULT,
    tenant: Annotated[
        str | None, typer.Option(help="Keys of one tenant share cached prefixes; else the key has its own.")
    ] = None,
    scope: Annotated[Scope, typer.Option(help="What it opens: the API, the metrics, or all.")] = Scope.API,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Most requests in a minute.")] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Most computed prompt and generated tokens in a minute.")
    ] = None,
    max_concurrent: Annotated[int | None, typer.Option(min=1, help="Most requests at one time.")] = None,
    token_budget: Annotated[int | None, typer.Option(min=1, help="Most tokens in the key's whole life.")] = None,
    days: Annotated[float | None, typer.Option(min=0.001, help="Days until it expires; else never.")] = None,
) -> None:
    """Make a key. It is shown once; the file keeps only its hash."""
    from deepground.server import KeyLimits, KeyStore

    store = KeyStore(file)
    key, record = store.create(
        name,
        tenant=tenant,
        scope=scope.value,
        limits=KeyLimits(
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            max_concurrent=max_concurrent,
            token_budget=token_budget,
        ),
        expires=None if days is None else time.time() + days * 86400,
    )
    typer.echo(key)
    typer.echo(f"key {record.id} for {record.name}, in {file}; it cannot be shown again", err=True)
    store.close()


@keys.command(name="list")
def list_keys(
    file: KeysFile = _DEFAULT, as_json: Annotated[bool, typer.Option("--json", help="As JSON lines.")] = False
) -> None:
    """Show all keys, without the keys themselves."""
    records = _existing(file).list()
    if as_json:
        for record in records:
            typer.echo(json.dumps(_as_json(record)))
        return
    table = Table("id", "name", "status", "opens", "tenant", "last used", "tokens", "limits", box=None)
    for record in records:
        table.add_row(
            record.id,
            record.name,
            record.status,
            record.scope,
            record.tenant,
            "never" if record.last_used is None else _day(record.last_used),
            f"{record.tokens_used:,}",
            _limits(record),
        )
    Console().print(table)


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name or id of the key.")],
    file: KeysFile = _DEFAULT,
) -> None:
    """Make a key useless; a running server knows at the next request."""
    record = _existing(file).revoke(name)
    typer.echo(f"revoked key {record.id} of {record.name}")


@keys.command(name="check-log")
def check_log(file: Annotated[Path, typer.Argument(help="The file of `deepground serve --audit-log`.")]) -> None:
    """Check that no line of an audit log was changed, removed or put in later."""
    from deepground.server import verify_audit

    typer.echo(f"{file}: {verify_audit(file)} entries, each following from the one before")


def _existing(file: Path) -> KeyStore:
    from deepground.errors import KeyStoreError
    from deepground.server import KeyStore

    if not file.is_file():
        raise KeyStoreError(f"there is no file of keys {file}; `deepground keys create` makes it, --keys names another")
    return KeyStore(file)


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")


def _limits(record: KeyRecord) -> str:
    limits = record.limits
    parts = {
        "requests/min": limits.requests_per_minute,
        "tokens/min": limits.tokens_per_minute,
        "at once": limits.max_concurrent,
        "tokens in all": limits.token_budget,
    }
    return ", ".join(f"{value:,} {name}" for name, value in parts.items() if value is not None) or "none"


def _as_json(record: KeyRecord) -> dict[str, object]:
    return {
        **{name: value for name, value in vars(record).items() if name != "limits"},
        **vars(record.limits),
        "status": record.status,
    }
