"""What a sandboxed program may use, with control groups and without."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from deepground.errors import SandboxError
from deepground.sandbox import Limits, Result, Sandbox
from deepground.sandbox.limits import MIB
from sandbox.conftest import RunPython

FORK_BOMB = """
import os, time
for _ in range(9):  # 512 processes, if nobody minds
    try: os.fork()
    except OSError: pass
time.sleep(20)
"""
MEMORY_BOMB = "held = []\nwhile True: held.append(bytearray(2**24))"
MEMORY_BOMB_OF_MANY = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        held = bytearray(b"x") * (48 * 2**20)
        time.sleep(20)
time.sleep(20)
"""


@pytest.fixture(params=["groups", "counted"])
def any_sandbox(sandbox: Sandbox, request: pytest.FixtureRequest) -> Sandbox:
    """With the kernel's control groups where there are any, and counted from outside."""
    if request.param == "counted":
        return dataclasses.replace(sandbox, groups=None)
    if sandbox.groups is None:
        pytest.skip("no control groups can be made here")
    return sandbox


def python(sandbox: Sandbox, code: str, workspace: Path | None = None, **limits: float) -> Result:
    return sandbox.run(
        [sys.executable, "-c", code],
        workspace=workspace,
        limits=Limits(**{"seconds": 20, **limits}),  # type: ignore[arg-type]
    )


class TestProcessesAndMemory:
    def test_fork_bomb(self, any_sandbox: Sandbox) -> None:
        result = python(any_sandbox, FORK_BOMB, processes=40, seconds=1.5)
        assert result.killed_by == ("time" if any_sandbox.groups else "processes")
        assert result.seconds < 4

    def test_refused_fork_is_an_error_that_a_program_can_handle(self, sandbox: Sandbox) -> None:
        if sandbox.groups is None:
            pytest.skip("no control groups can be made here")
        code = "import os, time\nn = 0\ntry:\n    while os.fork(): n += 1\n    time.sleep(9)\nexcept OSError: print(n)"
        result = python(sandbox, code, processes=20)
        assert result.exit == 0
        assert 10 <= int(result.stdout) <= 21

    def test_memory_bomb_of_one(self, any_sandbox: Sandbox) -> None:
        result = python(any_sandbox, MEMORY_BOMB, memory_bytes=200 * MIB)
        assert result.killed_by == "memory" or "MemoryError" in result.stderr
        assert result.exit != 0

    def test_memory_bomb_of_many(self, any_sandbox: Sandbox) -> None:
        result = python(any_sandbox, MEMORY_BOMB_OF_MANY, memory_bytes=200 * MIB, seconds=15)
        assert result.killed_by == "memory"
        assert result.seconds < 6

    def test_memory_that_is_allowed(self, any_sandbox: Sandbox) -> None:
        assert python(any_sandbox, "print(len(bytearray(100 * 2**20)))", memory_bytes=300 * MIB).exit == 0


class TestDisk:
    def test_filling_with_files(self, sandbox: Sandbox, workspace: Path) -> None:
        code = "import os\nn = 0\nwhile True:\n    with open(f'f{n}', 'wb') as f: f.write(os.urandom(2**22)); n += 1"
        result = python(sandbox, code, workspace, disk_bytes=64 * MIB)
        assert result.killed_by == "disk"
        assert sum(f.stat().st_size for f in workspace.iterdir()) < 1024 * MIB

    def test_one_large_file(self, sandbox: Sandbox, workspace: Path) -> None:
        code = "f = open('f', 'wb')\nwhile True: f.write(bytes(2**20))"
        result = python(sandbox, code, workspace, file_bytes=8 * MIB)
        assert result.exit != 0
        assert (workspace / "f").stat().st_size == 8 * MIB

    @pytest.mark.parametrize("folder", ["/tmp", "/dev/shm", "/workspace"])
    def test_memory_file_systems_are_limited(self, sandbox: Sandbox, folder: str) -> None:
        code = f"f = open('{folder}/f', 'wb', buffering=0)\nwhile f.write(bytes(2**20)): pass"
        result = python(sandbox, code, disk_bytes=8 * MIB)
        assert "No space left" in result.stderr or "ENOSPC" in result.stderr or result.exit == 0


class TestOutput:
    def test_endless_output(self, sandbox: Sandbox) -> None:
        result = sandbox.run(["yes"], limits=Limits(output_bytes=1000, output_total_bytes=MIB))
        assert result.killed_by == "output"
        assert len(result.stdout) < 1100
        assert result.dropped_bytes >= MIB - 1000

    def test_long_output_keeps_both_ends(self, run_python: RunPython) -> None:
        result = run_python("print('first'); print('x' * 10**6); print('last')", limits=Limits(output_bytes=1000))
        assert result.exit == 0
        assert result.stdout.startswith("first\n")
        assert result.stdout.endswith("last\n")
        assert "bytes dropped" in result.stdout

    def test_bytes_that_are_no_text(self, sandbox: Sandbox) -> None:
        assert sandbox.run(["printf", r"a\377\000b"]).stdout == "a\ufffd\0b"

    def test_input_reaches_the_program(self, sandbox: Sandbox) -> None:
        assert sandbox.run(["cat"], stdin="héllo" * 50_000).stdout == "héllo" * 50_000

    def test_input_that_nobody_reads(self, sandbox: Sandbox) -> None:
        assert sandbox.run(["true"], stdin=b"x" * 2**20).exit == 0


class TestEnds:
    @pytest.mark.parametrize(("line", "exit_code"), [("exit 3", 3), ("kill -9 $$", 137), ("kill -SEGV $$", 139)])
    def test_exit_codes(self, sandbox: Sandbox, line: str, exit_code: int) -> None:
        assert sandbox.run(["/bin/sh", "-c", line]).exit == exit_code

    def test_program_that_is_not_there(self, sandbox: Sandbox) -> None:
        result = sandbox.run(["no-such-program"])
        assert result.exit == 127
        assert "no-such-program" in result.stderr

    def test_processor_time(self, sandbox: Sandbox) -> None:
        result = python(sandbox, "while True: pass", cpu_seconds=1)
        assert result.exit is not None
        assert result.exit >= 128

    def test_nothing_runs_when_the_sandbox_cannot_be_set_up(self, sandbox: Sandbox, tmp_path: Path) -> None:
        made = tmp_path / "made"
        with pytest.raises(SandboxError, match="could not be set up"):
            sandbox.run(["touch", str(made)], read_only=[tmp_path / "missing"])
        broken = dataclasses.replace(sandbox, filter=b"12345678" * 3)
        with pytest.raises(SandboxError, match="could not be set up"):
            broken.run(["touch", str(made)], workspace=tmp_path)
        nothing = dataclasses.replace(sandbox, bubblewrap=tmp_path / "none")
        with pytest.raises(SandboxError):
            nothing.run(["touch", str(made)], workspace=tmp_path)
        assert not made.exists()

    def test_commands_that_make_no_sense(self, sandbox: Sandbox) -> None:
        with pytest.raises(SandboxError, match="no command"):
            sandbox.run([])
        with pytest.raises(SandboxError, match="NUL"):
            sandbox.run(["a\0b"])
        with pytest.raises(SandboxError, match="seconds"):
            Limits(seconds=0)
