import json
import shutil
from pathlib import Path

import pytest
import torch

from deepground.errors import CheckpointError
from deepground.train import Trainer, list_checkpoints, read_state
from deepground.train.checkpoint import load_model_weights, load_training_state, save_checkpoint
from training_samples import tiny_decoder, tiny_trainer


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Trainer, Path]:
    trainer = tiny_trainer(20)
    for _ in range(3):
        trainer.run_step()
    return trainer, trainer.save(tmp_path)


def test_everything_comes_back(trained: tuple[Trainer, Path], tmp_path: Path) -> None:
    trainer, path = trained
    other = tiny_trainer(20)
    assert other.resume(path) == []
    assert (other.step, other.tokens, other.position) == (trainer.step, trainer.tokens, trainer.position)
    for mine, theirs in zip(trainer.decoder.state_dict().values(), other.decoder.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(trainer.optimizers, other.optimizers, strict=True):
        for index, values in mine.state_dict()["state"].items():
            for key, value in values.items():
                assert torch.equal(value, theirs.state_dict()["state"][index][key])


def test_the_next_steps_are_bitwise_equal(trained: tuple[Trainer, Path]) -> None:
    trainer, path = trained
    other = tiny_trainer(20)
    other.resume(path)
    assert [trainer.run_step() for _ in range(4)] == [other.run_step() for _ in range(4)]


def test_random_state_comes_back(tmp_path: Path) -> None:
    decoder = tiny_decoder()
    torch.manual_seed(5)
    path = save_checkpoint(tmp_path, 1, decoder, [], {})
    expected = torch.rand(3)
    load_training_state(path, [])
    assert torch.equal(torch.rand(3), expected)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    decoder = tiny_decoder()
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, decoder, [], {}, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000004", "step_00000005"]
    assert read_state(list_checkpoints(tmp_path)[-1])["step"] == 5


@pytest.mark.parametrize("damage", ["missing file", "short file", "no state", "broken state", "scratch name"])
def test_torn_checkpoints_are_passed_over(tmp_path: Path, damage: str) -> None:
    decoder = tiny_decoder()
    whole = save_checkpoint(tmp_path, 1, decoder, [], {})
    torn = save_checkpoint(tmp_path, 2, decoder, [], {})
    if damage == "missing file":
        (torn / "optimizer.safetensors").unlink()
    elif damage == "short file":
        data = (torn / "model.safetensors").read_bytes()
        (torn / "model.safetensors").write_bytes(data[: len(data) // 2])
    elif damage == "no state":
        (torn / "state.json").unlink()
    elif damage == "broken state":
        (torn / "state.json").write_text('{"step": 2, "fil', encoding="utf-8")
    else:
        torn.rename(torn.with_name(".writing_00000002_1"))
    assert list_checkpoints(tmp_path) == [whole]


def test_saving_again_replaces(tmp_path: Path) -> None:
    decoder = tiny_decoder()
    save_checkpoint(tmp_path, 1, decoder, [], {"note": "old"})
    path = save_checkpoint(tmp_path, 1, decoder, [], {"note": "new"})
    assert read_state(path)["note"] == "new"


def test_another_model_is_refused(trained: tuple[Trainer, Path]) -> None:
    _, path = trained
    with pytest.raises(CheckpointError, match="another model configuration"):
        load_model_weights(path, torch.nn.Linear(2, 2))


def test_other_optimizers_are_refused(trained: tuple[Trainer, Path]) -> None:
    trainer, path = trained
    with pytest.raises(CheckpointError, match="other optimizers"):
        load_training_state(path, trainer.optimizers[:1])


def test_damaged_weights_are_an_error_that_names_the_file(trained: tuple[Trainer, Path]) -> None:
    trainer, path = trained
    (path / "model.safetensors").write_bytes(b"\x08")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_model_weights(path, trainer.decoder)


def test_incomplete_state_is_an_error(trained: tuple[Trainer, Path]) -> None:
    trainer, path = trained
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    del state["data"]
    (path / "state.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(CheckpointError, match="incomplete"):
        trainer.resume(path)
    shutil.rmtree(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state(path)


def test_changed_settings_are_told(trained: tuple[Trainer, Path]) -> None:
    _, path = trained
    assert tiny_trainer(40).resume(path) == ["schedule.total_steps: 20 -> 40"]
