"""The house rules that no linter knows: sizes, names, side effects, generated pages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "deepground"
MODULES = sorted(SOURCE.rglob("*.py"))
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_files_and_functions_stay_small() -> None:
    offenders = []
    for path in [*MODULES, *(ROOT / "recipes").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        name = path.relative_to(ROOT)
        if (lines := len(path.read_text().splitlines())) > MAX_FILE_LINES:
            offenders.append(f"{name}: {lines} lines")
        for node in functions(path):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                offenders.append(f"{name}:{node.lineno} {node.name}: {length} lines")
    assert not offenders, "\n".join(offenders)


def test_every_module_says_what_it_is() -> None:
    silent = [str(p.relative_to(ROOT)) for p in MODULES if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent


def test_public_names_are_importable() -> None:
    import deepground

    assert dir(deepground) == sorted(deepground.__all__)
    for name in deepground.__all__:
        assert getattr(deepground, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Llm'"):
        _ = deepground.Llm  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["deepground", "deepground.cli", "deepground.messages", "deepground.tasks"])
def test_import_is_quick_and_silent(module: str) -> None:
    """No torch, no output, no files: `deepground --help` must answer at once."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_command_line_surface() -> None:
    """A new verb is a decision, not an accident."""
    from deepground.cli import app

    names = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    assert names == {"serve", "chat", "inspect", "convert", "distill", "eval", "doctor", "bench"}
    assert {g.name for g in app.registered_groups} == {"agent", "keys", "train"}


def test_cli_reference_is_current(tmp_path: Path) -> None:
    """`make docs` writes it; a changed option must change the page."""
    page = tmp_path / "cli.md"
    command = [sys.executable, "-m", "typer", "deepground.cli", "utils", "docs", "--name", "deepground"]
    subprocess.run([*command, "--output", str(page)], capture_output=True, check=True)
    assert page.read_text() == (ROOT / "docs" / "reference" / "cli.md").read_text()


def test_the_project_speaks_of_itself_alone() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    words = ["/" + "work/main", "/" + "tmp/dg"]
    found = [
        name
        for name in tracked
        if (ROOT / name).is_file() and (ROOT / name).stat().st_size < 500_000
        if any(word in (ROOT / name).read_text(errors="ignore") for word in words)
    ]
    assert not found
