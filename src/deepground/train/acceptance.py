"""How often the tokens that an MTP layer drafts are those that the main model then chooses.

Measured on the model's own greedy replies to held-out problems, with the very states that an engine has when it
drafts: true ones of the main model up to the newest token, the layer's own ones after it.

Legend: S tokens of one conversation; D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepground.engine import LLM
from deepground.errors import TrainingError
from deepground.model import Decoder, RowBatch
from deepground.model.attention.context import RowContext
from deepground.model.mtp import MtpLayer
from deepground.tasks import evaluation_set
from deepground.train.data import Sample
from deepground.train.evaluate import greedy_answers


@dataclass(frozen=True)
class DraftAcceptance:
    """One place in the row of drafts."""

    draft: int
    """1: the token after the next; 2: the one after that."""
    accepted: int
    total: int
    """Times that the drafts before it were right, so that this one counts."""

    @property
    def share(self) -> float:
        """Of the drafts that counted, those that were right."""
        return self.accepted / max(1, self.total)


def greedy_replies(
    llm: LLM, tasks: Sequence[str], *, problems_per_task: int, thinking: bool, max_tokens: int = 512, seed: int = 0
) -> dict[str, list[Sample]]:
    """What a model answers to held-out problems, prompt included, as token ids, by task.

    Raises:
        TaskError: a task is unknown.
        TrainingError: the model has no chat format.
    """
    chat_format = llm.engine.chat_format
    if chat_format is None:
        raise TrainingError("the model has no chat format, so it cannot be asked; name one when loading it")
    replies: dict[str, list[Sample]] = {}
    for task in tasks:
        problems = evaluation_set(task, problems_per_task, seed=seed)
        outputs = greedy_answers(llm, problems, thinking=thinking, max_tokens=max_tokens)
        rendered = [chat_format.render(p.conversation, tools=p.tools, thinking=thinking) for p in problems]
        prompts = [llm.engine.tokenizer.encode_prompt(prompt) for prompt in rendered]
        replies[task] = [
            Sample([*prompt, *output.token_ids], len(prompt)) for prompt, output in zip(prompts, outputs, strict=True)
        ]
    return replies


@torch.no_grad()
def draft_acceptance(decoder: Decoder, replies: Sequence[Sample], drafts: int) -> list[DraftAcceptance]:
    """Acceptance of each draft, over all tokens of the replies but the first, which the prompt alone gives.

    Args:
        decoder: with an MTP layer.
        replies: conversations that the same model wrote greedily from `prompt_length` on.
        drafts: how many tokens to draft ahead.

    Raises:
        TrainingError: the model has no MTP layer.
    """
    if not decoder.config.num_mtp_layers:
        raise TrainingError("the model has no multi-token-prediction layer, so it drafts nothing")
    accepted, total = [0] * drafts, [0] * drafts
    for reply in replies:
        right = _right_drafts(decoder, reply, drafts)
        counts = torch.ones(right.shape[1], dtype=torch.bool)
        for draft in range(drafts):
            # Draft d at a place was made d tokens before it, and counts if those between were right as well.
            total[draft] += int(counts.sum())
            accepted[draft] += int((counts & right[draft]).sum())
            counts = (counts & right[draft])[:-1]
            right = right[:, 1:]
    return [DraftAcceptance(draft + 1, accepted[draft], total[draft]) for draft in range(drafts)]


def _right_drafts(decoder: Decoder, reply: Sample, drafts: int) -> Tensor:
    """Whether draft d (row) of the reply's token (column, from the second on) is that token."""
    ids_S = torch.tensor(reply.token_ids)
    batch = RowBatch.single(ids_S[:-1])
    hidden_SD = decoder(batch)
    embeddings_SD = decoder.model.embed_tokens(ids_S[1:])
    length, inputs, rows = len(ids_S) - 1, [hidden_SD], []
    for draft in range(drafts):
        layer = decoder.model.mtp_layers[draft % decoder.config.num_mtp_layers]
        assert isinstance(layer, MtpLayer)
        context = _draft_context(decoder, length, draft + 1)
        out_SD = layer.predict(torch.cat(inputs), embeddings_SD.repeat(draft + 1, 1), context)[-length:]
        guesses = decoder.logits(out_SD[reply.prompt_length - 1 : -1]).argmax(dim=-1)
        rows.append(guesses == ids_S[reply.prompt_length + 1 :])
        inputs.append(torch.cat((hidden_SD[:1], out_SD[:-1])))
    return torch.stack(rows)


def _draft_context(decoder: Decoder, length: int, drafts: int) -> RowContext:
    """One row of `drafts` blocks of the same positions, block d with the inputs of draft d.

    Draft d at position i follows d - 1 drafted tokens: it sees block 1 up to position i - d + 1, then one token of
    each later block, as the cache holds them at that moment.
    """
    query = torch.arange(length).unsqueeze(1)
    key = torch.arange(length).unsqueeze(0)
    seen = torch.zeros(drafts * length, drafts * length, dtype=torch.bool)
    for d in range(drafts):
        rows = slice(d * length, (d + 1) * length)
        seen[rows, :length] = key <= query - d
        for e in range(1, d + 1):
            seen[rows, e * length : (e + 1) * length] = key == query - d + e
        seen[rows, rows] |= torch.eye(
            length, dtype=torch.bool
        )  # Of positions before the first draft, for a finite sum.
    cos, sin = decoder.rope.tables(torch.arange(length).repeat(drafts))
    mask = torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))
    return RowContext(cos_TR=cos, sin_TR=sin, num_rows=1, mask_B1SS=mask[None, None])
