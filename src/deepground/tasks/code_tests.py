"""Programs graded by tests, in the sandbox; where there is no sandbox, nothing runs and the verdict says so.

A program that ends early, however it does, has not passed: only the word that the harness is given and says after the
last test counts.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
from pathlib import Path

from deepground.errors import SandboxError, TaskError
from deepground.sandbox import Limits, find_sandbox
from deepground.tasks.verdict import Grade

SECONDS = 8.0
"""For the program and all tests; below the pool's own limit, so that the verdict names the cause."""
_LIMITS = Limits(seconds=SECONDS, memory_bytes=512 * 2**20, processes=32, disk_bytes=64 * 2**20)
_HARNESS = """
import json, sys
job = json.loads(sys.stdin.read())
def go(word=job.pop("word")):
    names = {"__name__": "solution"}
    exec(compile(job["program"], "program", "exec"), names)
    exec(compile(job["tests"], "tests", "exec"), names)
    print("\\n" + word, flush=True)
go()
"""


def run_tests(reply: str, tests: str) -> Grade:
    """Run the reply's program (its last Python code block, or all of it), then the tests in the same names.

    Raises:
        TaskError: this machine has no sandbox; says what is missing.
    """
    blocks = re.findall(r"```(?:python|py)?[ \t]*\n(.*?)```", reply, re.DOTALL | re.IGNORECASE)
    word = secrets.token_hex(16)
    job = json.dumps({"program": blocks[-1] if blocks else reply, "tests": tests, "word": word})
    try:
        result = find_sandbox().run(
            [str(Path(sys.executable).resolve()), "-I", "-c", _HARNESS],
            limits=_LIMITS,
            stdin=job,
            read_only=[Path(sys.base_prefix)],
        )
    except SandboxError as error:
        raise TaskError(f"programs are graded in the sandbox only: {error}") from error
    if word in result.stdout.splitlines():
        return Grade("right", "all tests passed")
    if result.killed_by is not None:
        return Grade("wrong", f"ended for its use of {result.killed_by}")
    last = result.stderr.strip().splitlines()[-1:] or [f"exit code {result.exit} before the end of the tests"]
    return Grade("wrong", last[0][:500])
