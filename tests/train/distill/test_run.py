"""A distillation against a teacher that is not always well, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from deepground.cli import app
from deepground.train.sft import read_conversations
from endpoint_server import Answer, completion, endpoint_server, failure

WORDS = ["apple", "river", "stone", "cloud", "tiger", "green", "house", "music", "paper", "light"]


def teacher(body: dict[str, Any], number: int) -> Answer:
    """Right, wrong, empty, rubbish, endless, cut off, or busy; by the question's number."""
    value = int(body["messages"][-1]["content"].split()[2])
    thinking = f"I take {value} and add one, since {WORDS[value % 10]} is no help; seed {body['seed']}."
    if value % 10 == 1:
        return completion("-1", reasoning=thinking)
    if value % 10 == 2:
        return completion("", reasoning=thinking)
    if value % 10 == 3:
        return completion(str(value + 1), reasoning="again and again " * 500)
    if value % 10 == 4:
        return completion(str(value + 1), reasoning=thinking, completion_tokens=1_000_000)
    if value % 10 == 5:
        return completion(str(value + 1), reasoning=thinking, finish="length")
    if value % 10 == 6 and number % 2:
        return failure(503, "busy")
    return completion(str(value + 1), reasoning=thinking)


def distill(folder: Path, problems: Path, url: str, *more: str) -> Result:
    arguments = ["distill", str(folder), "--problems", str(problems), "--teacher", url, "--model", "t"]
    return CliRunner().invoke(app, [*arguments, "--samples", "1", "--max-tokens", "400", *more])


def problem_file(path: Path) -> Path:
    rows = [
        {"id": f"p{n}", "question": f"What is {n} plus one, {WORDS[n % 10]}?", "answer": str(n + 1)} for n in range(20)
    ]
    rows.append({"id": "leak", "question": "What is 50 plus one? The answer is 51.", "answer": "51"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_whole_run_and_a_second_one_that_pays_nothing(tmp_path: Path) -> None:
    problems, folder = problem_file(tmp_path / "problems.jsonl"), tmp_path / "run"
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps({"question": "What is 17 plus one, music?", "answer": "18"}) + "\n")
    with endpoint_server(teacher) as fake:
        options = ("--evaluation", str(held_out), "--price-out", "2", "--price-in", "1", "--concurrency", "1")
        done = distill(folder, problems, fake.url, *options)
        assert done.exit_code == 0, done.output
        paid = len(fake.requests)
        decisions = [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]
        fates = {d["question"]: d["fate"] for d in decisions}
        assert fates["leak"] == "answer in question"
        assert fates["p17"] == "contaminated"
        assert {fates[f"p{n}"] for n in (0, 7, 8, 9, 10, 18, 19)} == {"kept"}
        expected = {1: "wrong", 2: "empty", 3: "rubbish", 4: "too long", 5: "cut off"}
        assert all(fates[f"p{n + ten}"] == fate for n, fate in expected.items() for ten in (0, 10))
        dataset = (folder / "dataset.jsonl").read_text()
        first = json.loads(dataset.splitlines()[0])
        assert first["provenance"]["teacher"].startswith("t at 127.0.0.1")
        assert first["provenance"]["verdict"] == "right"
        assert {"seed", "temperature", "grader", "completion_tokens", "question"} <= first["provenance"].keys()
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["cost"] > 0
        assert summary["questions_screened"] == {"answer in question": 1, "contaminated": 1}
        page = (folder / "report.html").read_text()
        assert page.count("<svg") >= 3
        assert all(fate in page for fate in set(fates.values()))
        assert len(read_conversations(folder / "dataset.jsonl")) == summary["kept"]
        again = distill(folder, problems, fake.url, *options)
        assert again.exit_code == 0, again.output
        assert len(fake.requests) == paid
        assert (folder / "dataset.jsonl").read_text() == dataset
        # Curation may change without asking anybody again.
        assert distill(folder, problems, fake.url, *options, "--size", "3").exit_code == 0
        assert len((folder / "dataset.jsonl").read_text().splitlines()) == 3
        assert len(fake.requests) == paid
        other = distill(folder, problems, fake.url, *options, "--temperature", "0.1")
        assert "temperature: 0.6 -> 0.1" in str(other.exception)


def test_a_wrong_key_ends_it_at_once(tmp_path: Path) -> None:
    problems = problem_file(tmp_path / "problems.jsonl")
    with endpoint_server(lambda body, n: failure(401, "bad key")) as fake:
        done = distill(tmp_path / "run", problems, fake.url)
    assert "the key is missing or wrong" in str(done.exception)


def test_nothing_left_to_ask_is_an_error(tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps({"question": "2+2? Answer: 4", "answer": "4"}) + "\n")
    with endpoint_server(teacher) as fake:
        done = distill(tmp_path / "run", problems, fake.url)
        assert "no question is left" in str(done.exception)
        assert not fake.requests


def test_problems_must_be_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["distill", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert "name a file of problems" in done.output
