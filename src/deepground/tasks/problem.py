"""What a task is: it makes problems from a seed, with a worked trace, and grades replies to them.

Training and test problems are disjoint by construction: a checksum of a problem's canonical content (its operands,
never its wording) decides on which side it falls, so no seed can move a problem across.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, Protocol

from deepground.errors import TaskError
from deepground.messages import Message, Tool, ToolCallPart

Split = Literal["train", "test"]

TEST_SHARE = 10
"""One problem in this many belongs to the test split."""
_MOST_DRAWS = 20_000


@dataclass(frozen=True)
class Problem:
    """One question with a right answer and a worked way to it."""

    task: str
    """Name of the task; a key of `TASKS`."""
    question: str
    answer: str
    """The expected reply, exactly as training shows it; calls are written as `reply_text` writes them."""
    trace: str
    """The worked steps, one per line; what a model should think before it answers. Empty where it answers at once."""
    level: int
    seed: int
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The operands, for graders and reports."""
    tools: tuple[Tool, ...] = ()
    """Functions that are offered with the question."""
    context: tuple[Message, ...] = ()
    """The conversation up to the reply, where it is more than the question."""
    calls: tuple[ToolCallPart, ...] = ()
    """The calls that the expected reply makes; it then has no other text."""

    @property
    def conversation(self) -> tuple[Message, ...]:
        """What the model is shown."""
        return self.context or (Message.user(self.question),)

    def expected(self, *, thinking: bool = True) -> Message:
        """The assistant's message that training shows, with the trace as its thinking if it thinks."""
        reasoning = self.trace if thinking and not self.tools else ""
        return Message.assistant("" if self.calls else self.answer, reasoning=reasoning, tool_calls=self.calls)


def reply_text(text: str, calls: Sequence[ToolCallPart] = ()) -> str:
    """A reply as graders read it: its text, then each call in a line of its own, `name(arguments)`."""
    return "\n".join([*([text] if text or not calls else []), *(f"{call.name}({call.arguments})" for call in calls)])


class Task(Protocol):
    """A family of problems with a grader."""

    @property
    def name(self) -> str:
        """The key in `TASKS`."""

    @property
    def description(self) -> str:
        """One line for model cards and reports."""

    @property
    def levels(self) -> tuple[int, ...]:
        """The difficulty levels of the training distribution, easiest first."""

    @property
    def stretch_level(self) -> int:
        """A level beyond the training distribution, for reports only."""

    def generate(self, seed: int, split: Split = "train", level: int | None = None) -> Problem:
        """The problem of this seed; the same arguments always give the same problem.

        Args:
            seed: any integer.
            split: the two splits share no problem, whatever the wording.
            level: one of `levels` or `stretch_level`; None draws from `levels`.

        Raises:
            TaskError: the level does not exist.
        """

    def grade(self, problem: Problem, reply: str) -> float:
        """1.0 if the reply (without its thinking, and as `reply_text` writes calls) answers the problem, else 0.0.

        Raises:
            TaskError: the grader needs the `deepground[train]` extra and it is not installed.
        """


@dataclass(frozen=True)
class Draft:
    """What a task makes of its operands; `ProceduralTask` adds the rest."""

    question: str
    answer: str
    trace: Sequence[str]
    """The lines of the trace."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()
    context: tuple[Message, ...] = ()
    calls: tuple[ToolCallPart, ...] = ()


class ProceduralTask(ABC):
    """Common part of the tasks: seeding, levels and the split."""

    name: str
    description: str
    levels: tuple[int, ...] = (1, 2, 3, 4)

    @property
    def stretch_level(self) -> int:
        """The level above the hardest one that training sees."""
        return self.levels[-1] + 1

    @abstractmethod
    def draw(self, rng: Random, level: int) -> Any:
        """Random operands of this level."""

    @abstractmethod
    def canonical(self, operands: Any) -> str:
        """The content that decides the split: equal for problems that are the same exercise."""

    @abstractmethod
    def build(self, operands: Any, rng: Random) -> Draft:
        """Words, answer and trace for the operands."""

    @abstractmethod
    def grade(self, problem: Problem, reply: str) -> float:
        """1.0 if the reply answers the problem, else 0.0."""

    def generate(self, seed: int, split: Split = "train", level: int | None = None) -> Problem:
        """See `Task.generate`."""
        rng = Random(f"{self.name} {split} {seed} {level}")
        if level is None:
            level = rng.choice(self.levels)
        elif level not in self.levels and level != self.stretch_level:
            raise TaskError(f"{self.name} has no level {level}; choose from {self.levels} or {self.stretch_level}")
        operands = self._draw_from_split(rng, split, level)
        draft = self.build(operands, rng)
        return Problem(
            task=self.name,
            question=draft.question,
            answer=draft.answer,
            trace="\n".join(draft.trace),
            level=level,
            seed=seed,
            meta=draft.meta,
            tools=draft.tools,
            context=draft.context,
            calls=draft.calls,
        )

    def split_of(self, operands: Any) -> Split:
        """The split to which these operands belong."""
        checksum = zlib.crc32(f"{self.name} {self.canonical(operands)}".encode())
        return "test" if checksum % TEST_SHARE == 0 else "train"

    def _draw_from_split(self, rng: Random, split: Split, level: int) -> Any:
        for _ in range(_MOST_DRAWS):
            operands = self.draw(rng, level)
            if self.split_of(operands) == split:
                return operands
        raise TaskError(f"{self.name} level {level} has no problem in the {split} split; choose another level")
