"""Samples of the tasks' training mixture, by index."""

from __future__ import annotations

from collections.abc import Callable

from deepground.errors import TrainingError
from deepground.model import ChatFormat, Tokenizer
from deepground.tasks import training_conversation
from deepground.train.data import Sample, encode_conversation, sample_seed


def mixture_samples(
    tokenizer: Tokenizer, chat_format: ChatFormat, *, seed: int, easy_samples: int = 30_000
) -> Callable[[int], Sample]:
    """A function from a sample's index to the sample.

    Args:
        tokenizer: of the model.
        chat_format: of the model.
        seed: of the whole run.
        easy_samples: over this many samples, the mixture moves from easy levels to all levels alike.

    Raises:
        TrainingError: easy_samples is negative.
    """
    if easy_samples < 0:
        raise TrainingError(f"easy_samples is {easy_samples}; it must be 0 (all levels from the start) or more")

    def make_sample(index: int) -> Sample:
        progress = 1.0 if index >= easy_samples else index / easy_samples
        conversation = training_conversation(sample_seed(seed, index), progress=progress)
        return encode_conversation(
            conversation.messages, tokenizer, chat_format, thinking=conversation.thinking, tools=conversation.tools
        )

    return make_sample
