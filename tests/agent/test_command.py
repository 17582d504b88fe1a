"""`deepground agent` as a program: its output, its exit codes, and that it never hangs."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.scripted_endpoint import Fails, Raw, Reply, ScriptedEndpoint, Step, call, finish
from deepground.agent.tools import plain_tests

pytestmark = pytest.mark.usefixtures("sandbox")
BROKEN = "def add(a, b):\n    return a - b\n"
TESTS = "from calc import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n"
REPAIR = (call("edit_file", path="calc.py", old="a - b", new="a + b"), finish("repaired"))

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def calc(folder: Path) -> Path:
    (folder / "calc.py").write_text(BROKEN)
    (folder / "test_calc.py").write_text(TESTS)
    (folder / "plain.py").write_text(Path(plain_tests.__file__).read_text())
    return folder


def environment(state: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(state), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "COLUMNS": "200"}


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run the command without a terminal."""

    def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        if "-w" in arguments:
            arguments = (*arguments, "--test-command", "python3 plain.py")
        return subprocess.run(
            [sys.executable, "-m", "deepground", "agent", *arguments], env=environment(tmp_path / "state"),
            capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL, **more,
        )  # fmt: skip

    return run


def with_script(command: Command, script: list[Step], *arguments: str) -> subprocess.CompletedProcess[str]:
    with ScriptedEndpoint(script) as scripted:
        done = command(*arguments, "--url", scripted.base_url)
        assert scripted.faults == []
    return done


class TestOutput:
    def test_answer_alone_on_stdout(self, command: Command, calc: Path) -> None:
        done = with_script(command, list(REPAIR), "Repair it", "--workspace", str(calc))  # pytest
        assert (done.returncode, done.stdout) == (0, "repaired\n")
        assert "● edit_file" in done.stderr
        assert "completed: Checked: 1 passed" in done.stderr
        assert "+    return a + b" in done.stderr

    def test_events_as_json_lines(self, command: Command, calc: Path) -> None:
        done = with_script(command, list(REPAIR), "Repair it", "-w", str(calc), "--json")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        assert [event["seq"] for event in events] == list(range(len(events)))
        assert (events[0]["type"], events[-1]["type"], events[-1]["status"]) == (
            "run_started",
            "run_ended",
            "completed",
        )
        assert "+    return a + b" in events[-1]["diff"]
        assert done.stderr == ""

    def test_structured_answer(self, command: Command, calc: Path, tmp_path: Path) -> None:
        schema = tmp_path / "schema.json"
        schema.write_text('{"type": "object", "properties": {"changed": {"type": "integer"}}, "required": ["changed"]}')
        script = [REPAIR[0], finish("one line"), finish({"changed": 1})]
        done = with_script(command, script, "Repair it", "-w", str(calc), "--schema", str(schema))
        assert (done.returncode, json.loads(done.stdout)) == (0, {"changed": 1})

    def test_what_a_model_writes_cannot_steer_the_terminal(self, command: Command, calc: Path) -> None:
        script = [Reply("\x1b]0;evil\x07\x1b[2J", calls=(("view_file", {"path": "calc.py"}),)), finish("\x1b[31mred")]
        done = with_script(command, script, "Look", "-w", str(calc), "--max-steps", "2")
        assert "\x1b" not in done.stdout + done.stderr


