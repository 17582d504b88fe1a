from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from deepground.errors import CheckpointError, TrainingError
from deepground.model import Decoder, ModelConfig, RowBatch
from deepground.train import (
    PretrainConfig,
    RunReporter,
    Sample,
    Schedule,
    Trainer,
    add_mtp_layer,
    list_checkpoints,
    pack_rows,
    pretrain,
)
from deepground.train.mtp import MTP_PREFIX, main_model_digest, mtp_loss
from deepground.train.reporting import METRICS_FILE, read_metrics
from tiny_configs import GQA, tiny_config
from training_samples import copy_sample, tiny_decoder, tiny_trainer

SAMPLES = [[Sample([5, 6, 7, 8, 9], 2), Sample([10, 11, 12, 13], 1)], [Sample([3, 4, 5, 6, 3, 8], 3)]]
TOTAL_STEPS = 12


def copying_model(steps: int = 0) -> Decoder:
    """A main model; with some steps of training it has something to say."""
    trainer = tiny_trainer(max(1, steps))
    for _ in range(steps):
        trainer.run_step()
    return trainer.decoder


def mtp_trainer(main: Decoder, total_steps: int = TOTAL_STEPS, drafts: int = 2) -> Trainer:
    config = PretrainConfig(
        schedule=Schedule(total_steps=total_steps, warmup_steps=3),
        num_rows=8,
        row_length=48,
        micro_rows=4,
        checkpoint_steps=4,
        precision="float32",
        mtp_drafts=drafts,
    )
    return Trainer(add_mtp_layer(main, 1), copy_sample, config, pad_id=2)


def main_weights(decoder: Decoder) -> dict[str, Tensor]:
    return {n: value.clone() for n, value in decoder.state_dict().items() if not n.startswith(MTP_PREFIX)}


def run(folder: Path, main: Decoder, **settings: int) -> None:
    pretrain(mtp_trainer(main, **settings), folder, RunReporter(folder, Console(file=io.StringIO())))


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(folder / METRICS_FILE)]


def loss_of_one(decoder: Decoder, sample: Sample, drafts: int) -> Tensor:
    """`mtp_loss` of a single sample, position by position."""
    ids = torch.tensor(sample.token_ids)
    batch = RowBatch.single(ids)
    hidden = decoder(batch)
    wanted = decoder.logits(hidden).argmax(-1)
    next_ids = torch.cat((ids[1:], ids[:1]))
    state, total = hidden, torch.zeros(())
    for _ in range(drafts):
        out = decoder.mtp_hidden(state, next_ids, batch)
        for position in range(max(1, sample.prompt_length - 1), len(ids) - 1):
            total = total + F.cross_entropy(decoder.logits(out[position - 1 : position])[0], wanted[position])
        state = torch.cat((hidden[:1], out[:-1]))
    return total / drafts


@pytest.mark.parametrize("drafts", [1, 2, 3])
def test_packed_samples_have_the_loss_of_each_alone(drafts: int) -> None:
    decoder = add_mtp_layer(tiny_decoder(), 1)
    batch = pack_rows(SAMPLES, 12, pad_id=2)
    expected = sum(loss_of_one(decoder, sample, drafts) for row in SAMPLES for sample in row)
    torch.testing.assert_close(mtp_loss(decoder, batch.rows, batch.targets_T, drafts), expected)


def test_the_first_draft_matches_the_decoders_own_prediction() -> None:
    decoder = add_mtp_layer(tiny_decoder(), 1)
    sample = SAMPLES[1][0]
    ids = torch.tensor(sample.token_ids)
    batch = RowBatch.single(ids[:-1])
    hidden = decoder(batch)
    logits = decoder.mtp_logits(hidden, ids[1:], batch)
    wanted = decoder.logits(hidden).argmax(-1)
    packed = pack_rows([[sample]], 8, pad_id=2)
    expected = F.cross_entropy(logits[1:4], wanted[2:5], reduction="sum")
    torch.testing.assert_close(mtp_loss(decoder, packed.rows, packed.targets_T, 1), expected)


