"""An evaluation from suites to report: of a model in this process and of an endpoint."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deepground.cli import app
from deepground.errors import TrainingError
from deepground.tasks.graders import check_spec
from deepground.train.answering import Endpoint, EndpointSettings
from deepground.train.evaluation import EvaluationPlan, EvaluationResults, compare, evaluate_suites, suite_questions
from endpoint_server import completion, endpoint_server, failure


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "set.jsonl"
    rows = [{"id": f"q{n}", "question": f"{n} + 1 =", "answer": str(n + 1), "cluster": n % 4} for n in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def half_right(body: dict[str, Any], number: int) -> Any:
    value = int(body["messages"][-1]["content"].split()[0])
    if value == 11:
        return failure(400, "not this one")
    return completion(str(value + 1 if value < 6 else -1), reasoning="hm", finish="length" if value == 5 else "stop")


def all_right(body: dict[str, Any], number: int) -> Any:
    return completion(str(int(body["messages"][-1]["content"].split()[0]) + 1))


def run(script: Any, folder: Path, path: Path, **settings: Any) -> EvaluationResults:
    async def work(url: str) -> EvaluationResults:
        endpoint = Endpoint(EndpointSettings(base_url=url, model="m"))
        try:
            plan = EvaluationPlan(suites=(str(path),), thinking=(None,), **settings)
            return (await evaluate_suites(endpoint, plan, folder))[0]
        finally:
            await endpoint.aclose()

    with endpoint_server(script) as fake:
        results = asyncio.run(work(fake.url))
        assert len(fake.requests) == 12 * settings.get("samples", 1)
    return results


def test_an_endpoint_is_evaluated_and_compared(tmp_path: Path, questions: Path) -> None:
    before = run(half_right, tmp_path / "before", questions)
    (result,) = before.results
    assert (result.suite, result.mode) == ("set", "default")
    assert result.accuracy.value == 0.5
    assert result.accuracy.num_clusters == 4
    assert (result.failed, result.cut_off, result.baseline) == (1, pytest.approx(1 / 12), pytest.approx(1 / 12))
    loaded = EvaluationResults.load(tmp_path / "before")
    assert loaded.results[0].scores == result.scores
    # The model's name holds the port of its server: a folder for each.
    after = run(all_right, tmp_path / "after", questions, samples=2)
    assert after.results[0].pass_at == {1: 1.0, 2: 1.0}
    change = compare(before, after)[("set", "default")]
    assert change.value == 0.5


def test_the_command_line_reports(tmp_path: Path, questions: Path) -> None:
    run(half_right, tmp_path / "before", questions)
    with endpoint_server(all_right) as fake:
        arguments = ["eval", fake.url, str(questions), "--model", "m", "-o", str(tmp_path / "out")]
        done = CliRunner().invoke(app, [*arguments, "--before", str(tmp_path / "before")])
    assert done.exit_code == 0, done.output
    assert "| set | default | 100.0%" in done.output
    assert "+50.0 points" in done.output
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<svg" in page
    assert "change from m at" in page


def test_the_command_line_refuses(tmp_path: Path, questions: Path) -> None:
    done = CliRunner().invoke(app, ["eval", "pilot", "--model", "m"], terminal_width=200)
    assert done.exit_code == 2
    assert "MODEL is no address" in " ".join(re.sub("[│╭╮╰╯─]", " ", done.output).split())


def test_the_only_model_of_an_endpoint_needs_no_name(questions: Path) -> None:
    with endpoint_server(lambda body, n: completion("1")) as fake:
        done = CliRunner().invoke(app, ["eval", fake.url, str(questions)])
        assert done.exit_code == 0, done.output
        assert fake.requests[0]["model"] == "m"


def test_hostile_text_stays_text_in_the_report(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"question": "<script>alert(1)</script>", "answer": "x"}) + "\n")
    with endpoint_server(lambda body, n: completion("<img src=x onerror=alert(1)>\ud800")) as fake:
        done = CliRunner().invoke(app, ["eval", fake.url, str(path), "--model", "m", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "report.html").read_text(errors="surrogatepass")
    assert "<script>" not in page
    assert "<img" not in page


def test_suites_are_what_they_say() -> None:
    assert len(suite_questions("addition", count=5, seed=0)) == 5
    assert {q.meta["level"] for q in suite_questions("addition@2", count=5, seed=0)} == {2}
    assert all(q.suite.endswith("(stretch)") for q in suite_questions("stretch", count=1, seed=0))
    assert suite_questions("gym:gcd", count=3, seed=0)[0].grader["dataset"] == "gcd"
    forms = suite_questions("format", count=60, seed=0)
    assert len({q.text for q in forms}) == 60
    for question in forms:
        check_spec(dict(question.grader))


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing", "there is no suite"), ("addition@x", "must be a number"), ("no.jsonl", "does not exist")],
)
def test_suites_that_are_none(name: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        suite_questions(name, count=1, seed=0)


def test_results_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no result of"):
        EvaluationResults.load(tmp_path)
