"""Time between two clock times."""

from __future__ import annotations

from random import Random

from deepground.tasks.grading import clock_value, gym_score, only_number
from deepground.tasks.problem import Draft, Problem, ProceduralTask
from deepground.tasks.wording import ask

_DURATION = (
    "{a} to {b}",
    "from {a} to {b}",
    "How long is it from {a} to {b}?",
    "How long from {a} to {b}?",
    "How much time is there between {a} and {b}?",
    "What is the time between {a} and {b}?",
    "Time from {a} to {b}?",
    "How much time passes from {a} to {b}?",
    "It starts at {a} and ends at {b}. How long does it take?",
    "What is the duration between {a} and {b}? Please answer in HH:MM.",
    "Calculate the time difference between {a} and {b}. Express the result in HH:MM.",
    "How much time elapsed from {a} to {b}? Give your answer in HH:MM.",
    "A meeting started at {a} and ended at {b}. How long was the meeting? Answer in HH:MM.",
    "A flight departed at {a} and arrived at {b}. How long was the flight? Answer in HH:MM.",
    "A video call started at {a} and ended at {b}. How long was the call? Answer in HH:MM.",
    "從 {a} 到 {b} 有多久？",
    "{a} 到 {b} 經過多久？",
)
_MINUTES = (
    "How many minutes are there from {a} to {b}?",
    "How many minutes from {a} to {b}?",
    "How many minutes are between {a} and {b}?",
    "Minutes from {a} to {b}?",
    "What is the time from {a} to {b} in minutes?",
    "It starts at {a} and ends at {b}. How many minutes is that?",
    "從 {a} 到 {b} 是幾分鐘？",
)


class TimeIntervals(ProceduralTask):
    """Differences of clock times, in HH:MM or in minutes."""

    name = "time_intervals"
    description = "time between two clock times (24-hour), as HH:MM or in minutes"

    def draw(self, rng: Random, level: int) -> tuple[int, int, bool]:
        """Start and end in minutes after midnight, and whether minutes are asked for.

        Level 1 stays within 2 hours, 2 within 6 hours, 3 within the day, 4 may cross midnight; the stretch level
        always does.
        """
        start = rng.randrange(24 * 60)
        longest = (120, 360, 24 * 60 - 1, 24 * 60 - 1, 24 * 60 - 1)[level - 1]
        end = start + rng.randint(1, longest)
        wraps = end >= 24 * 60
        if (wraps and level < 4) or (level == 5 and not wraps):
            return self.draw(rng, level)
        return start, end % (24 * 60), level > 1 and rng.random() < 0.3

    def canonical(self, operands: tuple[int, int, bool]) -> str:
        """Start and end."""
        return f"{operands[0]} {operands[1]}"

    def build(self, operands: tuple[int, int, bool], rng: Random) -> Draft:
        """Minutes first, with an hour borrowed where they do not suffice, then hours."""
        start, end, in_minutes = operands
        (h1, m1), (h2, m2) = divmod(start, 60), divmod(end, 60)
        lines = []
        if m2 < m1:
            lines += [f"{m2:02d}<{m1:02d}", f"{m2:02d}+60={m2 + 60}", f"{m2 + 60}-{m1:02d}={m2 + 60 - m1:02d}"]
        else:
            lines += [f"{m2:02d}-{m1:02d}={m2 - m1:02d}"]
        hours = h2
        if end < start:
            lines.append(f"{hours:02d}+24={hours + 24}")
            hours += 24
        if m2 < m1:
            lines.append(f"{hours:02d}-01={hours - 1:02d}")
            hours -= 1
        lines.append(f"{hours:02d}-{h1:02d}={hours - h1:02d}")
        span = (end - start) % (24 * 60)
        answer = f"{span // 60:02d}:{span % 60:02d}"
        if in_minutes:
            lines += [f"{span // 60:02d}*60={span // 60 * 60}", f"{span // 60 * 60}+{span % 60:02d}={span}"]
            answer = str(span)
        padded = rng.random() < 0.6
        first, second = (f"{h:02d}:{m:02d}" if padded else f"{h}:{m:02d}" for h, m in ((h1, m1), (h2, m2)))
        question = ask(rng, _MINUTES if in_minutes else _DURATION, a=first, b=second)
        return Draft(question, answer, lines, {"start": start, "end": end, "in_minutes": in_minutes})

    def grade(self, problem: Problem, reply: str) -> float:
        """HH:MM by reasoning-gym's `time_intervals`, minutes by equality."""
        if problem.meta["in_minutes"]:
            return float(only_number(reply, "") == problem.answer)
        candidate = clock_value(reply)
        if candidate is None:
            return 0.0
        return gym_score("time_intervals", candidate, problem.answer, {"task_type": "time"})
