"""The bundled model in transformers: from the same FP8 folder the same logits and tokens. Its drafts are good."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from deepground.engine import LLM, PILOT_FOLDER
from deepground.messages import Message
from deepground.model import CHAT_FORMATS, RowBatch, Tokenizer, load_model
from deepground.tasks import TASKS
from deepground.train import draft_acceptance, greedy_replies

QUESTIONS = ("What is 478 + 256?", "Spell the word planet backwards.", "hello", "請計算 12*34")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = Tokenizer.from_folder(PILOT_FOLDER)
    chat_format = CHAT_FORMATS["deepseek-v3.1"]
    return [tokenizer.encode_prompt(chat_format.render([Message.user(question)])) for question in QUESTIONS]


def test_same_logits_as_transformers(prompts: list[list[int]]) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(PILOT_FOLDER, dtype=torch.float32).float().eval()
    ours = load_model(PILOT_FOLDER, dtype="float32")
    for prompt in prompts:
        ids = torch.tensor(prompt)
        with torch.inference_mode():
            expected_TV = theirs(ids[None]).logits[0]
            logits_TV = ours.logits(ours(RowBatch.single(ids)))
        assert (logits_TV - expected_TV).abs().max() < 1e-4


def test_same_tokens_as_transformers() -> None:
    theirs = AutoTokenizer.from_pretrained(PILOT_FOLDER)
    ours = Tokenizer.from_folder(PILOT_FOLDER)
    for question in QUESTIONS:
        assert ours.encode(question) == theirs.encode(question, add_special_tokens=False)
        assert theirs.decode(ours.encode(question)) == question
    assert ours.eos_ids == (theirs.eos_token_id,)


def test_drafts_are_mostly_what_the_model_then_says() -> None:
    replies = greedy_replies(LLM(), tuple(TASKS), problems_per_task=1, thinking=True)
    samples = [sample for part in replies.values() for sample in part]
    first, second = draft_acceptance(load_model(PILOT_FOLDER, dtype="float32"), samples, 2)
    assert first.total > 300
    assert first.share > 0.85
    assert second.share > 0.5


def test_the_folder_stays_small() -> None:
    assert sum(path.stat().st_size for path in PILOT_FOLDER.iterdir()) < 16 * 2**20
