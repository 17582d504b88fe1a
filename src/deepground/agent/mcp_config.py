"""The file that names MCP servers, in the form that other programs use too: {"mcpServers": {NAME: {...}}}.

A server is a program ("command", "args", "env", "cwd") or an address ("url", "headers"). ${NAME} and ${NAME:-default}
in texts stand for environment variables, so that keys need not be in the file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepground.errors import AgentError

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_PROGRAM = {"command", "args", "env", "cwd"}
_ADDRESS = {"url", "headers"}
_BOTH = {"type", "timeout", "disabled"}
_TYPES = {"stdio": "program", "http": "address", "streamable-http": "address", "streamableHttp": "address"}


@dataclass(frozen=True, kw_only=True)
class McpServerConfig:
    """One server."""

    name: str
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """Beside the few harmless variables that programs get anyway."""
    cwd: str | None = None
    url: str = ""
    """Of a server at an address; empty: it is a program."""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 60.0
    """For connecting, and for one call."""


def load_mcp_config(path: Path, environment: Mapping[str, str] | None = None) -> tuple[McpServerConfig, ...]:
    """The servers of a file, without those that are disabled.

    Args:
        path: the file.
        environment: what variables stand for; else this process's.

    Raises:
        AgentError: the file is missing, or an entry is wrong; names it.
    """
    environment = os.environ if environment is None else environment
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AgentError(f"The MCP servers in {path} cannot be read: {error}") from error
    servers = content.get("mcpServers") if isinstance(content, dict) else None
    if not isinstance(servers, dict):
        raise AgentError(f'{path} names no servers. Write: {{"mcpServers": {{"NAME": {{"command": "..."}}}}}}')
    read = (_server(f"{path}: mcpServers.{name}", name, entry, environment) for name, entry in servers.items())
    return tuple(server for server in read if server is not None)


def _server(place: str, name: str, entry: Any, environment: Mapping[str, str]) -> McpServerConfig | None:
    if not _NAME.fullmatch(name):
        raise AgentError(f'{place}: a name is of letters, digits, "_" and "-", and at most 40 long.')
    if not isinstance(entry, dict):
        raise AgentError(f"{place} is no object.")
    if entry.get("disabled") is True:
        return None
    kind = "address" if "url" in entry else "program"
    if _TYPES.get(entry.get("type", "stdio" if kind == "program" else "http")) != kind:
        raise AgentError(f"{place}.type is {entry.get('type')!r}. Known are stdio (with command) and http (with url).")
    unknown = set(entry) - _BOTH - (_ADDRESS if kind == "address" else _PROGRAM)
    if unknown:
        raise AgentError(f"{place}.{min(unknown)} is not known here. Remove it; what may run is a matter of --rules.")
    timeout = entry.get("timeout", 60.0)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
        raise AgentError(f"{place}.timeout must be seconds above zero.")
    if not isinstance(entry.get("args", []), list):
        raise AgentError(f"{place}.args must be a list of texts.")
    texts = {key: _text(f"{place}.{key}", entry[key], environment) for key in ("command", "cwd", "url") if key in entry}
    if not (texts.get("command") or texts.get("url", "").startswith(("http://", "https://"))):
        raise AgentError(f"{place} needs a command, or a url that begins with http:// or https://")
    return McpServerConfig(
        name=name, **texts, timeout_s=float(timeout),
        args=tuple(_text(f"{place}.args", value, environment) for value in entry.get("args", [])),
        env=_texts(f"{place}.env", entry.get("env", {}), environment),
        headers=_texts(f"{place}.headers", entry.get("headers", {}), environment),
    )  # fmt: skip


def _texts(place: str, values: Any, environment: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(values, dict):
        raise AgentError(f"{place} must be an object of texts.")
    return {key: _text(f"{place}.{key}", value, environment) for key, value in values.items()}


def _text(place: str, value: Any, environment: Mapping[str, str]) -> str:
    if not isinstance(value, str):
        raise AgentError(f"{place} must be text.")

    def replaced(match: re.Match[str]) -> str:
        found = environment.get(match[1], match[2])
        if found is None:
            raise AgentError(f"{place} needs the environment variable {match[1]}, which is not set.")
        return found

    return _VARIABLE.sub(replaced, value)
