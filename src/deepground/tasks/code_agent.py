"""Steps of an agent that writes and repairs small functions: look, change, run the tests, and say what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from random import Random
from typing import Any

from deepground.messages import Tool, ToolCallPart
from deepground.tasks.agent_steps import OUT_OF_REACH, AgentTask, Step, call, finish
from deepground.tasks.calls import calls_in
from deepground.tasks.code import Edit, Program, draw_program, edits, failing_case, grade_source, grader_meta
from deepground.tasks.entities import Language
from deepground.tasks.problem import Problem, Split
from deepground.tasks.words import random_word

_PATH = {"type": "string"}


def _tool(name: str, description: str, *arguments: str) -> Tool:
    properties = dict.fromkeys(arguments, _PATH)
    return Tool(name, description, {"type": "object", "properties": properties, "required": list(arguments)})


VIEW_FILE = _tool("view_file", "Content of a file", "path")
WRITE_FILE = _tool("write_file", "Write a whole file", "path", "content")
EDIT_FILE = _tool("edit_file", "Replace a text of a file that occurs once", "path", "old", "new")
RUN_TESTS = _tool("run_tests", "Run the tests")
_REPAIR = {
    "en": (
        "Make the tests pass",
        "Fix the failing test",
        "The tests fail. Repair the code.",
        "Repair {path}",
        "Fix {path}",
    ),
    "zh": ("讓測試通過", "修好失敗的測試", "測試失敗，請修正程式", "修正 {path}"),
}
_UNSEEN_REPAIR = {"en": ("Please get the tests green", "Find and fix the bug"), "zh": ("請讓所有測試通過",)}
_WRITE = {
    "en": (
        "Write {f}({p}) in {path}. It {spec}.",
        "Add a function {f}({p}) to {path} that {spec}.",
        "Create {path} with {f}({p}), which {spec}.",
    ),
    "zh": ("在 {path} 寫函式 {f}({p})，{spec}。", "建立 {path}，函式 {f}({p})：{spec}。"),
}
_UNSEEN_WRITE = {
    "en": ("{path} needs a function {f}({p}). It {spec}.",),
    "zh": ("{path} 需要函式 {f}({p})，用途是{spec}。",),
}
_OTHER = {
    "en": (
        "Deploy the service to the cloud", "Write a compiler", "Plan a trip to Tainan", "Make a web page for the shop",
        "Train a model", "Book a hotel", "Draw a logo", "Translate the manual",
    ),
    "zh": ("部署服務", "寫一個編譯器", "規劃台南行程", "做一個網頁", "訂飯店", "畫一個標誌"),
}  # fmt: skip
_DOCUMENTED_SHARE = 0.85
_PASSED = ("passed", "1 passed", "2 passed", "3 passed", "4 passed", "all tests passed")
_DONE = {"en": "All tests pass.", "zh": "測試全部通過。"}
_GIVE_UP = {"en": "I could not repair it; the tests still fail.", "zh": "我修不好，測試仍然失敗。"}


class CodeAgent(AgentTask):
    """Repairs a function whose test fails, or writes one."""

    name = "code_agent"
    description = "next step of a coding agent: run tests, view, edit or write a small function, finish"
    tools = (VIEW_FILE, WRITE_FILE, EDIT_FILE, RUN_TESTS)

    def grade(self, problem: Problem, reply: str) -> float:
        """As for other agents; another edit or file is right too if the function then passes its tests."""
        found = calls_in(reply)
        if super().grade(problem, reply) == 1.0 or not found or len(found) != 1:
            return super().grade(problem, reply)
        (name, given), wanted = found[0], json.loads(problem.calls[0].arguments)
        kinds = {"edit_file": ("fix",), "write_file": ("write", "fix", "again")}.get(name, ())
        if problem.meta["kind"] not in kinds or given.get("path") != wanted["path"]:
            return 0.0
        source = given.get("content") if name == "write_file" else apply_edit(problem.meta["content"], given)
        return grade_source(source, problem.meta) if isinstance(source, str) else 0.0

    def step(self, rng: Random, split: Split, level: int, language: Language) -> Step:
        """Programs of this level; a step of a repair, of writing, or of a task that is none of both."""
        program = draw_program(rng, level, language)
        while not program.cases:
            program = draw_program(rng, level, language)
        kind = rng.choices(("repair", "write", "other"), (60, 35, 5))[0]
        if kind == "other":
            text = rng.choice(_OTHER[language])
            return Step(text, (), finish(OUT_OF_REACH[language], "cannot"), (), "other")
        unseen = split == "test" and rng.random() < 0.5
        stem = rng.choice((program.name, "main", "calc", "tools", "util", random_word(rng, rng.randint(3, 6))))
        path = stem + ".py" if rng.random() < 0.7 else f"src/{stem}.py"
        if kind == "write":
            return self._writing(rng, program, path, unseen=unseen)
        return self._repair(rng, program, path, unseen=unseen)

    def _writing(self, rng: Random, program: Program, path: str, *, unseen: bool) -> Step:
        template = rng.choice((_UNSEEN_WRITE if unseen else _WRITE)[program.language])
        text = template.format(f=program.name, p=program.parameters, path=path, spec=program.spec)
        past = [_written(rng, path, program.code)]
        steps = [past[0][0], call("run_tests", {}), finish(_DONE[program.language])]
        stage = rng.choices((0, 1, 2), (70, 15, 15))[0]
        if stage == 2:
            past.append((steps[1], rng.choice(_PASSED)))
        kind = ("write", "test", "done")[stage]
        return Step(text, tuple(past[:stage]), steps[stage], (), kind, grader_meta(program))

    def _repair(self, rng: Random, program: Program, path: str, *, unseen: bool) -> Step:
        """A step of a repair, which writes the function anew: a small model copies a text to replace badly."""
        broken, failure = self._break(rng, program)
        # What a function is for mostly stands in it; a single failing case alone leaves many repairs open.
        documented = rng.random() < _DOCUMENTED_SHARE or broken.count("\n") < program.code.count("\n")
        shown = partial(_documented, spec=program.spec) if documented else str
        text = rng.choice((_UNSEEN_REPAIR if unseen else _REPAIR)[program.language]).format(path=path)
        look = (
            (call("run_tests", {}), _report(rng, path, failure)),
            (call("view_file", {"path": path}), shown(broken) + "\n"),
        )
        wrong, still = (broken, failure) if rng.random() < 0.5 else self._break(rng, program)
        right = _written(rng, path, shown(program.code))
        test = call("run_tests", {})
        failed = (*look, _written(rng, path, shown(wrong)), (test, _report(rng, path, still)))
        stage = rng.choices(("test", "view", "fix", "again", "check", "done", "give_up"), (10, 10, 52, 10, 6, 9, 3))[0]
        past, following = {
            "test": ((), test),
            "view": (look[:1], look[1][0]),
            "fix": (look, right[0]),
            "again": (failed, right[0]),
            "check": ((*look, right), test),
            "done": ((*look, right, (test, rng.choice(_PASSED))), finish(_DONE[program.language])),
            "give_up": (
                (*failed[1:], _written(rng, path, shown(wrong)), (test, _report(rng, path, still))),
                finish(_GIVE_UP[program.language], "cannot"),
            ),
        }[stage]
        return Step(text, past, following, (), stage, grader_meta(program, content=shown(broken) + "\n"))

    @staticmethod
    def _break(rng: Random, program: Program) -> tuple[str, str]:
        while True:
            kinds: tuple[Edit, ...] = ("operator", "value", "variable", "missing")
            programs = edits(program.code, rng.choice(kinds))
            for broken in rng.sample(programs, len(programs)):
                if failure := failing_case(broken, program):
                    return broken, failure


def _report(rng: Random, path: str, failure: str) -> str:
    return rng.choice((f"{path}: {failure}", f"FAILED {path}\n{failure}", f"1 failed\n{path}\n{failure}"))


def _written(rng: Random, path: str, code: str) -> tuple[ToolCallPart, str]:
    """A file written, and what the tool says."""
    made = call("write_file", {"path": path, "content": code + "\n"})
    return made, rng.choice(("ok", "written", f"wrote {path}"))


def _documented(code: str, spec: str) -> str:
    head, body = code.split("\n", 1) if "\n" in code else (code, "")
    return f'{head}\n    """{spec[0].upper()}{spec[1:]}."""' + ("\n" + body if body else "")


def apply_edit(content: str, arguments: Mapping[str, Any]) -> str | None:
    """The file after an `edit_file` call; None if the text does not occur exactly once."""
    old, new = arguments.get("old"), arguments.get("new")
    if not isinstance(old, str) or not isinstance(new, str) or content.count(old) != 1:
        return None
    return content.replace(old, new)
