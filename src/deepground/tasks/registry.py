"""The tasks, by name."""

from __future__ import annotations

from collections.abc import Mapping

from deepground.tasks.arithmetic import Addition, ChainSum, Multiplication, Subtraction
from deepground.tasks.calls import FunctionCall, ParallelCalls, ToolResults
from deepground.tasks.clock import TimeIntervals
from deepground.tasks.code import CodeRepair, CodeWriting
from deepground.tasks.code_agent import CodeAgent
from deepground.tasks.countdown import Countdown
from deepground.tasks.division import Division
from deepground.tasks.equations import SimpleEquations
from deepground.tasks.euclid import GreatestCommonDivisor
from deepground.tasks.extraction import AppointmentExtraction, InvoiceExtraction, OrderExtraction, TripRequest
from deepground.tasks.freight import Freight
from deepground.tasks.lists import Comparison, ListExtreme, NumberSorting
from deepground.tasks.problem import Task
from deepground.tasks.repeat import Repeat
from deepground.tasks.sequences import BaseConversion, NumberSequence
from deepground.tasks.trips import TripAgent
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
    NumberSequence(),
    BaseConversion(),
    Countdown(),
    OrderExtraction(),
    InvoiceExtraction(),
    AppointmentExtraction(),
    TripRequest(),
    FunctionCall(),
    ParallelCalls(),
    ToolResults(),
    CodeWriting(),
    CodeRepair(),
    TripAgent(),
    CodeAgent(),
)
TASKS: Mapping[str, Task] = {task.name: task for task in _ALL}
"""Those that the bundled model is trained on."""
DOMAINS: Mapping[str, Task] = {"freight": Freight()}
"""Those that it has never seen: what a company would teach it."""
ALL_TASKS: Mapping[str, Task] = {**TASKS, **DOMAINS}
