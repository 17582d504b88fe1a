"""Perplexity against its definition.

Legend: T tokens, V vocabulary.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from deepground.errors import RequestError
from deepground.model import Decoder, Perplexity, RowBatch, ScoredText, Tokenizer, measure_perplexity, read_scored_texts
from tiny_models import TINY_DEEPSEEK, tiny_model_folder


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    decoder = Decoder(TINY_DEEPSEEK)
    decoder.init_weights(0)
    return decoder.eval()


@torch.inference_mode()
def _surprise(decoder: Decoder, ids: list[int]) -> float:
    """The sum over all tokens but the first."""
    ids_T = torch.tensor(ids)
    log_TV = torch.log_softmax(decoder.logits(decoder(RowBatch.single(ids_T))).double(), dim=-1)
    return -float(log_TV[:-1].gather(1, ids_T[1:, None]).sum())


def _measure(decoder: Decoder, ids: list[int], window: int = 512) -> Perplexity:
    return measure_perplexity(decoder, [ScoredText(token_ids=ids)], window=window)


def test_one_window(decoder: Decoder) -> None:
    ids = [index * 37 % 320 for index in range(300)]
    result = _measure(decoder, ids)
    assert result.tokens == 299
    assert result.nll == pytest.approx(_surprise(decoder, ids) / 299, rel=1e-5)
    assert result.value == pytest.approx(math.exp(result.nll))


@pytest.mark.parametrize("length", [2, 16, 17, 31, 32, 100])
def test_windows_score_every_token_but_the_first_once(decoder: Decoder, length: int) -> None:
    ids = [index * 37 % 320 for index in range(length)]
    result = _measure(decoder, ids, window=16)
    # A window begins with the last token of the one before.
    windows = [ids[first : first + 16] for first in range(0, length - 1, 15)]
    assert result.tokens == length - 1
    assert result.nll == pytest.approx(sum(_surprise(decoder, window) for window in windows) / (length - 1), rel=1e-5)


def test_the_models_context_bounds_the_window(decoder: Decoder) -> None:
    ids = [index % 320 for index in range(600)]
    assert _measure(decoder, ids, window=10_000).nll == _measure(decoder, ids, window=512).nll


@torch.inference_mode()
def test_what_is_given_is_not_scored(decoder: Decoder) -> None:
    ids = [index * 37 % 320 for index in range(50)]
    given = measure_perplexity(decoder, [ScoredText(token_ids=ids, given=20)], window=64)
    assert given.tokens == 30
    log_TV = torch.log_softmax(decoder.logits(decoder(RowBatch.single(torch.tensor(ids)))).double(), dim=-1)
    expected = -sum(float(log_TV[row - 1, ids[row]]) for row in range(20, 50)) / 30
    assert given.nll == pytest.approx(expected, rel=1e-5)
    # Over windows of 16, of which the first is given as a whole.
    assert measure_perplexity(decoder, [ScoredText(token_ids=ids, given=20)], window=16).tokens == 30
    both = measure_perplexity(decoder, [ScoredText(token_ids=ids, given=20), ScoredText(token_ids=ids)])
    assert both.tokens == 79


@pytest.mark.parametrize(("ids", "given"), [([], 1), ([1], 1), ([1, 2], 2)])
def test_too_little_text(decoder: Decoder, ids: list[int], given: int) -> None:
    with pytest.raises(RequestError, match="no token to score"):
        measure_perplexity(decoder, [ScoredText(token_ids=ids, given=given)])


def test_conversations(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "model")
    path = tmp_path / "talk.jsonl"
    user = {"role": "user", "content": "What is one plus one?"}
    replies = [{"content": "two"}, {"content": "two", "reasoning_content": "1+1"}]
    path.write_text("\n".join(json.dumps({"messages": [user, {"role": "assistant", **reply}]}) for reply in replies))
    tokenizer = Tokenizer.from_folder(folder)
    texts = read_scored_texts(path, folder)
    answers = [tokenizer.decode(text.token_ids[text.given :]) for text in texts]
    assert [answer.replace("<｜end▁of▁sentence｜>", "") for answer in answers] == ["two", "1+1</think>two"]
    assert all("What is one" in tokenizer.decode(text.token_ids[: text.given]) for text in texts)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"messages": []}',
        '{"messages": [{"role": "user", "content": "hi"}]}',
        '{"messages": [{"role": "assistant", "content": "hi"}]}',
        '{"messages": [{"role": "tool", "content": "hi"}, {"role": "assistant", "content": "hi"}]}',
        '{"messages": [{"role": "user", "content": 7}, {"role": "assistant", "content": "hi"}]}',
        '{"messages": [{"role": "user", "text": "hi"}, {"role": "assistant", "content": "hi"}]}',
    ],
)
def test_lines_that_are_no_conversations_are_named(tmp_path: Path, line: str) -> None:
    folder = tiny_model_folder(tmp_path / "model")
    path = tmp_path / "talk.jsonl"
    path.write_text(line)
    with pytest.raises(RequestError, match=r"talk\.jsonl, line 1 is not a conversation"):
        read_scored_texts(path, folder)
