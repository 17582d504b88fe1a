"""How surprised a model is by a text: the measure of what a number format costs.

Legend: T tokens of a window, V vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from deepground.errors import RequestError
from deepground.messages import Message
from deepground.model.batch import RowBatch
from deepground.model.chat_format import chat_format_for
from deepground.model.decoder import Decoder
from deepground.model.loading import load_config
from deepground.model.tokenizer import Tokenizer

_WINDOW = 512
_LOGIT_ROWS = 128
"""Rows of logits at a time: a vocabulary's worth of float32 for every token of a window is large."""


@dataclass(frozen=True, kw_only=True)
class ScoredText:
    """A text for which a model's surprise is measured."""

    token_ids: Sequence[int]
    given: int = 1
    """Leading tokens that are not scored, at least one."""


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """The mean surprise over texts."""

    nll: float
    """Mean negative log-likelihood of a token, in nats."""
    tokens: int
    """Tokens that were scored."""

    @property
    def value(self) -> float:
        """The mean's exponential: the number of equally likely tokens that would surprise as much."""
        return math.exp(self.nll)


def read_scored_texts(path: Path, folder: Path) -> list[ScoredText]:
    """The texts in a file, in a model's tokens.

    Args:
        path: plain UTF-8 text, scored as one; or, if its name ends in .jsonl, a conversation in every line,
            `{"messages": [{"role": "user", "content": ...}, ...]}`, of which the last message, the assistant's, is
            scored, with its `reasoning_content` if it has one. They are rendered in the model's chat format.
        folder: the model's, for its tokenizer and chat format.

    Raises:
        RequestError: the file cannot be read, or a line is not such a conversation; says which.
        ChatFormatError: the model's chat format cannot express a conversation.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read as UTF-8 text ({error})") from error
    tokenizer = Tokenizer.from_folder(folder)
    if path.suffix != ".jsonl":
        return [ScoredText(token_ids=tokenizer.encode(text))]
    chat_format = chat_format_for(folder, load_config(folder))
    texts = []
    for number, line in enumerate(text.splitlines(), start=1):
        *before, reply = _messages(line, f"{path}, line {number}")
        prompt = chat_format.render(before, thinking=bool(reply.reasoning))
        given = tokenizer.encode_prompt(prompt)
        answer = tokenizer.encode_prompt(chat_format.render_reply(reply, in_reasoning=prompt.in_reasoning))
        texts.append(ScoredText(token_ids=[*given, *answer], given=len(given)))
    return texts


@torch.inference_mode()
def measure_perplexity(decoder: Decoder, texts: Iterable[ScoredText], *, window: int = _WINDOW) -> Perplexity:
    """Score texts in windows that know nothing of each other.

    Args:
        decoder: the model, on the CPU.
        texts: what to score.
        window: tokens in a window; less where the model's context is shorter.

    Raises:
        RequestError: there is no token to score.
    """
    window = min(window, decoder.config.max_positions)
    total, count = 0.0, 0
    for text in texts:
        for first in range(0, len(text.token_ids) - 1, window - 1):
            ids_T = torch.tensor(text.token_ids[first : first + window])
            unscored = max(1, text.given - first)
            if unscored < ids_T.shape[0]:
                total += sum(_losses(decoder, ids_T, unscored))
                count += ids_T.shape[0] - unscored
    if not count:
        raise RequestError("there is no token to score; give a longer text")
    return Perplexity(nll=total / count, tokens=count)


def _losses(decoder: Decoder, ids_T: torch.Tensor, unscored: int) -> Iterator[float]:
    """The surprise at the tokens from `unscored` on, in runs."""
    hidden_TD = decoder(RowBatch.single(ids_T))
    for row in range(unscored - 1, ids_T.shape[0] - 1, _LOGIT_ROWS):
        targets_T = ids_T[row + 1 : row + 1 + _LOGIT_ROWS]
        logits_TV = decoder.logits(hidden_TD[row : row + targets_T.shape[0]])
        losses_T = torch.nn.functional.cross_entropy(logits_TV.float(), targets_T, reduction="none")
        yield float(losses_T.double().sum())


def _messages(line: str, where: str) -> list[Message]:
    wanted = RequestError(
        f'{where} is not a conversation that ends with the assistant: {{"messages": [{{"role": "user", "content": '
        '"..."}, {"role": "assistant", "content": "..."}]}'
    )
    try:
        entries = json.loads(line)["messages"]
        messages = [_message(**entry) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise wanted from error
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise wanted
    return messages


def _message(*, role: str, content: str, reasoning_content: str = "") -> Message:
    if not isinstance(content, str) or not isinstance(reasoning_content, str):
        raise TypeError("content is text")
    if role == "assistant":
        return Message.assistant(content, reasoning=reasoning_content)
    if reasoning_content or role not in ("system", "user"):
        raise ValueError(role)
    return Message.system(content) if role == "system" else Message.user(content)
