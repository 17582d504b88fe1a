"""Loading a checkpoint for the native kernels beside reading its files once, with the page cache dropped before each.

    sudo python benchmarks/loading.py MODEL --rounds 5

Prints seconds of both, their ratio, and the peak memory of the loading process as a share of the weights. Dropping the
page cache needs root; without it, both find the files in memory, and the output says so. Run it on a quiet machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

_LOAD = """
import json, resource, sys, time
from pathlib import Path
from deepground.model.native_decoder import load_native
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, start = peak(), time.perf_counter()
decoder = load_native(Path(sys.argv[1]))
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "peak_of_weights": (peak() - before) / decoder.weights.nbytes}))
"""


def drop_page_cache() -> bool:
    """Whether the system could be made to forget the files."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def read_once(folder: Path) -> float:
    """Seconds to read the weights from front to back."""
    start, piece = time.perf_counter(), bytearray(2**24)
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(piece):
                pass
    return time.perf_counter() - start


def main(
    model: Annotated[Path, typer.Argument(help="Model folder.", exists=True)],
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Measure and print."""
    ratios, cold = [], drop_page_cache()
    print("page cache dropped before each" if cold else "page cache not dropped: no right to; the files are in memory")
    for _ in range(rounds):
        drop_page_cache()
        reading = read_once(model)
        drop_page_cache()
        done = subprocess.run([sys.executable, "-c", _LOAD, str(model)], capture_output=True, text=True, check=True)
        loading = json.loads(done.stdout.splitlines()[-1])
        ratios.append(loading["seconds"] / reading)
        print(f"read {reading:.2f} s, loaded {loading['seconds']:.2f} s: {ratios[-1]:.2f}; peak "
              f"{loading['peak_of_weights']:.2f} of the weights", flush=True)  # fmt: skip
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    typer.run(main)
