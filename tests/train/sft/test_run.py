"""`deepground train sft` as a user runs it; what it exports is what was trained, and transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from deepground.cli import app
from deepground.engine import LLM, PILOT_FOLDER
from deepground.messages import Message, SamplingParams
from deepground.model import RowBatch, Tokenizer, load_model
from deepground.train.sft import OWN_TASKS, SftPlan, prepare
from tiny_models import tiny_model_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "set.jsonl"
    rows = [{"question": f"say {word}", "answer": word, "reasoning": "I say it"} for word in ("yes", "no", "so", "we")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 5))
    return path


def sft(model: Path, run: Path, data: Path, *more: str) -> Result:
    arguments = ["train", "sft", str(model), str(run), "--data", str(data), "--precision", "float32", "--rows", "4"]
    return CliRunner().invoke(app, [*arguments, *more], terminal_width=200)


@pytest.mark.parametrize("lora", [(), ("--lora-rank", "4")], ids=["all", "adapters"])
def test_training_export_and_transformers(tmp_path: Path, model: Path, data: Path, lora: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    options = ("--steps", "6", "--lr", "0.01", "--validation-share", "0.25", "--weight-format", "float32", *lora)
    done = sft(model, run, data, *options)
    assert done.exit_code == 0, done.output
    check = json.loads((run / "export.json").read_text())
    assert check["loss_exported"] == pytest.approx(check["loss_trained"], abs=1e-5)
    assert check["same_token"] == 1.0
    assert "<svg" in (run / "report.html").read_text()
    assert json.loads((run / "validation.json").read_text())[0]["step"] == 0
    if lora:
        settings = json.loads((run / "adapter" / "adapter_config.json").read_text())
        assert (settings["r"], settings["peft_type"]) == (4, "LORA")
        names = load_file(run / "adapter" / "adapter_model.safetensors")
        assert "base_model.model.model.layers.0.self_attn.o_proj.lora_B.weight" in names
    ours = load_model(run / "model", dtype="float32")
    reference = AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
    ids = torch.arange(10, 40)
    with torch.no_grad():
        mine, theirs = ours.logits(ours(RowBatch.single(ids))), reference(ids[None]).logits[0]
    torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=1e-3)
    again = sft(model, run, data, *options)
    assert again.exit_code == 0, again.output


def test_it_learns_what_it_is_shown(tmp_path: Path, model: Path, data: Path) -> None:
    run = tmp_path / "run"
    done = sft(model, run, data, "--steps", "150", "--lr", "0.01", "--validation-share", "0")
    assert done.exit_code == 0, done.output
    (output,) = LLM(run / "model").chat([Message.user("say so")], SamplingParams(temperature=0, max_tokens=40))
    assert (output.reasoning, output.text, output.finish_reason) == ("I say it", "so", "stop")


def test_what_cannot_be_trained_with_is_named(tmp_path: Path, model: Path, data: Path) -> None:
    assert "does not exist" in str(sft(model, tmp_path / "a", tmp_path / "no.jsonl").exception)
    assert "learning rate" in str(sft(model, tmp_path / "b", data, "--lr", "0").exception)
    assert "no sample of the data fits" in str(sft(model, tmp_path / "c", data, "--row-length", "8").exception)
    assert sft(model, tmp_path / "d", data, "--steps", "1").exit_code == 0
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"question": q, "answer": "y"}) + "\n" for q in "xyz"))
    assert "begun with other settings" in str(sft(model, tmp_path / "d", other, "--steps", "1").exception)


def test_own_tasks_against_forgetting_keep_their_modes(data: Path) -> None:
    plan = SftPlan(model=PILOT_FOLDER, data=(data,), general=(OWN_TASKS,), general_share=0.4, thinking="on")
    prepared = prepare(plan)
    assert prepared.general is not None
    tokenizer = Tokenizer.from_folder(PILOT_FOLDER)
    texts = [tokenizer.decode(prepared.general.sample(i).token_ids) for i in range(300)]
    assert 150 < sum("<think>" in text for text in texts) < 240
    assert 60 < sum("## Tools" in text for text in texts) < 150
    assert prepared.general.longest <= 2048
    again = prepare(plan).general
    assert again is not None
    assert [again.sample(i) for i in range(5)] == [prepared.general.sample(i) for i in range(5)]
