"""Which calls may run: rules by tool and argument, and the person who is asked where the rules say so.

Rules are read in order and the last that matches decides, except that a deny is final. What no rule matches is asked
about; where nobody can be asked, it is denied. Rules steer attention; the sandbox is what holds a hostile command.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from deepground.errors import AgentError

Action = Literal["allow", "ask", "deny"]
_COMPOUND = re.compile(r"[;&|<>`\n\r]|\$\(|\$\{")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule.

    Raises:
        AgentError: the action is none.
    """

    tool: str
    """Name of a tool; * and ? stand for anything."""
    match: str = "*"
    """Pattern for the call's approval text (for a shell: the command)."""
    action: Action

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise AgentError(f"A rule's action is {self.action!r}; it must be allow, ask or deny.")

    def matches(self, tool: str, text: str) -> bool:
        """Whether it speaks about this call."""
        if not fnmatch.fnmatchcase(tool, self.tool):
            return False
        if self.match == "*":
            return True
        if self.action == "allow":
            # "git *" must not let "git status; rm -rf ." pass: a compound command is allowed only as written.
            return self.match == text or (not _COMPOUND.search(text) and fnmatch.fnmatchcase(text, self.match))
        # A deny or ask of "rm *" speaks about each part of a compound command.
        parts = [text, *(part.strip() for part in re.split(r"[;&|\n\r`()]+", text))]
        return any(fnmatch.fnmatchcase(part, self.match) for part in parts)


HOUSE_RULES = (
    Rule(tool="mcp__*", action="ask"),
    Rule(tool="view_file", match="*.env*", action="ask"),
)
"""Before the user's own: tools of other servers run outside the sandbox."""


def decide(rules: Sequence[Rule], tool: str, text: str, *, default: Action = "ask") -> Action:
    """What the rules say about a call."""
    action = default
    for rule in rules:
        if rule.matches(tool, text):
            if rule.action == "deny":
                return "deny"
            action = rule.action
    return action


def load_rules(path: Path) -> tuple[Rule, ...]:
    """Rules from a JSON file: {"rules": [{"tool": ..., "match": ..., "action": ...}]}.

    Raises:
        AgentError: the file is missing or a rule is wrong; the text names it.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise AgentError(f"The rules in {path} cannot be read: {error}") from error
    rules = content.get("rules") if isinstance(content, dict) else None
    if not isinstance(rules, list):
        raise AgentError(f'{path} holds no rules. Write: {{"rules": [{{"tool": "shell", "action": "ask"}}]}}')
    return tuple(_rule(path, number, rule) for number, rule in enumerate(rules))


def _rule(path: Path, number: int, rule: Any) -> Rule:
    if not isinstance(rule, dict) or not {"tool", "action"} <= set(rule) <= {"tool", "match", "action"}:
        raise AgentError(f"{path}: rules[{number}] needs tool and action, and may have match; nothing else.")
    if not all(isinstance(value, str) for value in rule.values()):
        raise AgentError(f"{path}: rules[{number}] has a value that is not text.")
    return Rule(**rule)


@dataclass(frozen=True, kw_only=True)
class ApprovalRequest:
    """A call that the rules want somebody to look at."""

    call_id: str
    tool: str
    arguments: Mapping[str, Any]
    text: str
    """What the rules matched against."""


class Human(Protocol):
    """Who is asked; may take as long as a person does."""

    def approve(self, request: ApprovalRequest) -> bool:
        """Whether the call may run."""
        ...

    def answer(self, call_id: str, question: str, options: Sequence[str]) -> str | None:
        """The answer to a question of the model; None: nobody is there."""
        ...


class Nobody:
    """Headless: nothing is approved that rules do not allow, and no question is answered. Never waits."""

    def approve(self, request: ApprovalRequest) -> bool:
        """See `Human`."""
        del request
        return False

    def answer(self, call_id: str, question: str, options: Sequence[str]) -> str | None:
        """See `Human`."""
        del call_id, question, options
        return None
