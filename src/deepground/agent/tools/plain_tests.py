"""Runs the tests of a folder where pytest is not installed. Runs by itself, in the sandbox: only the standard library.

Files are test_*.py and *_test.py; tests are functions test*, methods test* of classes Test*, and unittest's cases. A
failed comparison of a call is reported as `calc.py: assert add(2, 3) == 5, got -1`, under the file of what was called.
"""

import ast
import functools
import importlib.util
import inspect
import os
import sys
import traceback
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

_LEFT_OUT = {"node_modules", "venv", "__pycache__", "site-packages"}
_MOST_SHOWN = 20


def test_files(top: Path) -> Iterator[Path]:
    """Files with tests below a folder, in order."""
    for folder, below, names in os.walk(top):
        below[:] = sorted(name for name in below if name not in _LEFT_OUT and not name.startswith("."))
        for name in sorted(names):
            if name.endswith(".py") and (name.startswith("test_") or name.endswith("_test.py")):
                yield Path(folder, name)


def load(path: Path) -> ModuleType:
    """Import a file by its path."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def tests_in(module: ModuleType) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Tests of a module: name, and what runs it."""
    for name, value in list(vars(module).items()):
        if name.startswith("test") and inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value) and issubclass(value, unittest.TestCase):
            for method in unittest.TestLoader().getTestCaseNames(value):
                yield f"{name}::{method}", value(method).debug
        elif inspect.isclass(value) and name.startswith("Test"):
            for method in dir(value):
                if method.startswith("test"):
                    yield f"{name}::{method}", functools.partial(_run_method, value, method)


def _run_method(kind: type, method: str) -> None:
    getattr(kind(), method)()


def describe(error: BaseException, test_file: Path) -> str:
    """A line or two about a failure: the file at fault, and what was expected."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(frame, line) for frame, line in frames if frame.f_code.co_filename == str(test_file)]
    if not own:
        return f"{_relative(str(test_file))}: {_in_short(error)}"
    frame, line = own[-1]
    failed_here = isinstance(error, AssertionError) and frames[-1][0] is frame
    node = _statement(test_file, line)
    if isinstance(node, ast.Assert) and (said := _assertion(node, frame, failed_here=failed_here)):
        return said if failed_here else f"{said}\n{_in_short(error)}"
    where = next((f.f_code.co_filename for f, _ in reversed(frames) if _is_inside(f.f_code.co_filename)), "")
    return f"{_relative(where or str(test_file))}: {_in_short(error)}"


def _assertion(node: ast.Assert, frame: FrameType, *, failed_here: bool) -> str:
    test = node.test
    simple = isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq)
    left: ast.expr = test.left if simple and isinstance(test, ast.Compare) else test
    try:
        place, call = _call(left, frame)
        expected = f" == {_value(test.comparators[0], frame)!r}" if simple and isinstance(test, ast.Compare) else ""
        got = repr(_value(left, frame)) if failed_here else "an error"
    except Exception:  # the report must not fail where the test did
        return ""
    return f"{place}: assert {call}{expected}, got {got}"


def _call(node: ast.expr, frame: FrameType) -> tuple[str, str]:
    """Where what is called stands, and the call with its values."""
    if not isinstance(node, ast.Call):
        return _relative(frame.f_code.co_filename), ast.unparse(node)
    function = inspect.unwrap(_value(node.func, frame))
    source = inspect.getsourcefile(function) or ""
    given = [repr(_value(argument, frame)) for argument in node.args]
    given += [f"{keyword.arg}={_value(keyword.value, frame)!r}" for keyword in node.keywords]
    place = source if _is_inside(source) else frame.f_code.co_filename
    return _relative(place), f"{ast.unparse(node.func).rpartition('.')[2]}({', '.join(given)})"


def _value(node: ast.expr, frame: FrameType) -> Any:
    code = compile(ast.Expression(node), "<test>", "eval")
    return eval(code, frame.f_globals, frame.f_locals)  # noqa: S307 (the test's own expression, in the sandbox)


def _statement(path: Path, line: int) -> ast.stmt | None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    around = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and n.lineno <= line <= (n.end_lineno or n.lineno)]
    return around[-1] if around else None


def _in_short(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()[-500:]


def _is_inside(path: str) -> bool:
    return bool(path) and not path.startswith("<") and Path(path).resolve().is_relative_to(Path.cwd())


def _relative(path: str) -> str:
    return os.path.relpath(path)


def main() -> int:
    """Run everything below the current folder."""
    top = Path.cwd()
    sys.path[:0] = [str(top), str(top / "src")]
    passed, failures = 0, []
    for path in test_files(top):
        name = _relative(str(path))
        try:
            found = list(tests_in(load(path)))
        except BaseException as error:
            failures.append(f"FAILED {name}\n{describe(error, path)}")
            continue
        for test, run in found:
            try:
                run()
                passed += 1
            except unittest.SkipTest:
                pass
            except BaseException as error:
                failures.append(f"FAILED {name}::{test}\n{describe(error, path)}")
    shown = [*failures[:_MOST_SHOWN], f"{len(failures)} failed, {passed} passed" if failures else f"{passed} passed"]
    sys.stdout.write("\n\n".join(shown) + "\n")
    return 1 if failures else 0 if passed else 5


if __name__ == "__main__":
    sys.exit(main())