class TestExitCodes:
    def test_claim_without_a_passing_check(self, command: Command, calc: Path) -> None:
        done = with_script(command, [Reply("All tests pass!")] * 5, "Repair it", "-w", str(calc))
        assert done.returncode in {4, 5}

    def test_budget(self, command: Command, calc: Path) -> None:
        script = [call("view_file", path="calc.py"), call("run_tests")]
        done = with_script(command, list(script), "Repair it", "-w", str(calc), "--max-steps", "2")
        assert done.returncode == 6

    def test_endpoint_that_is_not_there(self, command: Command, calc: Path) -> None:
        done = command("Repair it", "-w", str(calc), "--url", "http://127.0.0.1:9")
        assert done.returncode == 1
        assert done.stderr.startswith("error: No endpoint answers at http://127.0.0.1:9/v1")

    def test_endpoint_that_refuses(self, command: Command, calc: Path) -> None:
        done = with_script(command, [Fails(400, "no such thing")], "Repair it", "-w", str(calc))
        assert done.returncode == 1

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["x", "-w", "/nowhere"], 1, "Name a folder that exists"),
            (["x", "-w", "/"], 1, "far more than one task's files"),
            (["x", "--max-steps", "0"], 2, "--max-steps"),
            (["x", "--rules", "/nowhere"], 1, "rules in /nowhere"),
            (["x", "--schema", "/nowhere"], 1, "schema in /nowhere"),
            (["show", "nothing"], 1, "no run 'nothing'"),
            (["resume", "last"], 1, "no runs yet"),
            (["--frobnicate", "x"], 2, "No such option"),
        ],
    )
    def test_what_cannot_be_done(self, command: Command, arguments: list[str], code: int, said: str) -> None:
        with ScriptedEndpoint([]) as scripted:
            more = ["--url", scripted.base_url] if arguments[0] == "x" else []
            done = command(*arguments, *more)
        assert done.returncode == code
        assert said in " ".join(done.stderr.split())


class TestWithoutATerminal:
    def test_questions_and_approvals_are_not_waited_for(self, command: Command, calc: Path, tmp_path: Path) -> None:
        rules = tmp_path / "rules.json"
        rules.write_text('{"rules": [{"tool": "shell", "action": "ask"}, {"tool": "python", "action": "deny"}]}')
        script = [
            call("ask", question="Shall I?"), call("shell", command="touch a"), call("python", code="1"), finish("ok")
        ]  # fmt: skip
        arguments = ["x", "-w", str(calc), "--rules", str(rules), "--json", "--max-steps", "4"]
        done = with_script(command, list(script), *arguments)
        results = [json.loads(line) for line in done.stdout.splitlines() if '"type": "tool_result"' in line]
        assert "Nobody is there" in results[0]["content"]
        assert "not approved" in results[1]["content"]
        assert "forbid" in results[2]["content"]
        done = with_script(command, list(script), *arguments, "--yes")
        results = [json.loads(line) for line in done.stdout.splitlines() if '"type": "tool_result"' in line]
        assert [result["is_error"] for result in results] == [False, False, True, True]
        assert (calc / "a").exists()

    def test_ask_first(self, command: Command, calc: Path) -> None:
        script = [call("view_file", path="calc.py"), *REPAIR]
        done = with_script(command, list(script), "x", "-w", str(calc), "--ask", "--json", "--max-steps", "3")
        results = [json.loads(line) for line in done.stdout.splitlines() if '"type": "tool_result"' in line]
        assert [result["is_error"] for result in results] == [False, True, True]
        assert (calc / "calc.py").read_text() == BROKEN


class TestEarlierRuns:
    def test_list_show_replay(self, command: Command, calc: Path, tmp_path: Path) -> None:
        script = [Reply("<b>Hm</b>", reasoning="Let me see.", calls=REPAIR[0].calls), REPAIR[1]]
        with_script(command, script, "Repair <it>", "-w", str(calc))
        (row,) = [json.loads(line) for line in command("list", "--json").stdout.splitlines()]
        assert (row["status"], row["task"], row["steps"]) == ("completed", "Repair <it>", 2)
        assert row["id"] in command("list").stdout
        shown = command("show", row["id"]).stdout
        assert "Let me see." in shown
        assert "You carry out the user's task" in shown
        assert "completed: Checked: 1 passed" in command("replay", "last", "--speed", "100").stdout
        page = tmp_path / "run.html"
        assert command("show", "last", "--html", str(page)).returncode == 0
        text = page.read_text()
        assert "<h1>Repair &lt;it&gt;</h1>" in text
        assert "&lt;b&gt;Hm&lt;/b&gt;" in text
        assert '<span class="add">+    return a + b</span>' in text
        assert "<script" not in text

    def test_resume_of_a_completed_run_does_nothing(self, command: Command, calc: Path) -> None:
        with_script(command, list(REPAIR), "Repair it", "-w", str(calc))
        assert with_script(command, [], "resume", "last").returncode == 0

    def test_more_budget(self, command: Command, calc: Path) -> None:
        script = [call("view_file", path="calc.py")]
        assert with_script(command, list(script), "x", "-w", str(calc), "--max-steps", "1").returncode == 6
        assert with_script(command, [], "resume", "last").returncode == 6
        assert with_script(command, list(REPAIR), "resume", "last", "--max-steps", "5").returncode == 0