def test_the_layer_learns_and_the_main_model_stays() -> None:
    main = copying_model(60)
    before, trainer = main_weights(main), mtp_trainer(main, 60, drafts=1)
    values = [trainer.run_step().loss for _ in range(60)]
    assert sum(values[-5:]) < 0.6 * sum(values[:5])
    after = main_weights(trainer.decoder)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None for n, p in trainer.decoder.named_parameters() if not n.startswith(MTP_PREFIX))


def test_routers_of_the_layer_are_balanced() -> None:
    trainer = mtp_trainer(tiny_decoder())
    assert trainer.run_step().load is not None
    layer = trainer.decoder.model.mtp_layers[0]
    assert layer.mlp.gate.e_score_correction_bias.abs().sum() > 0


def test_a_run_that_was_cut_off_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    main = copying_model(5)
    run(tmp_path / "whole", main)
    cut = mtp_trainer(main)
    for _ in range(5):  # One step more than the newest checkpoint, as a killed run has.
        if cut.step % 4 == 0:
            cut.save(tmp_path / "cut")
        cut.run_step()
    run(tmp_path / "cut", main)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")[4:]


def test_the_second_draft_joins_halfway() -> None:
    decoder = tiny_decoder()
    one, two = mtp_trainer(decoder, drafts=1), mtp_trainer(decoder, drafts=2)
    pairs = [(one.run_step().loss, two.run_step().loss) for _ in range(TOTAL_STEPS // 2 + 1)]
    assert [a == b for a, b in pairs] == [True] * (TOTAL_STEPS // 2) + [False]


def test_checkpoints_hold_the_layer_alone(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    trainer = mtp_trainer(tiny_decoder())
    tensors = load_file(trainer.save(tmp_path) / "model.safetensors")
    assert tensors.keys() == trainer.decoder.model.mtp_layers.state_dict().keys()


def test_another_main_model_is_refused(tmp_path: Path) -> None:
    mtp_trainer(tiny_decoder()).save(tmp_path)
    (checkpoint,) = list_checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match="another main model"):
        mtp_trainer(tiny_decoder(seed=1)).resume(checkpoint)
    with pytest.raises(CheckpointError, match="another phase"):
        tiny_trainer(5).resume(checkpoint)


def test_a_model_without_the_layer_names_the_cure() -> None:
    settings = mtp_trainer(tiny_decoder()).config
    with pytest.raises(TrainingError, match="add_mtp_layer"):
        Trainer(tiny_decoder(), copy_sample, settings, pad_id=2)


def test_the_new_layer_has_experts() -> None:
    extended = add_mtp_layer(Decoder(tiny_config()), 0)
    assert extended.config == tiny_config(num_mtp_layers=1, moe_layers=frozenset({1, 2}))
    assert add_mtp_layer(extended, 0) is extended


@pytest.mark.parametrize(
    "config", [tiny_config(GQA), tiny_config(moe=None, moe_layers=frozenset())], ids=["qwen3_moe", "dense deepseek_v3"]
)
def test_models_without_a_place_for_the_layer_are_refused(config: ModelConfig) -> None:
    with pytest.raises(TrainingError, match=f"{config.family} model.* has no place"):
        add_mtp_layer(Decoder(config), 0)


def test_the_layer_is_the_same_for_the_same_seed() -> None:
    first, same, other = (add_mtp_layer(tiny_decoder(), seed) for seed in (1, 1, 2))
    weights = [d.model.mtp_layers[0].eh_proj.weight for d in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_digest_sees_every_main_weight_and_nothing_of_the_layer() -> None:
    decoder = add_mtp_layer(tiny_decoder(), 1)
    before = main_model_digest(decoder)
    with torch.no_grad():
        decoder.model.mtp_layers[0].eh_proj.weight.zero_()
    assert main_model_digest(decoder) == before
    for name, value in decoder.state_dict().items():
        if not name.startswith(MTP_PREFIX):
            first = value.view(-1)[0].clone()
            value.view(-1)[0] += 1
            assert main_model_digest(decoder) != before, name
            value.view(-1)[0] = first
    assert main_model_digest(decoder) == before
