"""From command to first token: a question piped to `deepground chat`, and the first that `deepground serve` answers.

    python benchmarks/startup.py                  # the bundled pilot, files in the page cache
    python benchmarks/startup.py --cold           # their pages dropped before every run
    python benchmarks/startup.py --model FOLDER --runs 9

Every run is a new process, timed from outside until the first character of the reply arrives. Beside it stand the
parts that no program of this kind can leave out, the interpreter and the import of torch, and the phases inside.
A page that another process has mapped cannot be dropped; the share that was is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import mmap
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from deepground.engine import PILOT_FOLDER
from deepground.kernels import read_machine

QUESTION = "What is 17 + 25?"
PHASES = """
import json, sys, time
marks = [("start", time.perf_counter())]
def mark(name): marks.append((name, time.perf_counter()))
import torch
mark("import torch")
import deepground.cli
from deepground.engine import ChatRequest, ChatSession, EngineConfig, EngineService, load_engine
from deepground.messages import Message, SamplingParams
mark("import deepground")
if sys.argv[2] == "serve":
    import deepground.server
    mark("import the server")
engine = load_engine(sys.argv[1], EngineConfig(max_sequences=1))
mark("load the model")
with EngineService(engine) as service:
    request = ChatRequest(messages=[Message.user(sys.argv[3])], params=SamplingParams(temperature=0, max_tokens=8))
    for event in ChatSession(service).start_chat_blocking(request):
        if event.deltas and marks[-1][0] != "first token":
            mark("first token")
print(json.dumps([[name, at - before] for (_, before), (name, at) in zip(marks, marks[1:])]))
"""


def time_command(command: list[str], environment: dict[str, str]) -> float:
    """Seconds that a command takes from start to end."""
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def time_chat(model: Path, environment: dict[str, str]) -> float:
    """Seconds until `deepground chat` shows the first character of thinking or answer.

    Raises:
        RuntimeError: the command failed.
    """
    command = [sys.executable, "-m", "deepground", "chat", str(model), "--temperature", "0"]
    start = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{QUESTION}\n".encode())
        process.stdin.close()
        first = os.read(process.stdout.fileno(), 4096)
        seconds = time.perf_counter() - start
        rest = process.stdout.read()
    if process.returncode != 0 or not first.strip():
        raise RuntimeError(f"deepground chat failed: {(first + rest).decode(errors='replace')}")
    return seconds


def _first_model(address: str) -> str:
    """The name of the served model; the address is printed a moment before the server listens."""
    for _ in range(500):
        try:
            with urllib.request.urlopen(f"{address}/v1/models") as response:
                return str(json.load(response)["data"][0]["id"])
        except urllib.error.URLError:
            time.sleep(0.01)
    raise RuntimeError(f"nothing listens at {address}")


def time_serve(model: Path, environment: dict[str, str]) -> float:
    """Seconds until a stream from `deepground serve` brings the first text.

    Raises:
        RuntimeError: the server ended before it answered, or its answer has no text.
    """
    command = [sys.executable, "-m", "deepground", "serve", str(model), "--port", "0"]
    body = json.dumps(
        {"model": "any", "messages": [{"role": "user", "content": QUESTION}], "stream": True, "max_tokens": 8}
    ).encode()
    start = time.perf_counter()
    quiet = subprocess.DEVNULL  # The log, which would tell of the request that is cut off.
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=quiet, text=True) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout)
            address = next((found[1] for line in lines if (found := re.match(r"address\s+(\S+)", line))), None)
            if address is None:
                raise RuntimeError(f"deepground serve ended with {process.wait()} before it listened")
            name = _first_model(address)
            headers = {"content-type": "application/json"}
            request = urllib.request.Request(
                f"{address}/v1/chat/completions", body.replace(b'"any"', json.dumps(name).encode()), headers
            )
            with urllib.request.urlopen(request) as response:
                for line in response:
                    if re.search(rb'"(reasoning_)?content": ?"[^"]', line):
                        return time.perf_counter() - start
            raise RuntimeError("the reply has no text")
        finally:
            process.terminate()


def measure_phases(model: Path, verb: str, environment: dict[str, str]) -> dict[str, float]:
    """Seconds of each step inside a process that goes the way of `verb`."""
    command = [sys.executable, "-c", PHASES, str(model), verb, QUESTION]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def needed_files(model: Path) -> list[Path]:
    """Everything that a start may read: the standard library, the installed packages, this package and the model."""
    folders = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
    folders |= {PILOT_FOLDER.parent, model}
    return [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def drop_pages(files: list[Path]) -> tuple[int, int]:
    """Ask the kernel to forget the files' pages; how many bytes are still cached, and how many there are."""
    libc = ctypes.CDLL(None, use_errno=True)
    left = total = 0
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            size = os.fstat(file.fileno()).st_size
            with mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
                buffer = (ctypes.c_char * size).from_buffer(mapped)
                resident = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
                if libc.mincore(ctypes.c_void_p(ctypes.addressof(buffer)), ctypes.c_size_t(size), resident) != 0:
                    raise OSError(ctypes.get_errno(), f"mincore of {path}")
                left += sum(page & 1 for page in bytes(resident)) * mmap.PAGESIZE
                del buffer
            total += size
    return min(left, total), total


