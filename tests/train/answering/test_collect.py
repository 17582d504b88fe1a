"""Answers are written down before anything else, and nothing is asked twice, whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deepground.errors import TrainingError
from deepground.messages import Message, SamplingParams, Tool
from deepground.tasks.graders import GraderPool
from deepground.train.answering import (
    Collection,
    CollectSettings,
    Endpoint,
    EndpointSettings,
    Journal,
    Question,
    Reply,
    RunFolder,
    collect,
)
from endpoint_server import completion, endpoint_server

TESTS = Path(__file__).parents[2]


def question(number: int) -> Question:
    return Question(
        id=f"q{number}", messages=(Message.user(f"say {number}"),), answer=str(number), grader={"type": "exact"}
    )


class Parrot:
    """Says what it is told to say; counts."""

    name = "parrot"

    def __init__(self, error: str = "") -> None:
        self.asked: list[tuple[str, int | None]] = []
        self._error = error

    async def ask(
        self, messages: Sequence[Message], params: SamplingParams, *, tools: Sequence[Tool], thinking: bool | None
    ) -> Reply:
        self.asked.append((messages[-1].text, params.seed))
        await asyncio.sleep(0)
        if self._error:
            return Reply(error=self._error)
        return Reply(text=messages[-1].text.removeprefix("say "), prompt_tokens=5, completion_tokens=5)

    async def aclose(self) -> None:
        pass


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(workers=1) as started:
        yield started


def run(folder: Path, pool: GraderPool, parrot: Parrot, count: int = 4, **settings: Any) -> Collection:
    asking = CollectSettings(params=SamplingParams(seed=1), **{"samples": 2, **settings})
    return asyncio.run(collect([question(n) for n in range(count)], parrot, folder, asking, pool))


def test_every_question_is_asked_and_graded(tmp_path: Path, pool: GraderPool) -> None:
    parrot = Parrot()
    found = run(tmp_path, pool, parrot, thinking=(True, False))
    assert found.num_asked == len(parrot.asked) == 16
    assert len({seed for _, seed in parrot.asked}) == 16
    assert [a.mode for a in found.answers[:4]] == ["thinking", "thinking", "direct", "direct"]
    assert all(answer.is_right for answer in found.answers)


def test_a_second_run_asks_nothing_again(tmp_path: Path, pool: GraderPool) -> None:
    first = run(tmp_path, pool, Parrot())
    (tmp_path / "grades.jsonl").unlink()
    parrot = Parrot()
    again = run(tmp_path, pool, parrot, samples=3)
    assert len(parrot.asked) == 4  # The third samples alone.
    assert len(again.answers) == 12
    assert [a.reply for a in again.answers if a.sample < 2] == [a.reply for a in first.answers]


def test_half_a_line_is_cut_off_and_asked_again(tmp_path: Path, pool: GraderPool) -> None:
    run(tmp_path, pool, Parrot())
    path = tmp_path / "answers.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    parrot = Parrot()
    assert len(run(tmp_path, pool, parrot).answers) == 8
    assert len(parrot.asked) == 1
    assert path.read_bytes().count(b"\n") == 8


def test_failed_answers_are_tried_in_the_next_run(tmp_path: Path, pool: GraderPool) -> None:
    broken = run(tmp_path, pool, Parrot(error="down"))
    assert all(a.grade.verdict == "error" for a in broken.answers)
    assert all(a.is_right for a in run(tmp_path, pool, Parrot()).answers)


def test_the_budget_ends_it(tmp_path: Path, pool: GraderPool) -> None:
    found = run(tmp_path, pool, Parrot(), count=20, concurrency=1, most_tokens=55)
    assert found.budget_spent
    assert found.num_asked == 6


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\nrubbish\n{"a": 2}\n')
    with pytest.raises(TrainingError, match=r"x\.jsonl line 2 is damaged"):
        Journal(path)


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {"a": 1, "b": 2}), pytest.raises(TrainingError, match="another process"):
        RunFolder(tmp_path, {"a": 1, "b": 2})
    with pytest.raises(TrainingError, match="b: 2 -> 3"):
        RunFolder(tmp_path, {"a": 1, "b": 3})
    RunFolder(tmp_path, {"a": 1, "b": 2}).close()


def test_kill_9_pays_for_nothing_twice(tmp_path: Path) -> None:
    """Answers that were on disk when the process died are never asked for again."""

    def slow(body: dict[str, Any], number: int) -> Any:
        time.sleep(0.05)
        return completion(body["messages"][0]["content"].removeprefix("say "))

    with endpoint_server(slow) as fake:
        code = f"import test_collect as t; t.collect_from({fake.url!r}, {str(tmp_path)!r})"
        paths = os.pathsep.join([str(TESTS), str(Path(__file__).parent)])
        process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths})
        deadline = time.monotonic() + 60
        path = tmp_path / "answers.jsonl"
        while not path.exists() or path.read_bytes().count(b"\n") < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        paid = path.read_bytes().count(b"\n")
        before = len(fake.requests)
        found = collect_from(fake.url, str(tmp_path))
        assert len(found.answers) == 24
        assert all(answer.is_right for answer in found.answers)
        assert len(fake.requests) - before == 24 - paid


def collect_from(url: str, folder: str) -> Collection:
    """What the killed process runs."""

    async def work() -> Collection:
        endpoint = Endpoint(EndpointSettings(base_url=url, model="m"))
        asking = CollectSettings(samples=2, params=SamplingParams(), concurrency=2)
        try:
            with GraderPool(workers=1) as graders:
                return await collect([question(n) for n in range(12)], endpoint, Path(folder), asking, graders)
        finally:
            await endpoint.aclose()

    return asyncio.run(work())
