import json
from dataclasses import replace
from pathlib import Path

import pytest

import tiny_models
from deepground.engine import LLM, PILOT_FOLDER
from deepground.errors import TaskError, TrainingError
from deepground.model import load_model
from deepground.tasks import evaluation_set
from deepground.train import (
    EvaluationConfig,
    TaskResult,
    evaluate,
    export_checkpoint,
    greedy_answers,
    markdown_table,
    mean_accuracy,
    save_results,
    wilson_interval,
)


def result(
    task: str = "addition", thinking: bool = True, correct: int = 9, total: int = 10, tokens: float = 30.0
) -> TaskResult:
    return TaskResult(task, thinking, correct, total, wilson_interval(correct, total), tokens, 0, 0.1)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (95, 100, 0.8882, 0.9785),
        (190, 200, 0.9104, 0.9726),
    ],
)
def test_wilson_interval(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-4)


def test_means_by_mode() -> None:
    results = [result(), result("gcd", correct=5), result("gcd", False, 1)]
    assert mean_accuracy(results, thinking=True) == pytest.approx(0.7)
    assert mean_accuracy(results, thinking=True, tasks=["gcd"]) == pytest.approx(0.5)
    assert mean_accuracy(results, thinking=False) == pytest.approx(0.1)
    with pytest.raises(TrainingError, match="no results"):
        mean_accuracy(results, thinking=False, tasks=["addition"])


def test_table_has_both_modes() -> None:
    table = markdown_table([result(), result(thinking=False, correct=2), result("gcd")])
    assert "| addition | 90.0% (59.6% to 98.2%) | 20.0% (5.7% to 51.0%) | 30 | 10.0% |" in table
    assert "| gcd | 90.0% (59.6% to 98.2%) | – | 30 | 10.0% |" in table
    assert table.splitlines()[-1].startswith("| **mean** | **90.0%** | **20.0%** |")


def test_results_are_saved_with_their_settings(tmp_path: Path) -> None:
    config = EvaluationConfig(problems_per_task=10)
    save_results([result()], config, tmp_path / "deep" / "results.json")
    content = json.loads((tmp_path / "deep" / "results.json").read_text(encoding="utf-8"))
    assert content["config"]["problems_per_task"] == 10
    assert content["results"][0]["accuracy"] == 0.9


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(TaskError, match="no task 'alchemy'"):
        EvaluationConfig(tasks=("alchemy",))
    with pytest.raises(TrainingError, match="problems_per_task is 0"):
        EvaluationConfig(problems_per_task=0)


def test_a_model_is_asked_in_both_modes(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    llm = LLM(tiny_models.tiny_model_folder(tmp_path / "tiny"), dtype="float32")
    config = EvaluationConfig(tasks=("addition", "comparison"), problems_per_task=4, max_tokens=8)
    told = []
    results = evaluate(llm, config, told.append)
    assert results == told
    assert [(r.task, r.thinking) for r in results] == [
        ("addition", True),
        ("addition", False),
        ("comparison", True),
        ("comparison", False),
    ]
    for r in results:
        assert r.total == 4
        assert 0 <= r.correct <= 4
        assert 0 < r.mean_tokens <= 8
        assert r.interval[0] <= r.accuracy <= r.interval[1]
        assert len(r.mistakes) == min(3, r.total - r.correct)
    assert evaluate(llm, config) == results


def test_the_level_above_is_asked(tmp_path: Path) -> None:
    llm = LLM(tiny_models.tiny_model_folder(tmp_path / "tiny"), dtype="float32")
    config = EvaluationConfig(tasks=("repeat",), problems_per_task=3, thinking=(False,), max_tokens=8)
    (easy,), (hard,) = (evaluate(llm, replace(config, stretch=stretch)) for stretch in (False, True))
    assert max(len(m.question) for m in hard.mistakes) > max(len(m.question) for m in easy.mistakes)


def test_functions_are_offered_with_the_question() -> None:
    llm, problems = LLM(PILOT_FOLDER), evaluation_set("function_call", 3)
    answers = greedy_answers(llm, problems, thinking=False, max_tokens=4)
    for problem, answer in zip(problems, answers, strict=True):
        assert answer.usage.prompt_tokens > 40 + len(llm.engine.tokenizer.encode(problem.question))


def test_a_run_is_exported_as_a_model_folder(tmp_path: Path) -> None:
    from training_samples import CONFIG, tiny_trainer

    folder = tiny_models.tiny_model_folder(tmp_path / "tiny")
    trainer = tiny_trainer(10)
    trainer.run_step()
    trainer.save(tmp_path / "run")
    step = export_checkpoint(tmp_path / "run", CONFIG, tmp_path / "out", weight_format="float32", tokenizer_from=folder)
    assert step == 1
    loaded = load_model(tmp_path / "out", dtype="float32")
    for name, tensor in trainer.decoder.state_dict().items():
        assert loaded.state_dict()[name].equal(tensor), name
    assert (tmp_path / "out" / "tokenizer.json").exists()
    with pytest.raises(TrainingError, match="no complete checkpoint"):
        export_checkpoint(tmp_path / "nothing", CONFIG, tmp_path / "out2")