@contextlib.contextmanager
def clean_environment() -> Iterator[dict[str, str]]:
    """The environment with an empty cache folder, so that no earlier run has left the prompt's prefix on disk."""
    with tempfile.TemporaryDirectory() as folder:
        yield {**os.environ, "XDG_CACHE_HOME": folder}


def median_of(runs: int, once: Callable[[dict[str, str]], float], before: Callable[[], None]) -> str:
    """The median and the range, as a table shows them."""
    seconds = []
    for _ in range(runs):
        before()
        with clean_environment() as environment:
            seconds.append(once(environment))
    return f"{statistics.median(seconds):6.2f}   ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PILOT_FOLDER, help="model folder; without it the bundled pilot")
    parser.add_argument("--runs", type=int, default=5, help="processes per line; the median is shown")
    parser.add_argument("--cold", action="store_true", help="drop the files' pages before every run")
    arguments = parser.parse_args()
    model, runs = arguments.model, arguments.runs
    files = needed_files(model) if arguments.cold else []

    def before() -> None:
        drop_pages(files)

    load = os.getloadavg()[0]
    print(f"{model.name}; {read_machine().cpu}, {os.cpu_count()} cores; load {load:.1f} at the beginning")
    if arguments.cold:
        left, total = drop_pages(files)
        print(f"cold: {(total - left) / 1e9:.2f} of {total / 1e9:.2f} GB of files are out of the page cache")
    else:
        with clean_environment() as environment:  # Nothing is counted that only the first run after a boot pays.
            time_chat(model, environment)
    print(f"\n{'seconds, median of ' + str(runs):42}")
    measures: dict[str, Callable[[dict[str, str]], float]] = {
        "interpreter alone": lambda environment: time_command([sys.executable, "-c", "pass"], environment),
        "interpreter and torch": lambda environment: time_command([sys.executable, "-c", "import torch"], environment),
        "chat: command to first token": lambda environment: time_chat(model, environment),
        "serve: command to first token over HTTP": lambda environment: time_serve(model, environment),
    }
    for name, once in measures.items():
        print(f"{name:42}{median_of(runs, once, before)}")
    for verb in ("chat", "serve"):
        phases: dict[str, list[float]] = {}
        for _ in range(runs):
            before()
            with clean_environment() as environment:
                for name, seconds in measure_phases(model, verb, environment).items():
                    phases.setdefault(name, []).append(seconds)
        print(f"\ninside, the way of {verb}")
        for name, values in phases.items():
            print(f"  {name:40}{statistics.median(values):6.2f}")


if __name__ == "__main__":
    main()
