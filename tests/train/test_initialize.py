import dataclasses

import pytest
import torch

from deepground.model import Decoder
from deepground.train import initialize, pack_rows
from deepground.train.pretrain import Trainer
from training_samples import CONFIG, copy_sample, tiny_trainer


def test_the_embedding_has_size_one_and_the_rest_is_unchanged() -> None:
    decoder, usual = Decoder(CONFIG), Decoder(CONFIG)
    initialize(decoder, 3)
    usual.init_weights(3)
    assert float(decoder.model.embed_tokens.weight.detach().std()) == pytest.approx(1.0, rel=0.05)
    for (name, mine), theirs in zip(decoder.named_parameters(), usual.parameters(), strict=True):
        assert "embed_tokens" in name or torch.equal(mine, theirs)


def test_a_tied_embedding_keeps_the_usual_size() -> None:
    decoder = Decoder(dataclasses.replace(CONFIG, tie_word_embeddings=True))
    initialize(decoder, 3)
    assert float(decoder.model.embed_tokens.weight.detach().std()) == pytest.approx(CONFIG.initializer_range, rel=0.05)


def test_training_does_not_drown_the_embedding() -> None:
    trainer: Trainer = tiny_trainer(60)
    initialize(trainer.decoder, 0)
    for _ in range(60):
        trainer.run_step()
    batch = pack_rows([[copy_sample(1)]], 48, pad_id=2).rows
    sizes = []
    first = trainer.decoder.model.layers[0]
    handle = first.register_forward_hook(
        lambda module, inputs, output: sizes.append(float(output.detach().std() / inputs[0].detach().std()))
    )
    trainer.decoder(batch)
    handle.remove()
    assert sizes[0] < 10
