from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deepground.errors import TrainingError
from deepground.model import Decoder, RowBatch, WeightFormat, load_config, load_model, save_model
from deepground.train import (
    PretrainConfig,
    Schedule,
    Trainer,
    add_mtp_layer,
    draft_acceptance,
    export_checkpoint,
    load_main_model,
)
from deepground.train.mtp import MTP_PREFIX
from tiny_models import TINY_DEEPSEEK, tiny_model_folder
from training_samples import copy_sample

INDEX = "model.safetensors.index.json"


def trained_layer(model: Path, run: Path, steps: int = 2, seed: int = 1) -> Trainer:
    config = PretrainConfig(
        schedule=Schedule(total_steps=10), num_rows=4, row_length=32, precision="float32", mtp_drafts=1
    )
    trainer = Trainer(add_mtp_layer(load_main_model(model), seed), copy_sample, config, pad_id=2)
    for _ in range(steps):
        trainer.run_step()
    trainer.save(run)
    return trainer


def model_folder(folder: Path, weight_format: WeightFormat, **options: int) -> Path:
    """A model whose matrices fill whole blocks, save the one that never does."""
    decoder = Decoder(replace(TINY_DEEPSEEK, hidden_size=128, intermediate_size=128))
    decoder.init_weights(0)
    save_model(decoder, folder, weight_format=weight_format, **options)
    return folder


@pytest.mark.parametrize("weight_format", ["float32", "bfloat16", "fp8-ue8m0"])
def test_the_main_models_files_are_copied_and_the_layer_is_added(tmp_path: Path, weight_format: WeightFormat) -> None:
    model = model_folder(tmp_path / "model", weight_format)
    trainer = trained_layer(model, tmp_path / "run")
    assert export_checkpoint(tmp_path / "run", model, tmp_path / "out") == 2
    main, layer = sorted((tmp_path / "out").glob("*.safetensors"))
    assert main.read_bytes() == (model / "model.safetensors").read_bytes()
    tensors = load_file(layer)
    assert all(name.startswith("model.layers.2.") for name in tensors)
    assert tensors["model.layers.2.eh_proj.weight"].dtype == (
        torch.float32 if weight_format == "float32" else torch.bfloat16
    )
    before, after = load_model(model, dtype="float32"), load_model(tmp_path / "out", dtype="float32")
    assert after.config.num_mtp_layers == 1
    weights = after.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in before.state_dict().items())
    for name, value in trainer.decoder.state_dict().items():
        if name.startswith(MTP_PREFIX):
            tolerance = {"float32": 0, "bfloat16": 2**-8, "fp8-ue8m0": 2**-4}[weight_format]
            assert (value - weights[name]).abs().max() <= tolerance * value.abs().max()


def test_fp8_matrices_of_the_layer_are_fp8_and_the_others_are_named(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", "fp8-ue8m0")
    trained_layer(model, tmp_path / "run")
    export_checkpoint(tmp_path / "run", model, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model-00002-of-00002.safetensors")
    expert = "model.layers.2.mlp.experts.3.up_proj.weight"
    assert tensors[expert].dtype == torch.float8_e4m3fn
    assert tensors[f"{expert}_scale_inv"].dtype == torch.float32
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    plain = set(config["quantization_config"]["modules_to_not_convert"])
    unquantised = {
        name.removesuffix(".weight")
        for name, tensor in tensors.items()
        if tensor.dim() == 2 and tensor.dtype == torch.bfloat16 and not name.endswith(("gate.weight", "eh_proj.weight"))
    }
    assert unquantised <= plain
    assert tensors["model.layers.2.eh_proj.weight"].dtype == torch.bfloat16
    before = json.loads((model / "config.json").read_text())["quantization_config"]["modules_to_not_convert"]
    assert set(before) <= plain


def test_in_place_and_once_more(tmp_path: Path) -> None:
    """A second layer takes the place of the first one, and the tokenizer stays."""
    model = tiny_model_folder(tmp_path / "model")
    original = (model / "model.safetensors").read_bytes()
    for attempt in (1, 2):
        trainer = trained_layer(model, tmp_path / f"run{attempt}", seed=attempt)
        export_checkpoint(tmp_path / f"run{attempt}", model, model)
        assert [path.name for path in sorted(model.iterdir())] == [
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            INDEX,
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        assert (model / "model-00001-of-00002.safetensors").read_bytes() == original
        loaded = load_model(model, dtype="float32").state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in trainer.decoder.state_dict().items())
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_older_layer_is_taken_out_of_mixed_files(tmp_path: Path) -> None:
    """Released checkpoints have shards that hold parts of both."""
    config = replace(TINY_DEEPSEEK, num_mtp_layers=2, moe_layers=frozenset({1, 2, 3}))
    decoder = Decoder(config)
    decoder.init_weights(0)
    save_model(decoder, tmp_path / "model", weight_format="float32", max_shard_bytes=100_000)
    trainer = trained_layer(tmp_path / "model", tmp_path / "run")
    export_checkpoint(tmp_path / "run", tmp_path / "model", tmp_path / "out")
    loaded = load_model(tmp_path / "out", dtype="float32")
    assert loaded.config.num_mtp_layers == load_config(tmp_path / "out").num_mtp_layers == 1
    for name, value in trainer.decoder.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_other_models_and_formats_are_refused(tmp_path: Path) -> None:
    model = tiny_model_folder(tmp_path / "model")
    other = tiny_model_folder(tmp_path / "other", seed=1)
    trained_layer(model, tmp_path / "run")
    with pytest.raises(TrainingError, match="was trained for another model"):
        export_checkpoint(tmp_path / "run", other, tmp_path / "out")
    with pytest.raises(TrainingError, match="without a weight format"):
        export_checkpoint(tmp_path / "run", model, tmp_path / "out", weight_format="float32")
    with pytest.raises(TrainingError, match="name that model's folder"):
        export_checkpoint(tmp_path / "run", TINY_DEEPSEEK, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_exported_layer_drafts(tmp_path: Path) -> None:
    model = tiny_model_folder(tmp_path / "model")
    trainer = trained_layer(model, tmp_path / "run")
    export_checkpoint(tmp_path / "run", model, tmp_path / "out")
    loaded = load_model(tmp_path / "out", dtype="float32")
    replies = [copy_sample(index) for index in range(20)]
    ids = torch.tensor(replies[0].token_ids)
    batch = RowBatch.single(ids[:-1])
    with torch.no_grad():
        logits = [d.eval().mtp_logits(d(batch), ids[1:], batch) for d in (trainer.decoder, loaded)]
    assert torch.equal(*logits)
    assert draft_acceptance(loaded, replies, 2) == draft_acceptance(trainer.decoder, replies, 2)
