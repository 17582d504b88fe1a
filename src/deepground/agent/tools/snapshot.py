"""What a workspace was like when a run began: for the diff of the run, and to see what was changed.

Files of text are kept whole, within bounds; of the others their size and time. In a Git repository, what it ignores is
left out. The repository itself is asked for that in the sandbox, since its settings may name programs to start.
"""

from __future__ import annotations

import difflib
import gzip
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from deepground.agent.tools.protocol import ToolContext, ToolFailure
from deepground.agent.tools.workspace import Workspace
from deepground.sandbox import Limits, Sandbox

Change = Literal["new", "changed", "removed"]

_FILE = "before.json.gz"
_LEFT_OUT = {
    ".git", ".hg", ".svn", "__pycache__", "node_modules", ".venv", "venv", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", ".tox",
}  # fmt: skip
_MOST_FILES = 20_000
_MOST_BYTES = 64 * 2**20
_LARGEST = 2**20
_MOST_LINES = 20_000


class Snapshot:
    """The beginning of one run, kept beside its record."""

    def __init__(self, workspace: Workspace, sandbox: Sandbox) -> None:
        self._workspace = workspace
        self._sandbox = sandbox
        self._before: Mapping[str, Any] | None = None

    def take(self, context: ToolContext) -> None:
        """Keep what is there now, unless a beginning was kept already: a run that is resumed has one."""
        path = _place(context)
        if path.exists():
            return
        self._before = self._now()
        beside = path.with_suffix(".part")
        with gzip.open(beside, "wt", encoding="utf-8", compresslevel=3) as file:
            json.dump(self._before, file)
        beside.replace(path)

    def changes(self, context: ToolContext) -> dict[str, Change]:
        """Which files are new, changed or removed since, in order."""
        before, now = self._load(context), self._now()
        kinds: dict[str, Change] = {}
        for path in sorted({*before, *now}):
            if path not in before:
                kinds[path] = "new"
            elif path not in now:
                kinds[path] = "removed"
            elif not _same(before[path], now[path]):
                kinds[path] = "changed"
        return kinds

    def text(self, path: str, context: ToolContext) -> str | None:
        """A file as it was; None: it was not there, or no text."""
        text = self._load(context).get(path, {}).get("text")
        return None if text is None else str(text)

    def diff(self, context: ToolContext) -> str:
        """The changes as a patch that `git apply` takes; empty if there are none."""
        before, now = self._load(context), self._now()
        pieces = [_patch(path, before.get(path), now.get(path)) for path in sorted({*before, *now})]
        return "".join(pieces)

    def restore(self, context: ToolContext) -> None:
        """Put files of text back as they were, and remove those that are new."""
        before = self._load(context)
        for path, kind in self.changes(context).items():
            if kind == "new":
                self._workspace.remove(path)
            elif (text := before[path].get("text")) is not None:
                self._workspace.write(path, text.encode(errors="surrogateescape"))

    def _load(self, context: ToolContext) -> Mapping[str, Any]:
        if self._before is None:
            path = _place(context)
            if not path.exists():
                return {}
            with gzip.open(path, "rt", encoding="utf-8") as file:
                self._before = json.load(file)
        assert self._before is not None
        return self._before

    def _now(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        room = _MOST_BYTES
        for path in self._paths():
            if len(found) >= _MOST_FILES:
                break
            try:
                state = self._workspace.root.joinpath(path).lstat()
            except OSError:
                continue
            if not stat.S_ISREG(state.st_mode):
                continue
            # A program can set the time of a change, but not that of the last change of any kind.
            entry: dict[str, Any] = {"size": state.st_size, "time": state.st_mtime_ns, "changed": state.st_ctime_ns}
            known = (self._before or {}).get(path)
            if known is not None and all(known[key] == entry[key] for key in entry):
                entry = dict(known)
            elif state.st_size <= min(_LARGEST, room) and (text := self._text(path)) is not None:
                entry["text"] = text
            room -= state.st_size if "text" in entry else 0
            found[path] = entry
        return found

    def _text(self, path: str) -> str | None:
        try:
            data = self._workspace.read(path)
            return None if b"\0" in data else data.decode()
        except (ToolFailure, UnicodeDecodeError):
            return None

    def _paths(self) -> Iterator[str]:
        root = self._workspace.root
        if (root / ".git").exists():
            result = self._sandbox.run(
                ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                workspace=root, writable=False, limits=Limits(seconds=30, output_bytes=32 * 2**20),
            )  # fmt: skip
            if result.ok and not result.dropped_bytes:
                yield from sorted(set(filter(None, result.stdout.split("\0"))))
                return
        for folder, below, names in os.walk(root):
            below[:] = sorted(name for name in below if name not in _LEFT_OUT)
            for name in sorted(names):
                yield os.path.relpath(os.path.join(folder, name), root)  # noqa: PTH118


def _place(context: ToolContext) -> Path:
    return context.artifacts.parent / _FILE


def _same(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if "text" in before and "text" in now:
        return bool(before["text"] == now["text"])
    return bool(
        before["size"] == now["size"] and before["time"] == now["time"] and ("text" in before) == ("text" in now)
    )


def _patch(path: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    if before is not None and now is not None and _same(before, now):
        return ""
    head = f"diff --git a/{path} b/{path}\n"
    head += "new file mode 100644\n" if before is None else "deleted file mode 100644\n" if now is None else ""
    old, new = "" if before is None else before.get("text"), "" if now is None else now.get("text")
    if old is None or new is None or max(old.count("\n"), new.count("\n")) > _MOST_LINES:
        return f"{head}Binary files a/{path} and b/{path} differ\n"
    names = ("/dev/null" if before is None else f"a/{path}", "/dev/null" if now is None else f"b/{path}")
    lines = list(difflib.unified_diff(_lines(old), _lines(new), *names))
    return head + "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(text: str) -> list[str]:
    """Split at line feeds alone, as patches are."""
    return [f"{line}\n" for line in text.split("\n")[:-1]] + [last for last in text.split("\n")[-1:] if last]
