"""Whole runs of the pilot as an agent, on tasks that training never shows: trips, repairs and new functions.

    python recipes/pilot_episodes.py MODEL --n 100

The model sees the agent's system prompt and tools, makes one call a turn, and is answered by what the call really
does: files are changed, tests run in the sandbox. A repair or a new function has succeeded if every test passes and the
run ends as done; a trip, if the last planned request holds exactly the wishes of the text and the run ends as done.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

from deepground.engine import LLM
from deepground.messages import Message, SamplingParams, Tool
from deepground.sandbox import Limits, find_sandbox
from deepground.tasks import TASKS, Problem
from deepground.tasks.agent_steps import FINISH, SYSTEM
from deepground.tasks.code_agent import EDIT_FILE, RUN_TESTS, VIEW_FILE, WRITE_FILE, apply_edit
from deepground.tasks.entities import Language
from deepground.tasks.trips import PLAN_TRIP, TripAgent
from deepground.train import wilson_interval

MOST_TURNS = 12
MOST_CHANGES = 5
_HARNESS = """
import json, sys
job = json.loads(sys.stdin.read())
names = {"__name__": "solution"}
try:
    exec(compile(job["program"], "program", "exec"), names)
except Exception as error:
    print(job["word"], "an error")
    sys.exit()
for call, expected in job["cases"]:
    try:
        got = repr(eval(call, names))
    except Exception as error:
        got = "an error"
    if got != expected:
        print(job["word"], f"assert {call} == {expected}, got {got}")
        sys.exit()
print(job["word"], "passed")
"""
_LIMITS = Limits(seconds=8.0, memory_bytes=512 * 2**20, processes=32, disk_bytes=64 * 2**20)


@dataclass
class Episode:
    """One run."""

    task: str
    problem: Problem
    files: dict[str, str] = field(default_factory=dict)
    path: str = ""
    cases: tuple[tuple[str, str], ...] = ()
    wanted: Mapping[str, Any] = field(default_factory=dict)
    planned: Mapping[str, Any] | None = None
    changes: int = 0
    ended: str = ""
    messages: list[Message] = field(default_factory=list)

    def respond(self, reply: Message) -> None:
        """Carries out the calls of a reply."""
        self.messages.append(reply)
        if not reply.tool_calls:
            self.ended = "no call"
        for call in reply.tool_calls:
            try:
                arguments = json.loads(call.arguments)
                result = self._run(call.name, arguments)
            except (ValueError, TypeError, KeyError) as error:
                result = json.dumps({"error": str(error)[:80]})
            self.messages.append(Message.tool(call.id, result))

    @property
    def succeeded(self) -> bool:
        """Whether the run ended as done, and is."""
        if self.ended != "done":
            return False
        return self.planned == self.wanted if self.wanted else self._test() == "passed"

    def _run(self, name: str, arguments: dict[str, Any]) -> str:
        if name == "finish":
            self.ended = str(arguments.get("status", "done"))
            return ""
        if name == "plan_trip":
            self.planned = {key: sorted(v) if key in _SETS else v for key, v in arguments.items()}
            return json.dumps({"ok": True, "days": arguments["days"], "total": 8200, "currency": "TWD"})
        if name == "run_tests":
            return self._test()
        path = arguments["path"]
        if name == "view_file":
            return self.files.get(path, f"no file {path}")
        self.changes += 1
        content = arguments["content"] if name == "write_file" else apply_edit(self.files.get(path, ""), arguments)
        if not isinstance(content, str):
            return "old does not occur once"
        self.files[path] = content
        return f"wrote {path}" if name == "write_file" else f"edited {path}"

    def _test(self) -> str:
        """What the tests say of the file, in the sandbox."""
        job = {"program": self.files.get(self.path, ""), "cases": self.cases, "word": "verdict"}
        python = str(Path(sys.executable).resolve())
        command = [python, "-I", "-c", _HARNESS]
        result = find_sandbox().run(command, limits=_LIMITS, stdin=json.dumps(job), read_only=[Path(sys.base_prefix)])
        lines = [line.removeprefix("verdict ") for line in result.stdout.splitlines() if line.startswith("verdict ")]
        said = lines[-1] if lines else "an error"
        return said if said == "passed" else f"{self.path}: {said}"


_SETS = frozenset({"interests", "transport", "avoid_transport", "diet", "must_see"})


def trip(seed: int) -> Episode:
    """A request for a trip in test words and test cities."""
    rng = Random(f"trip episode {seed}")
    language: Language = "zh" if rng.random() < 0.4 else "en"
    _, wanted, text = TripAgent().request(rng, "test", rng.randint(1, 4), language)
    problem = Problem("trip", text, "", "", 1, seed)
    sets = {key: sorted(v) if key in _SETS else v for key, v in wanted.items()}
    return Episode("trip", problem, wanted=sets)


def code(kind: str, seed: int) -> Episode:
    """A broken function to repair, or one to write, of the test split."""
    while True:
        seed += 1_000_000
        problem = TASKS["code_agent"].generate(seed, "test")
        if problem.meta["kind"] == ("fix" if kind == "repair" else "write"):
            break
    path = json.loads(problem.calls[0].arguments)["path"]
    tests = [line.removeprefix("assert ").partition(" == ") for line in problem.meta["tests"].split("\n")]
    cases = tuple((call, value) for call, _, value in tests)
    files = {path: problem.meta["content"]} if kind == "repair" else {}
    return Episode(kind, problem, files, path, cases)


def run_all(llm: LLM, episodes: list[Episode], tools: tuple[Tool, ...]) -> None:
    """Every episode to its end, all of them side by side."""
    params = SamplingParams(temperature=0.0, max_tokens=256)
    for episode in episodes:
        episode.messages = [Message.system(SYSTEM), Message.user(episode.problem.question)]
    for _ in range(MOST_TURNS):
        open_ = [e for e in episodes if not e.ended and e.changes <= MOST_CHANGES]
        if not open_:
            return
        outputs = llm.chat([e.messages for e in open_], params, tools=tools, thinking=False)
        for episode, output in zip(open_, outputs, strict=True):
            episode.respond(Message.assistant(output.text, tool_calls=output.tool_calls))


def main(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    n: Annotated[int, typer.Option("--n", help="Runs of each kind.")] = 100,
    show: Annotated[int, typer.Option(help="Failed runs to print of each kind.")] = 0,
) -> None:
    """Run and report."""
    llm = LLM(model)
    code_tools = (VIEW_FILE, WRITE_FILE, EDIT_FILE, RUN_TESTS, FINISH)
    for kind, tools in (("trip", (PLAN_TRIP, FINISH)), ("repair", code_tools), ("write", code_tools)):
        episodes = [trip(seed) if kind == "trip" else code(kind, seed * 1000) for seed in range(n)]
        run_all(llm, episodes, tools)
        right = sum(e.succeeded for e in episodes)
        false = sum(e.ended == "done" and not e.succeeded for e in episodes)
        low, high = wilson_interval(right, n)
        print(f"{kind}: {right}/{n} = {right / n:.1%} ({low:.1%} to {high:.1%}); ended as done but wrong: {false}")
        for episode in [e for e in episodes if not e.succeeded][:show]:
            for message in episode.messages[1:]:
                print("   ", message.role, message.text, [(c.name, c.arguments) for c in message.tool_calls])


if __name__ == "__main__":
    typer.run(main)
