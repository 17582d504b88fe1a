"""Tools that look at, write and edit files of the workspace."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepground.agent.tools.protocol import Effect, Run, Tool, ToolContext, ToolFailure, ToolResult
from deepground.agent.tools.workspace import OUTPUTS, Workspace

_TEXT = {"type": "string"}
_NEAR = 0.5
"""Likeness of a line that is worth showing to somebody who looked for another."""


def view_file_tool(workspace: Workspace, *, ranges: bool) -> Tool:
    """Shows a file as it is, without line numbers: what is shown is what `edit_file` wants to see again.

    Args:
        workspace: where the files are.
        ranges: whether a part can be asked for; small models are not shown how.
    """

    def run(arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        path = arguments["path"]
        if not path.startswith(OUTPUTS) and workspace.is_folder(path):
            return ToolResult(content=_listing(workspace, path))
        text = _text_of(path, _content(workspace, path, context))
        first, last = arguments.get("start"), arguments.get("end")
        return ToolResult(content=text if first is None and last is None else _part(path, text, first or 1, last))

    if not ranges:
        return file_tool("view_file", "Content of a file", ("path",), "read", run, workspace)
    more = {"start": {"type": "integer", "minimum": 1}, "end": {"type": "integer", "minimum": 1}}
    about = "Content of a file, or of the lines start to end; names in a folder."
    return file_tool("view_file", about, ("path",), "read", run, workspace, more)


def write_file_tool(workspace: Workspace) -> Tool:
    """Puts a whole file in place."""

    def run(arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        del context
        path = arguments["path"]
        workspace.write(path, _bytes_of(path, arguments["content"]))
        return ToolResult(content=f"wrote {path}", files=(workspace.root / path,))

    return file_tool("write_file", "Write a whole file", ("path", "content"), "repeatable", run, workspace)


def edit_file_tool(workspace: Workspace) -> Tool:
    """Replaces a text that occurs once. Done twice it may do harm, so it is not repeated after a crash."""

    def run(arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        del context
        path, old, new = arguments["path"], arguments["old"], arguments["new"]
        data = workspace.read(path)
        text = _text_of(path, data)
        ends = "\r\n" if b"\r\n" in data and "\r\n" not in old else "\n"
        if ends == "\r\n":
            text = text.replace("\r\n", "\n")
        edited = edit(path, text, old, new)
        workspace.write(path, _bytes_of(path, edited.replace("\n", ends) if ends == "\r\n" else edited))
        return ToolResult(content=f"edited {path}", files=(workspace.root / path,))

    about = "Replace a text of a file that occurs once"
    return file_tool("edit_file", about, ("path", "old", "new"), "once", run, workspace)


def edit(path: str, text: str, old: str, new: str) -> str:
    """A text with `old` replaced by `new`.

    Raises:
        ToolFailure: `old` does not occur exactly once; says where the like of it is.
    """
    if not old:
        raise ToolFailure("old is empty. Give the text to replace, or use write_file for a new file.", kind="no_match")
    if old == new:
        raise ToolFailure("old and new are the same. Give the changed text as new.", kind="no_change")
    count = text.count(old)
    if count == 1:
        return text.replace(old, new)
    if count == 0:
        raise ToolFailure(f"old does not occur in {path}. {_nearest(text, old)}", kind="no_match")
    places = [str(text.count("\n", 0, start) + 1) for start in _starts(text, old)]
    lines = ", ".join(places[:8]) + (" ..." if len(places) > 8 else "")
    raise ToolFailure(
        f"old occurs {count} times in {path} (lines {lines}). Give more lines around the one that is meant.",
        kind="ambiguous",
    )


def file_tool(
    name: str, description: str, required: Sequence[str], effect: Effect, run: Run, workspace: Workspace,
    more: Mapping[str, Any] | None = None,
) -> Tool:  # fmt: skip
    """A tool whose arguments are texts, one of them the path of what it touches."""

    def touched(arguments: Mapping[str, Any]) -> tuple[str, ...]:
        return (str(workspace.root / str(arguments.get("path", ""))),)

    text_of_path: Callable[[Mapping[str, Any]], str] = lambda arguments: str(arguments.get("path", ""))  # noqa: E731
    properties = {**dict.fromkeys(required, _TEXT), **(more or {})}
    return Tool(
        name=name, description=description, effect=effect, run=run, approval_text=text_of_path, resources=touched,
        parameters={"type": "object", "properties": properties, "required": list(required)},
    )  # fmt: skip


def _content(workspace: Workspace, path: str, context: ToolContext) -> bytes:
    if not path.startswith(OUTPUTS):
        return workspace.read(path)
    name = path.removeprefix(OUTPUTS)
    file = context.artifacts / "outputs" / name
    if "/" in name or not file.is_file():
        raise ToolFailure(f"There is no output {path}.", kind="not_found")
    return file.read_bytes()


def _text_of(path: str, data: bytes) -> str:
    if b"\0" in data[:8192]:
        raise ToolFailure(f"{path} is not text ({len(data)} bytes).", kind="binary")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ToolFailure(
            f"{path} is not UTF-8 text (byte {error.start} is {data[error.start]:#x}). Use shell or python for it.",
            kind="binary",
        ) from error


def _bytes_of(path: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ToolFailure(f"The text for {path} holds half a character at {error.start}.", kind="bad_text") from error


def _part(path: str, text: str, first: int, last: int | None) -> str:
    lines = text.splitlines(keepends=True)
    if first > max(len(lines), 1) or (last is not None and last < first):
        raise ToolFailure(f"{path} has {len(lines)} lines; {first} to {last} are none of them.", kind="bad_range")
    shown = lines[first - 1 : last]
    return f"[lines {first} to {first - 1 + len(shown)} of {len(lines)}]\n{''.join(shown)}"


def _listing(workspace: Workspace, path: str) -> str:
    entries = workspace.entries(path)
    return "\n".join(f"{e.name}/" if e.is_folder else f"{e.name} ({e.size} bytes)" for e in entries)


def _starts(text: str, old: str) -> list[int]:
    starts = []
    at = text.find(old)
    while at >= 0:
        starts.append(at)
        at = text.find(old, at + len(old))
    return starts


def _nearest(text: str, old: str) -> str:
    """The line that is most like the first line of what was looked for."""
    lines = text.splitlines()[:5000]
    wanted = next((line for line in old.splitlines() if line.strip()), "")
    squeezed = "".join(old.split())
    if squeezed and "".join(text.split()).count(squeezed) == 1:
        return "It does with other blanks or line ends: copy it exactly as view_file shows it."
    best = max(lines, key=lambda line: difflib.SequenceMatcher(None, line, wanted).ratio(), default="")
    if difflib.SequenceMatcher(None, best, wanted).ratio() < _NEAR:
        return "Nothing is like it: look at the file first (view_file)."
    return f"The nearest is line {lines.index(best) + 1}: {best!r}"
