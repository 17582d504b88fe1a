"""How a checkpoint's makers want it sampled: its generation_config.json."""

from __future__ import annotations

from pathlib import Path

from deepground.messages import SamplingParams
from deepground.model.config_fields import Fields, read_json_object


def load_sampling_defaults(folder: Path | str) -> SamplingParams:
    """The sampling parameters in a model folder's generation_config.json, where there is one.

    Only what changes the choice of tokens is taken. An explicit `do_sample: false` means greedy, as in
    transformers; without the field the temperature counts.

    Raises:
        ConfigError: the file cannot be read, or a value is out of range.
    """
    path = Path(folder) / "generation_config.json"
    if not path.is_file():
        return SamplingParams()
    fields = Fields(read_json_object(path), "generation_config.json: ")
    greedy = not fields.boolean("do_sample", True)
    return SamplingParams(
        temperature=0.0 if greedy else fields.number("temperature", 0, 2, 1.0),
        top_p=fields.number("top_p", 1e-6, 1, 1.0),
        top_k=fields.integer("top_k", 0, 2**31 - 1, 0),
        min_p=fields.number("min_p", 0, 1, 0.0),
        repetition_penalty=fields.number("repetition_penalty", 1e-6, 2, 1.0),
    )
