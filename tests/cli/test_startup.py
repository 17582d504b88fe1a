"""The collector is quiet during imports, and works afterwards on what comes later."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import atexit
import gc
from deepground.cli.startup import without_collection

rounds = []
gc.callbacks.append(lambda phase, info: rounds.append(info["generation"]))
with without_collection():
    import torch
    assert not gc.isenabled()
during, objects = len(rounds), len(gc.get_objects())
assert gc.isenabled()
frozen = gc.get_freeze_count()
cycle = []
cycle.append(cycle)
del cycle
print(during, frozen > 50_000, objects < 1_000, gc.collect() > 0)
atexit._run_exitfuncs()
print(gc.get_freeze_count())
"""


def test_imports_are_not_collected_and_later_garbage_is() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True", "True", "True", "0"]


def test_nothing_is_said_to_have_leaked_at_the_end() -> None:
    command = [sys.executable, "-m", "deepground", "chat", "--no-think", "--max-tokens", "2", "--no-prefix-disk"]
    done = subprocess.run(command, input="hello\n", capture_output=True, text=True, check=True)
    assert "leak" not in done.stderr
    assert done.stdout.strip()
