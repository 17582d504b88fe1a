"""The tasks, by name."""

from __future__ import annotations

from collections.abc import Mapping

from deepground.tasks.arithmetic import Addition, ChainSum, Multiplication, Subtraction
from deepground.tasks.clock import TimeIntervals
from deepground.tasks.division import Division
from deepground.tasks.equations import SimpleEquations
from deepground.tasks.euclid import GreatestCommonDivisor
from deepground.tasks.lists import Comparison, ListExtreme, NumberSorting
from deepground.tasks.problem import Task
from deepground.tasks.repeat import Repeat
from deepground.tasks.words import LetterCounting, SpellBackward

_ALL: tuple[Task, ...] = (
    Addition(),
    Subtraction(),
    Multiplication(),
    ChainSum(),
    Division(),
    SimpleEquations(),
    GreatestCommonDivisor(),
    NumberSorting(),
    SpellBackward(),
    TimeIntervals(),
    Comparison(),
    LetterCounting(),
    ListExtreme(),
    Repeat(),
)
TASKS: Mapping[str, Task] = {task.name: task for task in _ALL}
