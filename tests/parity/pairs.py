"""A model by transformers and the same folder loaded by us, and runs of both.

Legend: T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepground.model import Decoder, KVCache, NativeDecoder, PagedBatch, RowBatch, Span, load_model
from parity.cases import Case

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import transformers

transformers.utils.logging.disable_progress_bar()

SLOTS = 512


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The reference and ours, with the same weights."""

    reference: Any
    ours: Decoder
    folder: Path
    """Their weights, written by transformers."""


def make_pair(case: Case, folder: Path) -> Pair:
    """Build by transformers, randomise, save, and load by us."""
    torch.manual_seed(7)
    config = getattr(transformers, f"{case.hf}Config")(**case.fields)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    reference = getattr(transformers, f"{case.hf}ForCausalLM")(config).eval()
    _randomise(reference)
    reference.save_pretrained(folder)
    _edit_config(case, folder / "config.json")
    return Pair(reference=reference, ours=load_model(folder, dtype="float32").eval(), folder=folder)


@torch.no_grad()
def _randomise(model: Any) -> None:
    """Values that hide nothing: norms away from one, biases and correction biases away from zero."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("inv_freq"):
            continue
        if name.endswith("bias"):
            tensor.normal_(0.0, 0.3)
        elif tensor.dim() == 1:
            tensor.normal_(1.0, 0.3)
        else:
            tensor.normal_(0.0, 0.4 if "embed" in name else 1.2 * tensor.shape[-1] ** -0.5)


def _edit_config(case: Case, path: Path) -> None:
    raw = json.loads(path.read_text())
    if case.old_spelling:
        rope = raw.pop("rope_parameters")
        raw["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            raw["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        kind = rope.pop("rope_type")
        raw["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    raw.update(case.config_edits)
    path.write_text(json.dumps(raw))


@torch.inference_mode()
def reference_logits(pair: Pair, token_ids_T: Tensor) -> Tensor:
    """Logits (T, V) of a whole sequence by transformers."""
    logits: Tensor = pair.reference(token_ids_T.unsqueeze(0), use_cache=False).logits[0]
    return logits


@torch.inference_mode()
def row_logits(pair: Pair, token_ids_T: Tensor) -> Tensor:
    """Logits (T, V) of a whole sequence by us."""
    return pair.ours.logits(pair.ours(RowBatch.single(token_ids_T)))


class PagedRun:
    """Several sequences in one cache with shuffled slots, fed in any chunks."""

    def __init__(self, ours: Decoder | NativeDecoder, lengths: list[int]) -> None:
        self.ours = ours
        self.cache = KVCache(ours.config, SLOTS, dtype=torch.float32)
        generator = torch.Generator().manual_seed(3)
        self.slots = list(torch.randperm(SLOTS, generator=generator)[: sum(lengths)].split(lengths))
        self.fed = [0] * len(lengths)

    @torch.inference_mode()
    def feed(self, chunks: dict[int, Tensor]) -> dict[int, Tensor]:
        """Give sequences their next tokens in one pass; returns logits (chunk, V) of each."""
        spans, positions, start = [], [], 0
        for sequence, tokens in chunks.items():
            context, length = self.fed[sequence], tokens.shape[0]
            slots = self.slots[sequence][: context + length]
            spans.append(Span(start=start, length=length, context=context, slots=slots))
            positions.append(torch.arange(context, context + length))
            self.fed[sequence] += length
            start += length
        batch = PagedBatch(
            token_ids_T=torch.cat(list(chunks.values())),
            positions_T=torch.cat(positions),
            spans=tuple(spans),
            cache=self.cache,
        )
        logits_TV = self.ours.logits(self.ours(batch))
        return dict(zip(chunks, logits_TV.split([span.length for span in spans]), strict=True))
