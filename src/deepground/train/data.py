"""Training data made on the fly: conversations to samples to packed rows, reproducible by (seed, index).

Legend: B rows; S row length; T = B * S tokens of a batch.

Nothing is stored. Sample i of a run depends on i and the run's seed only, and what the packer holds back is
a short list of indices, so that the data's position in a checkpoint is a few integers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deepground.errors import TrainingError
from deepground.messages import Message, Tool
from deepground.model import ChatFormat, RowBatch, Tokenizer
from deepground.train.loss import IGNORED


@dataclass(frozen=True)
class Sample:
    """Token ids of a whole conversation."""

    token_ids: list[int]
    prompt_length: int
    """Leading tokens that the model is given; it is trained to write the rest."""


@dataclass(frozen=True)
class PackedBatch:
    """One step's rows."""

    rows: RowBatch
    targets_T: Tensor
    """int64; the token to predict, or `IGNORED`."""
    num_samples: int
    num_tokens: int
    """Tokens of samples, padding excluded."""

    @property
    def num_trained(self) -> int:
        """Positions with a target."""
        return int((self.targets_T != IGNORED).sum())

    def split(self, num_rows: int, device: torch.device | str = "cpu") -> Iterator[tuple[RowBatch, Tensor]]:
        """Rows and targets of at most `num_rows` rows each, on `device`."""
        assert self.rows.segment_ids_BS is not None
        row_length = self.rows.token_ids_T.shape[0] // self.rows.num_rows
        for start in range(0, self.rows.num_rows, num_rows):
            end = min(start + num_rows, self.rows.num_rows)
            tokens = slice(start * row_length, end * row_length)
            part = RowBatch(
                token_ids_T=self.rows.token_ids_T[tokens].to(device),
                positions_T=self.rows.positions_T[tokens].to(device),
                num_rows=end - start,
                segment_ids_BS=self.rows.segment_ids_BS[start:end].to(device),
            )
            yield part, self.targets_T[tokens].to(device)


@dataclass
class DataPosition:
    """Where the stream stands; part of a checkpoint."""

    next_index: int = 0
    """First sample that was not drawn yet."""
    waiting: list[int] = field(default_factory=list)
    """Samples that were drawn but did not fit, oldest first; they come first in the next batch."""
    dropped: int = 0
    """Samples longer than a row, which are left out: cut short, they would teach not to stop."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for a checkpoint's state."""
        return {"next_index": self.next_index, "waiting": list(self.waiting), "dropped": self.dropped}


def encode_conversation(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    chat_format: ChatFormat,
    *,
    thinking: bool,
    tools: Sequence[Tool] = (),
) -> Sample:
    """Exactly the tokens that a server would prompt with, then exactly those that the model should write.

    Args:
        messages: a conversation that ends with the assistant's message, the one that is trained on.
        tokenizer: of the model.
        chat_format: of the model.
        thinking: the last message thinks before it answers.
        tools: functions that the assistant is offered.

    Raises:
        TrainingError: the last message is not the assistant's.
    """
    *context, reply = messages
    if reply.role != "assistant":
        raise TrainingError(f"a training conversation ends with the assistant's message, not with role {reply.role}")
    prompt = chat_format.render(context, tools=tools, thinking=thinking)
    prompt_ids = tokenizer.encode_prompt(prompt)
    reply_ids = tokenizer.encode_prompt(chat_format.render_reply(reply, in_reasoning=prompt.in_reasoning))
    return Sample([*prompt_ids, *reply_ids], len(prompt_ids))


def sample_seed(seed: int, index: int) -> int:
    """A 48-bit seed for sample `index` of the run with `seed`; neighbours have nothing in common."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=6).digest(), "big")


class PackedStream:
    """An endless stream of packed batches.

    Samples fill rows first-fit; a batch is done when `patience` samples in a row of the draw have found no
    place, and those wait for the next batch.

    Args:
        make_sample: sample by its index, counted from 0; the same index always gives the same one.
        num_rows: B.
        row_length: S.
        pad_id: token of the unused ends of rows.
        position: where to go on; a new stream by default.
    """

    def __init__(
        self,
        make_sample: Callable[[int], Sample],
        *,
        num_rows: int,
        row_length: int,
        pad_id: int,
        position: DataPosition | None = None,
    ) -> None:
        self.position = position or DataPosition()
        self._make_sample = make_sample
        self._num_rows = num_rows
        self._row_length = row_length
        self._pad_id = pad_id

    def next_batch(self) -> PackedBatch:
        """The next batch; advances `position`.

        Raises:
            TrainingError: hardly any sample fits in a row.
        """
        rows: list[list[Sample]] = [[] for _ in range(self._num_rows)]
        free = [self._row_length] * self._num_rows
        queue, self.position.waiting = self.position.waiting, []
        patience, dropped = max(8, self._num_rows // 2), 0
        while len(self.position.waiting) < patience:
            index = queue.pop(0) if queue else self._draw()
            sample = self._make_sample(index)
            length = len(sample.token_ids)
            if length > self._row_length:
                dropped += 1
                if dropped > 100 * self._num_rows:
                    raise TrainingError(f"samples do not fit in rows of {self._row_length} tokens; raise row_length")
                continue
            row = next((r for r in range(self._num_rows) if free[r] >= length), None)
            if row is None:
                self.position.waiting.append(index)
                continue
            rows[row].append(sample)
            free[row] -= length
        self.position.waiting += queue
        self.position.dropped += dropped
        return pack_rows(rows, self._row_length, self._pad_id)

    def _draw(self) -> int:
        self.position.next_index += 1
        return self.position.next_index - 1


def pack_rows(rows: list[list[Sample]], row_length: int, pad_id: int) -> PackedBatch:
    """Rows of samples to tensors. Positions restart with each sample, and each has a segment of its own."""
    shape = (len(rows), row_length)
    token_ids_BS = torch.full(shape, pad_id, dtype=torch.int64)
    positions_BS = torch.zeros(shape, dtype=torch.int64)
    segment_ids_BS = torch.zeros(shape, dtype=torch.int64)
    targets_BS = torch.full(shape, IGNORED, dtype=torch.int64)
    num_tokens = 0
    for b, samples in enumerate(rows):
        start = 0
        for segment, sample in enumerate(samples):
            ids = torch.tensor(sample.token_ids, dtype=torch.int64)
            end = start + len(ids)
            token_ids_BS[b, start:end] = ids
            positions_BS[b, start:end] = torch.arange(len(ids))
            segment_ids_BS[b, start:end] = segment
            targets_BS[b, start + sample.prompt_length - 1 : end - 1] = ids[sample.prompt_length :]
            start = end
        positions_BS[b, start:] = torch.arange(row_length - start)
        segment_ids_BS[b, start:] = len(samples)
        num_tokens += start
    batch = RowBatch(
        token_ids_T=token_ids_BS.flatten(),
        positions_T=positions_BS.flatten(),
        num_rows=len(rows),
        segment_ids_BS=segment_ids_BS,
    )
    return PackedBatch(batch, targets_BS.flatten(), sum(map(len, rows)), num_tokens)
