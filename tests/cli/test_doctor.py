"""`deepground doctor` as a user sees it."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from deepground.cli import app
from deepground.doctor import diagnose


def test_every_problem_has_a_cure() -> None:
    checks = diagnose()
    assert {"Python", "Processor", "Memory", "torch", "Sandbox"} <= {check.name for check in checks}
    for check in checks:
        assert check.detail
        if check.status == "missing":
            assert check.cure


def test_json_output_is_json() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    findings = json.loads(result.stdout)
    assert {"name", "status", "detail", "cure"} == set(findings[0])
    assert result.exit_code == int(any(f["status"] == "missing" for f in findings))


def test_table_names_each_check() -> None:
    result = CliRunner().invoke(app, ["doctor"], terminal_width=200)
    assert "Processor" in result.stdout
    assert "Sandbox" in result.stdout
