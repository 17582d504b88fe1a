"""What this machine can do and what is missing, each with its cure."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

import deepground
from deepground.errors import SandboxUnavailableError
from deepground.kernels import Machine, read_machine
from deepground.sandbox import find_sandbox

GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    status: Literal["ok", "note", "missing"]
    """ok: as it should be. note: works, but slower or with less. missing: a feature does not work."""
    detail: str
    cure: str = ""


def diagnose() -> list[Check]:
    """Look at everything that deepground depends on; changes nothing."""
    machine = read_machine()
    return [
        _check_python(),
        _check_processor(machine),
        _check_memory(machine),
        _check_disk(),
        _check_torch(machine),
        _check_pilot(),
        _check_compiler(),
        _check_sandbox(),
        *_check_extras(),
    ]


def _check_python() -> Check:
    return Check("Python", "ok", ".".join(map(str, sys.version_info[:3])))


def _check_processor(machine: Machine) -> Check:
    sets = ", ".join(machine.instruction_sets) or "none that deepground knows"
    detail = f"{machine.cpu}; {machine.cores} usable cores; {machine.architecture}; {sets}"
    if not machine.has_bf16:
        return Check(
            "Processor", "note", detail + "; no bf16 arithmetic", "Nothing to do: float32 is chosen on such processors."
        )
    return Check("Processor", "ok", detail)


def _check_memory(machine: Machine) -> Check:
    detail = f"{machine.memory_available / GIB:.1f} GiB free of {machine.memory_total / GIB:.1f} GiB"
    if machine.memory_available < GIB:
        return Check("Memory", "missing", detail, "The bundled model needs about 1 GiB free; close other programs.")
    return Check("Memory", "ok", detail)


def _check_disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"{free / GIB:.1f} GiB free in the current folder"
    if free < GIB:
        return Check("Disk", "note", detail, "Converting and training write checkpoints; free some space.")
    return Check("Disk", "ok", detail)


def _check_torch(machine: Machine) -> Check:
    capability = torch.backends.cpu.get_cpu_capability()
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    detail = f"torch {torch.__version__}; {capability} kernels; {torch.get_num_threads()} threads; {gpu}"
    if torch.get_num_threads() > machine.cores:
        return Check("torch", "note", detail, f"More threads than cores: set OMP_NUM_THREADS={machine.cores}.")
    return Check("torch", "ok", detail)


def _check_pilot() -> Check:
    folder = Path(deepground.__file__).parent / "pilot"
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        return Check("Bundled model", "missing", f"no weights in {folder}", "Install deepground from a full checkout.")
    return Check("Bundled model", "ok", f"{sum(w.stat().st_size for w in weights) / 2**20:.1f} MiB")


def _check_compiler() -> Check:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return Check(
            "C++ compiler",
            "note",
            "none found",
            "Only building from source needs one. On Debian or Ubuntu: sudo apt install g++",
        )
    return Check("C++ compiler", "ok", _first_line([compiler, "--version"]))


def _check_sandbox() -> Check:
    try:
        sandbox = find_sandbox()
    except SandboxUnavailableError as error:
        return Check("Sandbox", "note", "programs cannot be isolated: code that a model wrote is not run", str(error))
    detail = f"{_first_line([str(sandbox.bubblewrap), '--version'])}; system-call filter; own limits on each process"
    if sandbox.groups is None:
        cure = "Nothing to do: memory and processes of a program are counted from outside, every 50 ms."
        return Check("Sandbox", "note", detail + "; no control groups", cure)
    return Check("Sandbox", "ok", f"{detail}; control groups version {sandbox.groups.version}")


def _check_extras() -> Iterator[Check]:
    for package, purpose in (("reasoning_gym", "training and evaluation tasks"), ("tensorboard", "training curves")):
        if find_spec(package) is None:
            cure = "pip install 'deepground[train]'"
            yield Check(package, "note", f"not installed; needed for {purpose}", cure)
        else:
            yield Check(package, "ok", purpose)


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout or done.stderr).splitlines()[0] if done.stdout or done.stderr else command[0]