class TestStopping:
    def start(self, tmp_path: Path, url: str, calc: Path) -> subprocess.Popen[str]:
        arguments = ["agent", "Repair it", "-w", str(calc), "--url", url, "--json"]
        return subprocess.Popen(
            [sys.executable, "-m", "deepground", *arguments], env=environment(tmp_path / "state"), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_in_a_tool_then_resumed(self, command: Command, calc: Path, tmp_path: Path, number: int) -> None:
        with ScriptedEndpoint([call("shell", command="sleep 30")]) as scripted:
            process = self.start(tmp_path, scripted.base_url, calc)
            assert process.stdout is not None
            while '"type": "tool_call"' not in process.stdout.readline():
                pass
            start = time.monotonic()
            process.send_signal(number)
            out, _ = process.communicate(timeout=20)
        assert time.monotonic() - start < 10
        assert process.returncode == 130
        last = json.loads(out.splitlines()[-1])
        assert (last["type"], last["status"]) == ("run_ended", "cancelled")
        assert with_script(command, list(REPAIR), "resume", "last").returncode == 0

    def test_in_a_reply(self, calc: Path, tmp_path: Path) -> None:
        with ScriptedEndpoint([Raw(b": hello\n\n", then_stall=5)]) as scripted:
            process = self.start(tmp_path, scripted.base_url, calc)
            assert process.stdout is not None
            while '"type": "model_call"' not in process.stdout.readline():
                pass
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=10)
        assert process.returncode == 130
        assert json.loads(out.splitlines()[-1])["status"] == "cancelled"

    def test_twice_is_at_once(self, calc: Path, tmp_path: Path) -> None:
        with ScriptedEndpoint([call("shell", command="sleep 30")]) as scripted:
            process = self.start(tmp_path, scripted.base_url, calc)
            assert process.stdout is not None
            while '"type": "tool_call"' not in process.stdout.readline():
                pass
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=10)
        assert process.returncode == 130


class TestAtATerminal:
    """A real pseudo-terminal, with a person at its other end."""

    def converse(
        self, tmp_path: Path, script: list[Step], arguments: list[str], says: dict[str, str]
    ) -> tuple[int, str]:
        with ScriptedEndpoint(script) as scripted:
            agent = [sys.executable, "-m", "deepground", "agent"]
            ours, theirs = pty.openpty()
            process = subprocess.Popen(
                ["setsid", "--ctty", *agent, f"--url={scripted.base_url}", *arguments],
                env=environment(tmp_path / "state") | {"TERM": "dumb"}, stdin=theirs, stdout=theirs, stderr=theirs,
            )  # fmt: skip
            os.close(theirs)
            seen, waiting = "", dict(says)
            while select.select([ours], [], [], 30)[0]:
                try:
                    piece = os.read(ours, 4096).decode(errors="replace")
                except OSError:  # the other end is closed
                    break
                if not piece:
                    break
                seen += piece
                for prompt in [prompt for prompt in waiting if prompt in seen]:
                    os.write(ours, waiting.pop(prompt).encode())
            os.close(ours)
            return process.wait(timeout=20), seen

    def test_approval_and_question(self, calc: Path, tmp_path: Path) -> None:
        script = [call("ask", question="Which?", options=["plus", "minus"]), *REPAIR]
        says = {"2. minus": "1\n", "Run this? [y/N]": "y\n"}
        code, seen = self.converse(tmp_path, list(script), ["x", "-w", str(calc), "--ask"], says)
        assert code == 0, seen
        assert "plus" in seen.split("2. minus")[1]
        assert (calc / "calc.py").read_text() == BROKEN.replace("-", "+")

    def test_ctrl_c_at_a_question(self, calc: Path, tmp_path: Path) -> None:
        code, seen = self.converse(tmp_path, [call("ask", question="Which?")], ["x", "-w", str(calc)], {"> ": "\x03"})
        assert (code, "cancelled" in seen) == (130, True)
