"""Runs untrusted code: isolated, limited, without network; and not at all where that cannot be had."""

from deepground.sandbox.limits import KilledBy, Limits, Result
from deepground.sandbox.mounts import PROTECTED, resolve_workspace
from deepground.sandbox.sandbox import Sandbox, available, find_sandbox, run

__all__ = [
    "PROTECTED",
    "KilledBy",
    "Limits",
    "Result",
    "Sandbox",
    "available",
    "find_sandbox",
    "resolve_workspace",
    "run",
]
