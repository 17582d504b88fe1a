from __future__ import annotations

import pytest
import torch

from deepground.model import Decoder, RowBatch
from deepground.model.config import GqaConfig, MlaConfig
from tiny_configs import GQA, MLA, SPARSE_MLA, random_tokens, row_hidden, tiny_config, tiny_decoder


def test_parameter_names_are_hugging_faces() -> None:
    names = set(Decoder(tiny_config(num_mtp_layers=1, moe_layers=frozenset({1, 2}))).state_dict())
    assert {
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.1.mlp.gate.e_score_correction_bias",
        "model.layers.1.mlp.experts.gate_up_proj",
        "model.layers.1.mlp.shared_experts.down_proj.weight",
        "model.norm.weight",
        "model.mtp_layers.0.eh_proj.weight",
        "model.mtp_layers.0.shared_head.norm.weight",
        "lm_head.weight",
    } <= names


def test_tied_embeddings_have_no_head_of_their_own() -> None:
    decoder = tiny_decoder(tiny_config(tie_word_embeddings=True))
    assert "lm_head.weight" not in decoder.state_dict()
    hidden_ND = torch.randn(3, 24)
    torch.testing.assert_close(decoder.logits(hidden_ND), hidden_ND @ decoder.model.embed_tokens.weight.t())


def test_logits_are_float32() -> None:
    decoder = tiny_decoder(tiny_config()).to(torch.bfloat16)
    assert decoder.logits(torch.ones(2, 24, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("attention", [MLA, SPARSE_MLA, GQA], ids=["mla", "sparse mla", "gqa"])
def test_built_without_memory_then_given_weights(attention: GqaConfig | MlaConfig) -> None:
    config = tiny_config(attention)
    source = tiny_decoder(config)
    with torch.device("meta"):
        empty = Decoder(config)
    assert all(p.is_meta for p in empty.parameters())
    empty.load_state_dict(source.state_dict(), assign=True)
    tokens = random_tokens(9)
    assert torch.equal(row_hidden(empty.eval(), tokens), row_hidden(source, tokens))


def test_same_seed_same_weights() -> None:
    first, again, other = (tiny_decoder(tiny_config(), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_initial_weights_do_not_touch_the_global_generator() -> None:
    torch.manual_seed(0)
    decoder = Decoder(tiny_config())
    state = torch.get_rng_state()
    decoder.init_weights(3)
    assert torch.equal(state, torch.get_rng_state())


def test_initial_weights_have_the_asked_spread() -> None:
    config = tiny_config(hidden_size=128, initializer_range=0.02)
    state = tiny_decoder(config).state_dict()
    expected = {
        "model.embed_tokens.weight": 0.02,
        "model.layers.1.mlp.experts.gate_up_proj": 0.02,
        "model.layers.0.self_attn.o_proj.weight": 0.01,
        "model.layers.0.mlp.down_proj.weight": 0.01,
        "model.layers.1.mlp.experts.down_proj": 0.01,
    }
    for name, std in expected.items():
        assert float(state[name].std()) == pytest.approx(std, rel=0.1), name
    assert bool((state["model.norm.weight"] == 1).all())
    assert bool((state["model.layers.1.mlp.gate.e_score_correction_bias"] == 0).all())


@pytest.mark.parametrize("attention", [MLA, GQA], ids=["mla", "gqa"])
def test_gradients_reach_every_parameter(attention: GqaConfig | MlaConfig) -> None:
    decoder = tiny_decoder(tiny_config(attention)).train()
    tokens_T = random_tokens(60)
    batch = RowBatch(token_ids_T=tokens_T, positions_T=torch.arange(20).repeat(3), num_rows=3)
    decoder.logits(decoder(batch)).logsumexp(-1).sum().backward()
    without = [name for name, p in decoder.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert without == []


def test_autocast_training_step_is_close_to_float32() -> None:
    decoder = tiny_decoder(tiny_config()).train()
    tokens_T = random_tokens(40)
    batch = RowBatch(token_ids_T=tokens_T, positions_T=torch.arange(20).repeat(2), num_rows=2)
    exact = torch.nn.functional.cross_entropy(decoder.logits(decoder(batch)), tokens_T)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = torch.nn.functional.cross_entropy(decoder.logits(decoder(batch)), tokens_T)
    rounded.backward()
    assert float(rounded.detach()) == pytest.approx(float(exact.detach()), rel=0.05)
