"""Looks for a pattern in files. Runs by itself, in the sandbox: a job as JSON on stdin, what was found on stdout."""

import fnmatch
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

_LEFT_OUT = {".git", ".hg", ".svn", "__pycache__", "node_modules", ".venv", "venv", ".mypy_cache", ".ruff_cache"}
_MOST_BYTES = 4 * 2**20
_LONGEST = 240


def found_in(path: str, pattern: "re.Pattern[str]") -> Iterator[str]:
    """Lines of a file that match; files that are no text have none."""
    try:
        if not _is_inside(path) or not os.path.isfile(path) or os.path.getsize(path) > _MOST_BYTES:  # noqa: PTH113, PTH202 (also for links)
            return
        with open(path, "rb") as file:  # noqa: PTH123
            data = file.read()
    except OSError:
        return
    if b"\0" in data[:8192]:
        return
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        if pattern.search(line):
            yield f"{path}:{number}: {line.strip()[:_LONGEST]}"


def _is_inside(path: str) -> bool:
    return os.path.realpath(path).startswith(os.getcwd() + os.sep)  # noqa: PTH109


def names(top: str, glob: str) -> Iterator[str]:
    """Files below a folder, in order; or the file itself."""
    if not os.path.isdir(top):  # noqa: PTH112
        yield top
        return
    for folder, below, here in os.walk(top):
        below[:] = sorted(name for name in below if name not in _LEFT_OUT)
        for name in sorted(here):
            path = os.path.normpath(os.path.join(folder, name))  # noqa: PTH118
            if not glob or fnmatch.fnmatch(name, glob) or fnmatch.fnmatch(path, glob):
                yield path


def search(job: dict[str, Any]) -> dict[str, Any]:
    """Carry a job out."""
    top = job["path"] or "."
    if not os.path.exists(top):  # noqa: PTH110
        return {"error": f"There is no {top} in the workspace.", "lines": [], "more": False}
    try:
        pattern = re.compile(job["pattern"])
    except re.error as error:
        return {"error": f"The pattern is no regular expression: {error}.", "lines": [], "more": False}
    lines: list[str] = []
    for path in names(top, job["glob"]):
        for line in found_in(path, pattern) if job["pattern"] else [path]:
            if len(lines) == job["most"]:
                return {"error": "", "lines": lines, "more": True}
            lines.append(line)
    return {"error": "", "lines": lines, "more": False}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(search(json.load(sys.stdin))))
