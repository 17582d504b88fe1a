"""The table of largest differences, printed at the end of a run."""

from __future__ import annotations

import pytest

DIFFERENCES = pytest.StashKey[dict[str, dict[str, float]]]()
KINDS = ("prefill", "cached", "layers", "native")


@pytest.fixture(scope="session")
def differences(pytestconfig: pytest.Config) -> dict[str, dict[str, float]]:
    """Largest difference from transformers by configuration and kind; tests add to it."""
    return pytestconfig.stash.setdefault(DIFFERENCES, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash.get(DIFFERENCES, {})
    if not table:
        return
    terminalreporter.section("largest difference from transformers, float32")
    terminalreporter.line(" ".join((f"{'':24}", *(f"{kind:>10}" for kind in KINDS))))
    for name, row in table.items():
        figures = (f"{row[kind]:10.1e}" if kind in row else f"{'-':>10}" for kind in KINDS)
        terminalreporter.line(" ".join((f"{name:24}", *figures)))
