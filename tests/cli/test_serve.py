"""The serve command: what it prints, how it ends, what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from deepground.cli import app
from deepground.errors import ListenError, ModelFolderError, SandboxError
from deepground.server import bind
from tiny_models import tiny_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny", max_positions=100_000)


def test_starts_says_where_and_ends_in_order(folder: Path, tmp_path: Path) -> None:
    """SIGTERM lets a running stream end by its grace, cuts it then, and the exit code is 0."""
    command = [sys.executable, "-m", "deepground", "serve", str(folder), "--port", "0", "--grace", "1"]
    command += ["--served-name", "little", "--threads", "1", "--cache-gib", "0.05"]
    environment = {**os.environ, "DEEPGROUND_API_KEY": "sk-of-the-test", "XDG_CACHE_HOME": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        printed = ""
        while "address" not in printed:
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            printed += line
        assert "little (deepseek_v3" in printed
        assert "1 threads" in printed
        assert "API key needed" in printed
        assert f"cached in memory and in {tmp_path / 'deepground' / 'prefix'}" in printed
        found = re.search(r"http://127\.0\.0\.1:\d+", printed)
        assert found
        transport = httpx.HTTPTransport(retries=5)  # the address is printed a moment before it is listened to
        with httpx.Client(
            base_url=found[0], headers={"authorization": "Bearer sk-of-the-test"}, transport=transport
        ) as client:
            body = {
                "model": "little", "messages": [{"role": "user", "content": "a secret question"}], "stream": True,
                "max_tokens": 50_000,
            }  # fmt: skip
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()
                assert json.loads(next(lines).removeprefix("data: "))["model"] == "little"
                process.send_signal(signal.SIGTERM)
                frames = [line for line in lines if line]
                assert json.loads(frames[-1].removeprefix("data: "))["error"]["code"] == "aborted"
        rest, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert rest.endswith("stopped\n")
    assert "finish=aborted" in log
    assert "secret question" not in log
    assert "Traceback" not in log


def invoke(*arguments: str) -> BaseException | None:
    return CliRunner().invoke(app, ["serve", *arguments], env={"DEEPGROUND_API_KEY": None}).exception


def test_an_open_address_without_a_key_is_refused_before_anything_loads() -> None:
    error = invoke("no such model", "--host", "0.0.0.0")
    assert isinstance(error, ListenError)
    assert "DEEPGROUND_API_KEY" in str(error)


def test_a_port_in_use_is_refused_before_anything_loads() -> None:
    with bind("127.0.0.1", 0) as sock:
        sock.listen()
        error = invoke("no such model", "--port", str(sock.getsockname()[1]))
    assert isinstance(error, ListenError)


def test_no_model_there() -> None:
    assert isinstance(invoke("no such model", "--port", "0"), ModelFolderError)


def test_options_of_a_cache_that_is_switched_off_are_a_mistake() -> None:
    for switch in ("--no-prefix-cache", "--no-prefix-disk"):
        for option in (("--prefix-cache-dir", "somewhere"), ("--prefix-cache-disk-gib", "1")):
            result = CliRunner().invoke(app, ["serve", "no such model", "--port", "0", switch, *option])
            assert result.exit_code == 2
            assert option[0] in result.output


def test_an_empty_key_is_a_mistake() -> None:
    result = CliRunner().invoke(app, ["serve", "--api-key", " "])
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--agent-workspace", "."], "needs --agent"),
        (["--agent-url", "http://127.0.0.1:1/v1"], "needs --agent"),
        (["--agent", "--unix-socket", "a.sock"], "--agent-url"),
    ],
)
def test_options_of_the_agent_that_do_not_go_together(options: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["serve", *options], env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == 2
    assert told in result.output


def test_workspaces_of_the_agent_are_looked_at_before_the_model_is_loaded(folder: Path) -> None:
    with pytest.raises(SandboxError, match="holds far more than one task's files"):
        CliRunner().invoke(
            app, ["serve", str(folder), "--port", "0", "--agent", "--agent-workspace", "/"], catch_exceptions=False
        )


def test_agents_ask_the_server_itself_with_the_key_of_who_started_them(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deepground", "serve", str(folder), "--port", "0", "--agent", "--threads", "1"]
    command += ["--cache-gib", "0.05", "--no-prefix-disk", "--host", "0.0.0.0"]
    state = {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {**os.environ, "DEEPGROUND_API_KEY": "sk-of-the-test", **state}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        printed = ""
        while "address" not in printed:
            printed += (line := process.stdout.readline())
            assert line
        assert "agent    on; may work in no folder" in printed
        port = re.search(r"http://0\.0\.0\.0:(\d+)", printed)
        assert port
        transport = httpx.HTTPTransport(retries=5)
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port[1]}", headers={"authorization": "Bearer sk-of-the-test"},
            transport=transport, timeout=60,
        ) as client:  # fmt: skip
            run_id = client.post("/agent/runs", json={"task": "Plan a trip from Taipei to Tainan."}).json()["id"]
            told = client.get(f"/agent/runs/{run_id}/events").text
            # A model of random weights comes to nothing, and that is told; it was asked, and answered.
            assert '"type":"model_reply"' in told
            assert client.get(f"/agent/runs/{run_id}").json()["status"] in {"stuck", "incomplete", "budget"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert (tmp_path / "state" / "deepground" / "agent" / "runs" / run_id / "trajectory.jsonl").exists()
