"""Writes the files of this example anew: the tariff, and questions with their answers as a spreadsheet would hold them.

python examples/freight/make.py
"""

from __future__ import annotations

import csv
from pathlib import Path

from deepground.tasks import evaluation_set
from deepground.tasks.freight import Freight
from deepground.tasks.tariff import tariff_document

HERE = Path(__file__).resolve().parent
QUESTIONS, HELD_OUT = 2000, 200


def write(name: str, rows: list[tuple[str, str]]) -> None:
    """A CSV file with a header."""
    with (HERE / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *rows])


def main() -> None:
    """Write all three."""
    task = Freight()
    (HERE / "tariff.md").write_text(tariff_document(), encoding="utf-8")
    problems = {p.question: p for p in (task.generate(seed) for seed in range(QUESTIONS * 2))}
    write("questions.csv", [(p.question, p.answer) for p in list(problems.values())[:QUESTIONS]])
    write("held_out.csv", [(p.question, p.answer) for p in evaluation_set("freight", HELD_OUT, seed=5)])


if __name__ == "__main__":
    main()
