"""The README is true: its commands exist, its files are there, and its Python runs against the bundled model."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from deepground.cli import app

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "README.zh-TW.md"]
ADDRESS = "http://127.0.0.1:8000"


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """`deepground serve` with the bundled model, as `make serve` starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "deepground", "serve", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            wait_until_healthy(address, process)
            yield address
        finally:
            process.terminate()
            output, _ = process.communicate(timeout=30)
        assert address in output, "the server did not print its address"
        assert process.returncode == 0, output


def wait_until_healthy(address: str, process: subprocess.Popen[str]) -> None:
    for _ in range(300):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError("the server did not become healthy within a minute")


@pytest.mark.parametrize("readme", READMES, ids=lambda p: p.name)
def test_python_examples_run(readme: Path, server: str) -> None:
    examples = blocks(readme, "python")
    assert examples
    for example in examples:
        code = example.replace(ADDRESS, server)
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "734" in done.stdout


@pytest.mark.parametrize("readme", READMES, ids=lambda p: p.name)
def test_curl_example_answers(readme: Path, server: str) -> None:
    (command,) = (b for b in blocks(readme, "bash") if b.startswith("curl"))
    done = subprocess.run(["bash", "-c", command.replace(ADDRESS, server)], capture_output=True, text=True, check=False)
    assert '"734"' in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("readme", READMES, ids=lambda p: p.name)
def test_commands_and_targets_exist(readme: Path) -> None:
    text = readme.read_text()
    for verb in set(re.findall(r"`deepground (\w+)", text)):
        assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0, verb
    targets = set(re.findall(r"\bmake (\w+)", "".join(re.findall(r"`[^`]*make [^`]*`|^make \w+", text, re.MULTILINE))))
    makefile = (ROOT / "Makefile").read_text()
    assert {"serve", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", sorted([*READMES, *(ROOT / "docs").rglob("*.md")]), ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link
