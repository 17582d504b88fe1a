"""The same request gives the same tokens alone and in a batch of any size, however its prompt is cut up.

Run on whatever decoder the engine loads for a model folder.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from deepground.engine import Engine, EngineConfig
from deepground.messages import SamplingParams
from engine_fakes import drain
from tiny_models import tiny_model_folder

REQUEST = [5, 9, 30, 41, 200, 7, 9, 30, 41, 12, 5, 9, 30, 88, 3, 17, 5, 9]
GREEDY = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)
SEEDED = SamplingParams(temperature=1.2, top_p=0.95, seed=11, max_tokens=48, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny", mtp=True)


def tokens_of_request(
    folder: Path, params: SamplingParams, *, others: int, late: bool = False, **config: Any
) -> list[int]:
    """What REQUEST gets in a crowd; the others differ in everything."""
    engine = Engine.from_folder(folder, EngineConfig(num_pages=512, **config))
    dice = random.Random(others)
    crowd = [[dice.randrange(2, 300) for _ in range(dice.randint(1, 70))] for _ in range(others)]
    for n, prompt in enumerate(crowd):
        engine.add(prompt, SamplingParams(max_tokens=30 + n, temperature=n % 2, seed=n, ignore_eos=True))
    if late:
        for _ in range(5):
            engine.step()
    engine.add(REQUEST, params, "the one")
    return [id_ for out in drain(engine, check=False) if out.request_id == "the one" for id_ in out.token_ids]


@cache
def alone(folder: Path, params: SamplingParams) -> list[int]:
    return tokens_of_request(folder, params, others=0, speculate="off")


@pytest.mark.parametrize("params", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("batch", [1, 2, 8, 16])
@pytest.mark.parametrize("speculate", ["off", "mtp", "ngram", "auto"])
def test_batch_size(folder: Path, params: SamplingParams, batch: int, speculate: str) -> None:
    crowded = tokens_of_request(folder, params, others=batch - 1, late=batch == 8, speculate=speculate)
    assert crowded == alone(folder, params)
    assert len(crowded) == 48


@pytest.mark.parametrize("params", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("prefill_chunk", [1, 5, 16])
def test_chunks_of_the_prompt(folder: Path, params: SamplingParams, prefill_chunk: int) -> None:
    for others in (0, 3):
        crowded = tokens_of_request(folder, params, others=others, prefill_chunk=prefill_chunk)
        assert crowded == alone(folder, params)


def test_drafts_of_the_loaded_decoder_are_verified(folder: Path) -> None:
    engine = Engine.from_folder(folder, EngineConfig(num_pages=512, speculate="ngram"))
    engine.add([7, 8, 9] * 8, SamplingParams(temperature=0, max_tokens=200, ignore_eos=True))
    assert sum(len(out.token_ids) for out in drain(engine, check=False)) == 200
    assert engine.stats.drafted_tokens > 0
