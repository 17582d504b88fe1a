"""The same random-weight checkpoint through several engines in the same run: speeds, ratios, shares of the machine.

    python benchmarks/checkpoints.py MODELS
    PEER_PYTHON benchmarks/gguf_export.py MODELS/m1-bf16      (and m2-bf16 with --types q8_0 q4_0 mxfp4)
    python benchmarks/peers.py MODELS --shapes m1 m2 --python llama.cpp=PEER_PYTHON --python vllm=PEER_PYTHON

Every engine runs in a process of its own (`peer_worker.py`), one at a time, with the same threads; rounds go through
all engines in turn, so that a machine whose speed drifts favours none, and medians count. What is not installed or not
there is left out, and the report says so. `--shapes pilot` compares the bundled model with transformers.

Results: a JSON file with every single figure, and a page of Markdown beside it. `--append` adds rounds to a file.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peer_report import CONTENDERS, Contender, write_page
from peer_worker import MEASURES

from deepground.engine import PILOT_FOLDER
from deepground.kernels import measure_limits, read_machine
from deepground.model import load_config

WORKER = Path(__file__).with_name("peer_worker.py")


def main() -> None:
    """Measure, and write the report after every engine, so that an interrupted run keeps what it has."""
    arguments = parse()
    pythons = {"deepground": sys.executable, "transformers": sys.executable}
    pythons |= dict(pair.split("=", 1) for pair in arguments.python)
    machine = read_machine()
    found: dict[str, Any] = {
        "date": today(),
        "machine": asdict(machine),
        "threads": arguments.threads,
        "limits": [],
        "runs": [],
        "skipped": {},
    }
    if arguments.append and arguments.output.exists():
        found = json.loads(arguments.output.read_text())
    for number in range(arguments.rounds):
        for shape in arguments.shapes:
            contenders = [c for c in CONTENDERS[shape] if not arguments.only or c.name in arguments.only]
            # Each round begins with another engine: what comes first may find the machine cooler.
            for contender in contenders[number % len(contenders) :] + contenders[: number % len(contenders)]:
                model = PILOT_FOLDER if shape == "pilot" else arguments.models / f"{shape}-{contender.file}"
                reason = obstacle(contender, model, pythons)
                if reason is not None:
                    found["skipped"][f"{shape} {contender.name}"] = reason
                    continue
                with exclusive(arguments.lock):
                    limits = measure_limits(arguments.threads)
                    result = run(contender, shape, model, pythons[contender.engine], arguments)
                found["limits"].append(asdict(limits))
                found["runs"].append({"shape": shape, "contender": contender.name} | result)
                print(f"round {number + 1}, {shape} {contender.name}: {brief(result)}", flush=True)
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(json.dumps(found, indent=1) + "\n")
                write_page(found, arguments.output.with_suffix(".md"))
    for name, reason in found["skipped"].items():
        print(f"left out: {name}: {reason}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="?", default=Path(), help="folder with the checkpoints")
    parser.add_argument("--shapes", nargs="+", choices=CONTENDERS, default=["m1"])
    parser.add_argument("--only", nargs="+", help='names of contenders, such as "deepground fp8-ue8m0"')
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--python", action="append", default=[], metavar="ENGINE=PATH", help="interpreter of a peer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attempts", type=int, default=3, help="repetitions of a measurement that was disturbed")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one engine in one round")
    parser.add_argument("--lock", type=Path, help="file to lock while an engine runs")
    parser.add_argument("--append", action="store_true", help="add to the output file")
    parser.add_argument("--output", type=Path, help="JSON file; else benchmarks/results/peers-MACHINE-DATE.json")
    arguments = parser.parse_args()
    arguments.output = arguments.output or Path("benchmarks/results") / f"peers-{machine_name()}-{today()}.json"
    return arguments


def machine_name() -> str:
    """For a file's name: intel-xeon-2.80ghz-2cores."""
    machine = read_machine()
    words = re.sub(r"\([^)]*\)|[^a-z0-9.]+", "-", machine.cpu.lower()).split("-")
    return "-".join([*(word for word in words if word not in ("", "processor", "cpu")), f"{machine.cores}cores"])


def today() -> str:
    """As in file names."""
    return datetime.now(UTC).date().isoformat()


def obstacle(contender: Contender, model: Path, pythons: dict[str, str]) -> str | None:
    """Why a contender cannot run here; None if nothing is known against it."""
    if contender.engine not in pythons:
        return f"no interpreter; give --python {contender.engine}=PATH"
    return None if model.exists() else f"{model} does not exist; write it with checkpoints.py or gguf_export.py"


@contextmanager
def exclusive(path: Path | None) -> Iterator[None]:
    """Alone among those that lock the same file."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(contender: Contender, shape: str, model: Path, python: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One engine's figures, or the reason why it has none."""
    config = load_config(PILOT_FOLDER if shape == "pilot" else arguments.models / f"{shape}-bf16")
    measures = [
        name for name in arguments.measures if shape != "pilot" or name in ("decode", "streams-8", "streams-16")
    ]
    spec = {
        "engine": contender.engine,
        "model": str(model),
        "vocab_size": config.vocab_size,
        "threads": arguments.threads,
        "measures": measures,
        "attempts": arguments.attempts,
        **contender.options,
    }
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"}
    if contender.engine == "vllm":
        # It places its threads itself, and warns that this variable slows it down.
        del environment["OMP_NUM_THREADS"]
    try:
        done = subprocess.run(
            [python, str(WORKER), json.dumps(spec)],
            capture_output=True,
            text=True,
            timeout=arguments.timeout,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {arguments.timeout:.0f} s"}
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]}
    figures: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return figures


def brief(result: dict[str, Any]) -> str:
    """One line for the terminal."""
    if "failed" in result:
        return f"failed: {result['failed']}"
    rates = [f"{name} {result[name]['rate']:.1f}" for name in MEASURES if name in result]
    foreign = max((result[name]["foreign"] for name in MEASURES if name in result), default=0.0)
    return f"{', '.join(rates)} tokens/s; {foreign:.0%} of the processors taken by others at the worst"


if __name__ == "__main__":
    main()
