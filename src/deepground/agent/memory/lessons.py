"""The lessons and the file that they are kept in.

One JSON file that people may read and edit. A lesson says which verified run it comes from, and how it fared since.
What a lesson tells the model is made from names of tools and the user's own words: nothing that a tool or the model
wrote gets into it, so that a page or a file cannot plant an instruction for later runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from deepground.errors import AgentError

Kind = Literal["procedure", "rule"]
"""procedure: the calls that did a task. rule: what put a tool's failure right."""

MOST_LESSONS = 256
MAX_AGE_DAYS = 180
"""A lesson that was neither learnt again nor used for so long is forgotten."""
MOST_FAILURES = 2
"""A procedure that fails so often without having worked in between is forgotten."""
_VERSION = 1
_DAY_S = 86_400
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One reply of the model in a verified run: its calls, and what the tools answered."""

    calls: tuple[tuple[str, str], ...]
    """Name and arguments (JSON) of each."""
    results: tuple[str, ...]
    """As the model saw them; the last step, which ends the run, has none."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Something that worked."""

    id: str
    kind: Kind
    text: str
    """What the model is told; people may change it."""
    tools: tuple[str, ...]
    """Tools that it speaks about: it is of no use to a run without them."""
    runs: tuple[str, ...]
    """The verified runs that it comes from, newest last."""
    learned: float
    """Unix seconds of the newest of them."""
    task: str = ""
    """procedure: the task in the user's words."""
    workspace: str | None = None
    """procedure: the folder that it was done in; what was right there may do harm elsewhere."""
    steps: tuple[Step, ...] = ()
    """procedure: what was done."""
    uses: int = 0
    """Runs that followed it."""
    successes: int = 0
    """Those of them whose check passed."""
    failures: int = 0
    """Those that did not, since it last worked."""
    used: float = 0.0
    """Unix seconds of the last one."""

    @property
    def is_expired(self) -> bool:
        """Whether nobody has needed it for long, or it stopped working."""
        return time.time() - max(self.learned, self.used) > MAX_AGE_DAYS * _DAY_S or self.failures >= MOST_FAILURES


def normal(task: str) -> str:
    """A task with its spaces and capitals evened out: two that agree ask for the same."""
    return _SPACES.sub(" ", task).strip().casefold()


class Memory:
    """The lessons in a file; several processes may use it.

    Raises:
        AgentError: the file is damaged or of a later version; it names the place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def lessons(self) -> list[Lesson]:
        """All that are kept, newest last.

        Raises:
            AgentError: see the class.
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise AgentError(
                f"The memory {self.path} cannot be read: {error}. Put it right, or delete the file to forget all."
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get("lessons"), list):
            raise AgentError(f'{self.path} is no memory: it needs "version" and "lessons".')
        if content.get("version") != _VERSION:
            raise AgentError(f"{self.path} was written by another version of deepground; this one reads {_VERSION}.")
        return [_lesson(item, f"{self.path}: lessons[{n}]") for n, item in enumerate(content["lessons"])]

    def get(self, lesson_id: str) -> Lesson:
        """One lesson.

        Raises:
            AgentError: there is none of this id.
        """
        for lesson in self.lessons():
            if lesson.id == lesson_id:
                return lesson
        raise AgentError(f"There is no lesson {lesson_id!r}. List them with: deepground agent memory list")

    def add(self, lessons: Sequence[Lesson]) -> None:
        """Keep lessons; one that is known already gets the new runs. The oldest make room."""
        with self._changing() as kept:
            for lesson in lessons:
                known = kept.get(lesson.id)
                kept[lesson.id] = lesson if known is None else _merged(known, lesson)
            alive = [lesson for lesson in kept.values() if not lesson.is_expired]
            alive.sort(key=lambda lesson: max(lesson.learned, lesson.used))
            kept.clear()
            kept.update((lesson.id, lesson) for lesson in alive[-MOST_LESSONS:])

    def note_use(self, lesson_id: str, *, worked: bool) -> None:
        """Remember how a run that followed a lesson ended."""

        def used(lesson: Lesson) -> Lesson:
            return replace(
                lesson,
                uses=lesson.uses + 1,
                successes=lesson.successes + worked,
                failures=0 if worked else lesson.failures + 1,
                used=time.time(),
            )

        self._replace(lesson_id, used)

    def edit(self, lesson_id: str, text: str) -> None:
        """Change what a lesson says.

        Raises:
            AgentError: there is none of this id.
        """
        self.get(lesson_id)
        self._replace(lesson_id, lambda lesson: replace(lesson, text=text))

    def delete(self, lesson_id: str) -> None:
        """Forget a lesson.

        Raises:
            AgentError: there is none of this id.
        """
        self.get(lesson_id)
        with self._changing() as kept:
            kept.pop(lesson_id, None)

    def clear(self) -> None:
        """Forget everything."""
        self.path.unlink(missing_ok=True)

    def _replace(self, lesson_id: str, change: Callable[[Lesson], Lesson]) -> None:
        with self._changing() as kept:
            if lesson_id in kept:
                kept[lesson_id] = change(kept[lesson_id])

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Lesson]]:
        """The lessons by id, written back at the end; one process at a time, and never half a file."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = {lesson.id: lesson for lesson in self.lessons()}
            yield kept
            content = {"version": _VERSION, "lessons": [asdict(lesson) for lesson in kept.values()]}
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".memory-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file, ensure_ascii=False, indent=1)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)


def _merged(known: Lesson, new: Lesson) -> Lesson:
    """A lesson learnt again: the newest steps, the text that people may have changed, all its runs."""
    runs = tuple(dict.fromkeys((*known.runs, *new.runs)))[-20:]
    return replace(
        known, runs=runs, learned=max(known.learned, new.learned), steps=new.steps, tools=new.tools, failures=0
    )


def _lesson(item: Any, place: str) -> Lesson:
    try:
        known = {field.name for field in fields(Lesson)}
        if unknown := sorted(set(item) - known):
            raise ValueError(f"unknown field {unknown[0]}")
        if item["kind"] not in get_args(Kind):
            raise ValueError(f"kind is {item['kind']!r}")
        steps = tuple(
            Step(calls=tuple((str(n), str(a)) for n, a in step["calls"]), results=tuple(map(str, step["results"])))
            for step in item.get("steps", ())
        )
        values = item | {"steps": steps, "tools": tuple(map(str, item["tools"])), "runs": tuple(map(str, item["runs"]))}
        if not all(isinstance(values[name], str) for name in ("id", "text")):
            raise ValueError("id and text must be text")
        return Lesson(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise AgentError(f"{place} is wrong ({error}). Put it right, or delete it from the file.") from error
