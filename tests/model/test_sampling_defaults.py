"""generation_config.json as defaults."""

import json
from pathlib import Path

import pytest

from deepground.errors import ConfigError
from deepground.messages import SamplingParams
from deepground.model import load_sampling_defaults


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, SamplingParams()),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "eos_token_id": 1},
            SamplingParams(temperature=0.6, top_p=0.95),
        ),
        ({"do_sample": False, "temperature": 0.6}, SamplingParams(temperature=0)),
        (
            {"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05},
            SamplingParams(top_k=20, min_p=0.1, repetition_penalty=1.05),
        ),
    ],
)
def test_reads_what_matters(tmp_path: Path, content: dict[str, object], expected: SamplingParams) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    assert load_sampling_defaults(tmp_path) == expected


def test_no_file_no_defaults(tmp_path: Path) -> None:
    assert load_sampling_defaults(tmp_path) == SamplingParams()


@pytest.mark.parametrize("content", ['{"temperature": 9}', '{"top_p": "x"}', "[]", "{"])
def test_a_bad_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ConfigError, match="generation_config"):
        load_sampling_defaults(tmp_path)
