"""A process that grades: one JSON object per line in, one out. `GraderPool` starts and kills it.

Graders may print; what they print goes to stderr, so that it cannot be taken for a verdict.
"""

from __future__ import annotations

import json
import os
import resource
import sys

from deepground.tasks.graders.kinds import grade
from deepground.tasks.verdict import Grade, GradeJob

MAX_MEMORY = 8 * 2**30
"""Address space of one worker, so that a formula that explodes ends the worker and not the machine."""


def main() -> None:
    """Grade until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.setrecursionlimit(3_000)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    answers.write('{"ready": true}\n')
    answers.flush()
    for line in sys.stdin:
        try:
            outcome = grade(GradeJob(**json.loads(line)))
        except Exception as error:  # anything a verifier or a user's function may raise
            outcome = Grade("error", f"{type(error).__name__}: {error}"[:500])
        answers.write(json.dumps({"verdict": outcome.verdict, "detail": outcome.detail}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
