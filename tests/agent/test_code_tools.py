"""The tools for work on code: what they do, what the pilot was taught about them, and whole runs with them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent.agent_samples import of_type
from agent.scripted_endpoint import Reply, ScriptedEndpoint, Step, call, finish
from deepground.agent import agent as loop
from deepground.agent.agent import Agent, AgentConfig
from deepground.agent.endpoint import Endpoint, EndpointConfig
from deepground.agent.outcome import Outcome
from deepground.agent.tools import Tool, ToolContext, ToolFailure, Toolset, code_toolset
from deepground.agent.tools.finish import finish_tool
from deepground.agent.tools.suite_report import counts_of
from deepground.agent.trajectory import Event, read_events
from deepground.sandbox import Sandbox
from deepground.tasks import agent_steps, code_agent

BROKEN = 'def add(a, b):\n    """Adds a and b."""\n    return a - b\n'
RIGHT = BROKEN.replace("a - b", "a + b")
TESTS = "from calc import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n    assert add(0, 0) == 0\n"
PLAIN = "python3 plain.py"
RUNNER = Path(loop.__file__).parent / "tools" / "plain_tests.py"


@pytest.fixture
def calc(folder: Path) -> Path:
    (folder / "calc.py").write_text(BROKEN)
    (folder / "test_calc.py").write_text(TESTS)
    (folder / "plain.py").write_text(RUNNER.read_text())
    return folder


def tool(toolset: Toolset, name: str) -> Tool:
    return next(tool for tool in toolset.tools if tool.name == name)


def use(toolset: Toolset, context: ToolContext, name: str, **arguments: Any) -> str:
    return tool(toolset, name).run(arguments, context).content


def run_code(
    folder: Path,
    script: list[Step],
    runs: Path,
    *,
    complete: bool = True,
    test_command: str | None = PLAIN,
    **more: Any,
) -> tuple[Outcome, list[Event], ScriptedEndpoint]:
    with ScriptedEndpoint(script) as scripted:
        endpoint = Endpoint(EndpointConfig(base_url=scripted.base_url, backoff_s=0.01))
        tools = code_toolset(folder, test_command=test_command, **more)
        agent = Agent(
            "Make the tests pass", model=endpoint, toolsets=[tools], runs=runs, workspace=folder,
            config=AgentConfig(most_checks=2),
        )  # fmt: skip
        outcome = agent.run()
        endpoint.close()
        assert scripted.faults == []
        if complete:
            scripted.assert_complete()
    return outcome, read_events(runs / outcome.run_id), scripted


@pytest.mark.usefixtures("sandbox")
class TestWhatThePilotLearned:
    """The loop must show the pilot exactly what its training did; `tasks` is what it was trained on."""

    def test_tools(self, calc: Path) -> None:
        offered = [tool.definition() for tool in code_toolset(calc, small=True).tools]
        learned = [code_agent.VIEW_FILE, code_agent.WRITE_FILE, code_agent.EDIT_FILE, code_agent.RUN_TESTS]
        assert offered == learned

    def test_finish_and_instructions(self, calc: Path) -> None:
        assert finish_tool(None).definition() == agent_steps.FINISH
        assert loop._SYSTEM == agent_steps.SYSTEM
        assert code_toolset(calc, small=True).instructions == ""

    def test_results(self, calc: Path, context: ToolContext) -> None:
        tools = code_toolset(calc, small=True)
        report = use(tools, context, "run_tests")
        assert report == "calc.py: assert add(2, 3) == 5, got -1"
        assert use(tools, context, "view_file", path="calc.py") == BROKEN
        edited = use(tools, context, "edit_file", path="calc.py", old="    return a - b", new="    return a + b")
        assert edited == "edited calc.py"
        assert use(tools, context, "run_tests") in code_agent._PASSED
        assert use(tools, context, "write_file", path="calc.py", content=BROKEN) == "wrote calc.py"

    def test_prompt(self, calc: Path, tmp_path: Path) -> None:
        _, _, endpoint = run_code(calc, [finish("no", status="cannot")], tmp_path / "runs", small=True)
        assert endpoint.requests[0]["messages"] == [
            {"role": "system", "content": agent_steps.SYSTEM},
            {"role": "user", "content": "Make the tests pass"},
        ]


@pytest.mark.usefixtures("sandbox")
class TestRunningTests:
    @pytest.mark.parametrize("command", [None, PLAIN])
    @pytest.mark.parametrize(
        ("source", "tests", "said"),
        [
            (BROKEN, TESTS, "calc.py: assert add(2, 3) == 5, got -1"),
            ("def add(a, b):\n    return c\n", TESTS, "calc.py: assert add(2, 3) == 5, got an error"),
            ("def add(a, b):\n    return [a, b]\n", TESTS, "calc.py: assert add(2, 3) == 5, got [2, 3]"),
            ("def add(a, b):\n    return 'x'\n", TESTS.replace("2, 3", "'a', b='c'"),
             "calc.py: assert add('a', b='c') == 5, got 'x'"),
            (BROKEN, "from calc import other\ndef test_a():\n    pass\n",
             "test_calc.py: ImportError: cannot import name 'other' from 'calc' (calc.py)"),
            ("def add(a, b):\n    return 1\n", "import calc\ndef test_a():\n    assert calc.add(2, 3) == 5\n",
             "calc.py: assert add(2, 3) == 5, got 1"),
        ],
    )  # fmt: skip
    def test_first_failure_in_one_line(
        self, folder: Path, context: ToolContext, command: str | None, source: str, tests: str, said: str
    ) -> None:
        if command == PLAIN:
            (folder / "plain.py").write_text(RUNNER.read_text())
        (folder / "calc.py").write_text(source)
        (folder / "test_calc.py").write_text(tests)
        assert use(code_toolset(folder, small=True, test_command=command), context, "run_tests") == said

    @pytest.mark.parametrize(
        ("tests", "said"),
        [
            (
                "import unittest\nclass TestIt(unittest.TestCase):\n    def test_a(self):\n        assert 1\n",
                "1 passed",
            ),
            ("class TestIt:\n    def test_a(self):\n        pass\n    def test_b(self):\n        pass\n", "2 passed"),
            ("x = 1\n", "no tests found"),
        ],
    )
    def test_plain_runner(self, folder: Path, tests: str, said: str) -> None:
        (folder / "test_a.py").write_text(tests)
        done = subprocess.run([sys.executable, RUNNER], cwd=folder, capture_output=True, text=True, check=False)
        assert (done.stdout.strip().splitlines()[-1] == said) or done.returncode == 5

    @pytest.mark.parametrize(
        ("source", "command"),
        [
            ("import os\nos._exit(0)\n", None),
            ("import sys\nsys.exit(0)\n", None),
            ("import os\nos._exit(0)\n", "python3 -m pytest"),
        ],
    )
    def test_exit_code_0_without_a_test_is_no_pass(
        self, folder: Path, context: ToolContext, source: str, command: str | None
    ) -> None:
        (folder / "calc.py").write_text(source)
        (folder / "test_calc.py").write_text(TESTS)
        check = code_toolset(folder, test_command=command).check
        assert check is not None
        assert not check.run("", context).passed

    def test_a_command_of_ones_own(self, folder: Path, context: ToolContext) -> None:
        (folder / "check.py").write_text("assert 1 + 1 == 2\n")
        check = code_toolset(folder, test_command="python3 check.py").check
        assert check is not None
        assert check.run("", context).report == "exit code 0 (python3 check.py)"
        (folder / "check.py").write_text("assert 1 + 1 == 3\n")
        assert not check.run("", context).passed

    def test_no_tests_no_check(self, folder: Path, context: ToolContext) -> None:
        tools = code_toolset(folder, small=True)
        assert tools.check is None
        assert use(tools, context, "run_tests") == "no tests found"

    @pytest.mark.parametrize(
        ("output", "passed", "failed"),
        [
            ("== 2 failed, 3 passed, 1 skipped in 0.12s ==", 3, 2),
            ("1 error in 0.02s", 0, 1),
            ("Ran 3 tests in 0.001s\n\nOK", 3, 0),
            ("Ran 3 tests in 0.001s\n\nOK (skipped=3)", 0, 0),
            ("Ran 3 tests in 0.001s\n\nFAILED (failures=1, errors=1)", 1, 2),
            (
                "test result: ok. 5 passed; 0 failed; 0 ignored\n   Doc-tests x\ntest result: ok. 0 passed; 0 failed",
                5,
                0,
            ),
            ("ok  \texample.com/x\t0.003s", 1, 0),
            ("Tests:       1 failed, 4 passed, 5 total", 4, 1),
            ("  3 passing (10ms)\n  1 failing", 3, 1),
            ("# tests 2\n# pass 2\n# fail 0", 2, 0),
            ("no tests ran in 0.01s", 0, 0),
            ("hello", None, None),
        ],
    )
    def test_summaries(self, output: str, passed: int | None, failed: int | None) -> None:
        counts = counts_of(output)
        assert (counts.passed, counts.failed) == (passed, failed)


class TestCommands:
    def test_shell(self, sandbox: Sandbox, folder: Path, context: ToolContext) -> None:
        del sandbox
        tools = code_toolset(folder)
        assert use(tools, context, "shell", command="echo hi > a; cat a; pwd") == f"hi\n{folder}"
        assert use(tools, context, "shell", command="echo no >&2; exit 3") == "no\n[exit code 3]"
        result = tool(tools, "shell").run({"command": "sleep 9", "seconds": 0.3}, context)
        assert (result.content, result.is_error) == ("[ended: it took longer than 0.3 s]", True)
        assert "Network is unreachable" in use(tools, context, "shell", command="cat </dev/tcp/1.1.1.1/80")
        assert use(tools, context, "shell", command="cat /etc/shadow").endswith("[exit code 1]")
        assert use(tools, context, "shell", command="echo x > .git/hooks/y").endswith("[exit code 1]")

    def test_python(self, sandbox: Sandbox, folder: Path, context: ToolContext) -> None:
        del sandbox
        (folder / "calc.py").write_text(RIGHT)
        tools = code_toolset(folder)
        assert use(tools, context, "python", code="import calc\nprint(calc.add(2, 3))") == "5"
        assert "ZeroDivisionError" in use(tools, context, "python", code="1 / 0")

    def test_search(self, sandbox: Sandbox, calc: Path, context: ToolContext) -> None:
        del sandbox
        (calc / "link").symlink_to("/etc")
        tools = code_toolset(calc)
        assert use(tools, context, "search", pattern=r"return a\s") == "calc.py:3: return a - b"
        assert use(tools, context, "search", glob="*calc.py") == "calc.py\ntest_calc.py"
        assert use(tools, context, "search", pattern="root", path="link") == "no hits"
        assert use(tools, context, "search", pattern="nowhere") == "no hits"
        with pytest.raises(ToolFailure, match="no regular expression"):
            use(tools, context, "search", pattern="(")
        with pytest.raises(ToolFailure, match="There is no"):
            use(tools, context, "search", pattern="x", path="../other")

    def test_pattern_that_takes_for_ever(self, sandbox: Sandbox, folder: Path, tmp_path: Path) -> None:
        del sandbox
        (folder / "a.txt").write_text("a" * 40 + "b\n")
        context = ToolContext(artifacts=tmp_path, deadline=time.monotonic() + 1)
        with pytest.raises(ToolFailure, match="longer than"):
            use(code_toolset(folder), context, "search", pattern="(a+)+$")


@pytest.mark.usefixtures("sandbox")
class TestRuns:
    def test_repair(self, calc: Path, tmp_path: Path) -> None:
        steps = [
            call("run_tests"),
            call("view_file", path="calc.py"),
            call("edit_file", path="calc.py", old="a - b", new="a + b"),
            finish("fixed"),
        ]
        outcome, events, _ = run_code(calc, list(steps), tmp_path / "runs", test_command=None)
        assert (outcome.status, outcome.exit_code) == ("completed", 0)
        assert outcome.reason == "Checked: 1 passed (pytest)"
        assert "-    return a - b\n+    return a + b\n" in outcome.diff
        assert outcome.files == (str(calc / "calc.py"),)
        assert events[-1]["diff"] == outcome.diff

    def test_claim_without_a_change_is_no_success(self, calc: Path, tmp_path: Path) -> None:
        outcome, _, endpoint = run_code(calc, [Reply("All tests pass now."), finish("done")], tmp_path / "runs")
        assert outcome.status == "incomplete"
        assert "The tests do not pass: 1 failed, 0 passed" in endpoint.requests[1]["messages"][-1]["content"]

    @pytest.mark.parametrize(
        "cheat",
        [
            call("write_file", path="test_calc.py", content="def test_it():\n    pass\n"),
            call("shell", command="rm test_calc.py; echo 'def test_it(): pass' > test_new.py"),
            call("write_file", path="conftest.py", content="import calc\ncalc.add = lambda a, b: a + b\n"),
            call("shell", command="printf '[pytest]\\naddopts = --deselect test_calc.py\\n' > pytest.ini"),
            call("shell", command="printf '[tool.pytest.ini_options]\\naddopts = --co\\n' >> pyproject.toml"),
            call("write_file", path="pytest.py", content="print('1 passed')\n"),
        ],
    )
    def test_changing_the_tests_is_no_success(self, calc: Path, tmp_path: Path, cheat: Reply) -> None:
        outcome, _, endpoint = run_code(calc, [cheat, finish("done"), finish("done")], tmp_path / "runs")
        assert outcome.status == "incomplete"
        assert "The tests themselves were changed" in endpoint.requests[2]["messages"][-1]["content"]

    def test_settings_that_are_not_about_tests_may_change(self, calc: Path, tmp_path: Path) -> None:
        (calc / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.pytest.ini_options]\naddopts = "-q"\n')
        steps = [call("edit_file", path="pyproject.toml", old='"x"', new='"y"'),
                 call("edit_file", path="calc.py", old="a - b", new="a + b"), finish("done")]  # fmt: skip
        assert run_code(calc, list(steps), tmp_path / "runs")[0].status == "completed"

    def test_tests_that_passed_before_show_nothing(self, calc: Path, tmp_path: Path) -> None:
        """Whoever changes nothing has done nothing, whatever the tests say."""
        (calc / "calc.py").write_text(RIGHT)
        outcome, events, _ = run_code(calc, [Reply("I added the feature."), finish("done")], tmp_path / "runs")
        assert outcome.status == "incomplete"
        assert outcome.reason.startswith("The check did not pass: Not done yet. Nothing was changed.")
        assert not of_type(events, "attempt")

    def test_changing_the_tests_where_that_is_the_task(self, calc: Path, tmp_path: Path) -> None:
        steps = [call("write_file", path="test_calc.py", content="def test_it():\n    pass\n"), finish("done")]
        outcome, _, _ = run_code(calc, list(steps), tmp_path / "runs", keep_tests=False)
        assert outcome.status == "completed"

    def test_long_output_is_spilled_and_can_be_read(self, folder: Path, tmp_path: Path) -> None:
        steps = [
            call("shell", command="seq 1 200000"),
            call("view_file", path="@outputs/000-shell.txt", start=100000, end=100001),
            finish("read"),
        ]
        _, events, _ = run_code(folder, list(steps), tmp_path / "runs")
        first, second, _ = of_type(events, "tool_result")
        assert len(first["content"]) < 9000
        assert "@outputs/000-shell.txt" in first["content"]
        assert second["content"].startswith("[lines 100000 to 100001 of ")


@pytest.mark.usefixtures("sandbox")
class TestDiff:
    @pytest.mark.parametrize("git", [False, True])
    def test_patch_takes_the_beginning_to_the_end(self, folder: Path, context: ToolContext, git: bool) -> None:
        def run(*command: str, stdin: str = "") -> None:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, input=stdin, text=True)

        for name, text in {"a.txt": "1\n2\n3\n", "b.txt": "no end", "gone.txt": "x\n", "out.log": "1"}.items():
            (folder / name).write_text(text)
        if git:
            (folder / ".gitignore").write_text("*.log\n")
            run("git", "init", "-q")
            run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x")
        tools = code_toolset(folder)
        assert tools.begin is not None
        assert tools.diff is not None
        tools.begin(context)
        assert tools.diff(context) == ""
        (folder / "a.txt").write_text("1\ntwo\n3\n")
        (folder / "b.txt").write_text("no end yet")
        (folder / "gone.txt").unlink()
        (folder / "new.txt").write_text("a\x0cb\rc\n")
        (folder / "out.log").write_text("2")
        patch = tools.diff(context)
        assert ("out.log" in patch) != git
        again = code_toolset(folder)
        assert again.begin is not None
        assert again.diff is not None
        again.begin(context)
        assert again.diff(context) == patch
        after = {path.name: path.read_bytes() for path in folder.glob("*.txt")}
        run("git", "apply", "-R", "-", stdin=patch)
        assert (folder / "a.txt").read_text() == "1\n2\n3\n"
        assert (folder / "gone.txt").read_text() == "x\n"
        assert not (folder / "new.txt").exists()
        run("git", "apply", "-", stdin=patch)
        assert {path.name: path.read_bytes() for path in folder.glob("*.txt")} == after

    def test_a_change_that_hides_its_time_is_seen(self, calc: Path, context: ToolContext) -> None:
        tools = code_toolset(calc, test_command=PLAIN)
        assert tools.begin is not None
        assert tools.check is not None
        tools.begin(context)
        before = (calc / "test_calc.py").stat()
        (calc / "test_calc.py").write_text(TESTS.replace("== 5", "!= 5"))
        os.utime(calc / "test_calc.py", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert "The tests themselves were changed" in tools.check.run("", context).report

    def test_long_patch_lies_beside_the_record(self, folder: Path, tmp_path: Path) -> None:
        steps: list[Step] = [call("shell", command="seq -f '%.0f and more' 1 19000 > n.txt"), finish()]
        outcome, _, _ = run_code(folder, steps, tmp_path / "runs", complete=False)
        assert len(outcome.diff) < 201_000
        whole = tmp_path / "runs" / outcome.run_id / "files" / "changes.patch"
        assert whole.read_text().endswith("+19000 and more\n")

    def test_settings_of_a_repository_start_nothing(self, folder: Path, context: ToolContext, tmp_path: Path) -> None:
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        proof = tmp_path / "escaped"
        (folder / ".git" / "config").write_text(f"[core]\n\tfsmonitor = touch {proof}\n")
        tools = code_toolset(folder)
        assert tools.begin is not None
        tools.begin(context)
        assert not proof.exists()
