"""What the agent keeps from earlier runs, and how it is used; only outcomes that a check verified are kept."""

from deepground.agent.memory.export import export_runs
from deepground.agent.memory.learning import learn
from deepground.agent.memory.lessons import Lesson, Memory, Step
from deepground.agent.memory.recall import RememberingModel, notes_for, procedure_for

__all__ = [
    "Lesson", "Memory", "RememberingModel", "Step", "export_runs", "learn", "notes_for", "procedure_for",
]  # fmt: skip
