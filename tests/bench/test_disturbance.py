"""What others did meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from deepground.bench import Watch

SPIN = "import time\nend = time.perf_counter() + {}\nwhile time.perf_counter() < end: pass"


def test_ones_own_work_is_not_foreign() -> None:
    """A watch that counted its own process would see a core's time at least."""
    watch, end = Watch(), time.process_time() + 0.5
    start = time.perf_counter()
    while time.process_time() < end:
        pass
    wall = time.perf_counter() - start
    cores = 0.5 / wall
    everyone = watch.foreign_share()
    assert 0 <= everyone <= 1.02
    # What is left for others is at most all processors less the share that this process had.
    assert everyone <= 1.05 - cores / (os.cpu_count() or 1)


def test_another_program_is_foreign() -> None:
    """A child that has not ended yet counts among the others."""
    with subprocess.Popen([sys.executable, "-c", SPIN.format(20)]) as child:
        time.sleep(0.5)
        watch = Watch()
        time.sleep(1.0)
        share = watch.foreign_share()
        child.kill()
    assert share > 0.05
