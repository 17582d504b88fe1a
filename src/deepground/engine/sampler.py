"""The next token of every row: penalties, temperature, filters, one draw.

Legend: N rows (requests) of the step, V vocabulary, K candidates of a row, most likely first.

The order is the field's usual one: penalties, then (greedy stops here) temperature, top-k, top-p, min-p,
each on what the former left over. The draw is the inverse of the cumulative distribution at a number that depends
on the request's seed and on how many tokens it has generated, and on nothing else: neither the other
rows, nor chunking, nor preemption can change it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor

from deepground.engine.request import Request

NUCLEUS_CANDIDATES = (64, 1024)
"""Top-p looks at this many most likely tokens, then at more, and sorts the whole vocabulary only if they fall
short of p. Where a row ends up depends on its own logits alone."""


@dataclass(frozen=True)
class SampledToken:
    """What one row got."""

    token_id: int
    logprob: float | None = None
    """Natural logarithm, after penalties and before temperature; None unless asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens with their log-probabilities, best first, as many as asked for."""


class Sampler:
    """Chooses tokens; remembers token counts of the requests that have penalties."""

    def __init__(self) -> None:
        self._histories: dict[str, _History] = {}

    @torch.inference_mode()
    def sample(self, logits_NV: Tensor, requests: Sequence[Request]) -> list[SampledToken | None]:
        """One token per row.

        Args:
            logits_NV: float32, one row per request. Rows of requests with penalties are overwritten.
            requests: whose rows these are.

        Returns:
            In the order of the rows; None where the logits hold no finite maximum (the model's numbers overflowed).
        """
        for row, request in enumerate(requests):
            if _has_penalties(request):
                self._penalize(logits_NV[row], request)
        # One pass gives the greedy choice and the check: NaN wins every maximum.
        best = logits_NV.max(dim=-1)
        token_ids: list[int] = best.indices.tolist()
        usable = [math.isfinite(value) for value in best.values.tolist()]
        drawing = [row for row, r in enumerate(requests) if usable[row] and r.params.temperature > 0]
        if drawing:
            for group in _group(drawing, requests, vocab_size=logits_NV.shape[1]):
                _draw_group(logits_NV, group, token_ids)
        sampled: list[SampledToken | None] = [
            SampledToken(token_id) if ok else None for token_id, ok in zip(token_ids, usable, strict=True)
        ]
        for row, request in enumerate(requests):
            if usable[row] and request.params.logprobs is not None:
                sampled[row] = _with_logprobs(logits_NV[row], token_ids[row], request.params.logprobs)
        return sampled

    def forget(self, request_id: str) -> None:
        """Drop what is remembered of a request."""
        self._histories.pop(request_id, None)

    def _penalize(self, logits_V: Tensor, request: Request) -> None:
        history = self._histories.get(request.id)
        if history is None:
            history = self._histories[request.id] = _History(logits_V)
        history.catch_up(request)
        params = request.params
        apply_penalties(
            logits_V,
            generated_counts_V=history.generated_counts_V,
            seen_V=history.seen_V,
            frequency=params.frequency_penalty,
            presence=params.presence_penalty,
            repetition=params.repetition_penalty,
        )


class _History:
    """Which tokens a request has seen and generated, kept up to date one token at a time."""

    def __init__(self, like_V: Tensor) -> None:
        self.generated_counts_V = torch.zeros_like(like_V)
        self.seen_V = torch.zeros_like(like_V, dtype=torch.bool)
        self._length = 0

    def catch_up(self, request: Request) -> None:
        start = max(self._length, request.prompt_length)
        fresh = torch.tensor(request.token_ids[self._length :], device=self.seen_V.device)
        generated = torch.tensor(request.token_ids[start:], dtype=torch.int64, device=self.seen_V.device)
        if len(fresh):
            self.seen_V[fresh] = True
        if len(generated):
            self.generated_counts_V.index_add_(0, generated, torch.ones_like(generated, dtype=torch.float32))
        self._length = request.num_tokens


def apply_penalties(
    logits_V: Tensor,
    *,
    generated_counts_V: Tensor,
    seen_V: Tensor,
    frequency: float,
    presence: float,
    repetition: float,
) -> None:
    """Apply the three penalties of `SamplingParams` in place.

    Repetition (CTRL, arXiv 1909.05858, section 4.1) looks at prompt and generated tokens; frequency and
    presence (OpenAI's API reference) at generated ones.
    """
    if repetition != 1.0:
        scaled_V = torch.where(logits_V > 0, logits_V / repetition, logits_V * repetition)
        logits_V.copy_(torch.where(seen_V, scaled_V, logits_V))
    if frequency != 0.0:
        logits_V.sub_(generated_counts_V, alpha=frequency)
    if presence != 0.0:
        logits_V.sub_(generated_counts_V.clamp(max=1.0), alpha=presence)


def keep_top_p(probs_NK: Tensor, top_p_N1: Tensor) -> Tensor:
    """Zero all but the smallest leading set that reaches p; the first candidate always stays.

    Args:
        probs_NK: descending in each row; a row need not sum to 1, p refers to 1.
        top_p_N1: p of each row.
    """
    dropped_NK = torch.zeros_like(probs_NK, dtype=torch.bool)
    dropped_NK[:, 1:] = probs_NK.cumsum(-1)[:, :-1] >= top_p_N1
    return probs_NK.masked_fill(dropped_NK, 0.0)


def keep_min_p(probs_NK: Tensor, min_p_N1: Tensor) -> Tensor:
    """Zero the tokens less likely than min_p times the most likely one."""
    return probs_NK.masked_fill(probs_NK < min_p_N1 * probs_NK.amax(-1, keepdim=True), 0.0)


def draw(probs_NK: Tensor, uniform_N1: Tensor) -> Tensor:
    """Index (N,) of the candidate at which the cumulative weight passes uniform * total.

    Args:
        probs_NK: weights, not all zero in any row.
        uniform_N1: float64 in [0, 1).
    """
    cumulative_NK = probs_NK.cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(cumulative_NK, uniform_N1 * cumulative_NK[:, -1:], right=True).squeeze(-1)


def uniform(seed: int, index: int) -> float:
    """The random number in [0, 1) of a request's token number `index`.

    A hash instead of a generator: it holds no state that an abort or a preemption could disturb. 48 bits,
    so that the product with a float64 total stays below that total.
    """
    digest = blake2b(index.to_bytes(8, "little"), digest_size=6, key=seed.to_bytes(8, "little", signed=True)).digest()
    return int.from_bytes(digest, "little") / 2**48


def _has_penalties(request: Request) -> bool:
    params = request.params
    return params.frequency_penalty != 0.0 or params.presence_penalty != 0.0 or params.repetition_penalty != 1.0


class _Method(NamedTuple):
    """How a row is drawn; depends on the row's own parameters only."""

    num_candidates: int
    """Most likely tokens to look at; 0: the whole vocabulary, in its own order."""
    by_top_k: bool
    """The candidates are all there is; otherwise they are a view on the whole distribution."""


@dataclass(frozen=True)
class _Group:
    """Rows that are drawn together."""

    method: _Method
    rows: list[int]
    requests: list[Request]


def _group(rows: Sequence[int], requests: Sequence[Request], *, vocab_size: int) -> list[_Group]:
    groups: dict[_Method, _Group] = {}
    for row in rows:
        params = requests[row].params
        if 0 < params.top_k < vocab_size:
            method = _Method(params.top_k, by_top_k=True)
        else:
            method = _Method(_more_candidates(0, vocab_size) if params.top_p < 1 else 0, by_top_k=False)
        group = groups.setdefault(method, _Group(method, [], []))
        group.rows.append(row)
        group.requests.append(requests[row])
    return list(groups.values())


def _draw_group(logits_NV: Tensor, group: _Group, token_ids: list[int]) -> None:
    """Draw one token for each row of the group, into `token_ids`."""
    method, params = group.method, [request.params for request in group.requests]
    device, vocab_size = logits_NV.device, logits_NV.shape[1]

    def column(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device).unsqueeze(1)

    rows_NV = logits_NV if len(group.rows) == logits_NV.shape[0] else logits_NV[group.rows]
    # The maximum comes off first and the temperature has a floor: no quotient can overflow or be 0/0.
    shifted_NV = rows_NV - rows_NV.amax(-1, keepdim=True)
    scaled_NV = shifted_NV / column([max(p.temperature, 1e-6) for p in params])
    if method.num_candidates:
        scaled_NK, ids_NK = scaled_NV.topk(method.num_candidates, dim=-1)
        total_NV = scaled_NK if method.by_top_k else scaled_NV
        probs_NK = (scaled_NK - total_NV.logsumexp(-1, keepdim=True)).exp()
        # Above 1 nothing is dropped, not even where rounding lets the sum reach 1 early.
        top_p_N1 = column([p.top_p if p.top_p < 1 else 2.0 for p in params])
        if not method.by_top_k and method.num_candidates < vocab_size:
            reached = (probs_NK.sum(-1, keepdim=True) >= top_p_N1).squeeze(1).tolist()
            if not all(reached):
                _draw_split(logits_NV, group, reached, token_ids)
                return
        probs_NK = keep_top_p(probs_NK, top_p_N1)
    else:
        probs_NK, ids_NK = scaled_NV.softmax(-1), None
    if any(p.min_p > 0 for p in params):
        probs_NK = keep_min_p(probs_NK, column([p.min_p for p in params]))
    numbers_N1 = column([uniform(r.seed, r.num_generated) for r in group.requests], torch.float64)
    index_N1 = draw(probs_NK, numbers_N1).unsqueeze(1)
    chosen_N1 = index_N1 if ids_NK is None else ids_NK.gather(1, index_N1)
    for row, token_id in zip(group.rows, chosen_N1.squeeze(1).tolist(), strict=True):
        token_ids[row] = token_id


def _draw_split(logits_NV: Tensor, group: _Group, reached: Sequence[bool], token_ids: list[int]) -> None:
    """Draw rows whose candidates fall short of p from more candidates, the others as before."""
    more = _Method(_more_candidates(group.method.num_candidates, logits_NV.shape[1]), by_top_k=False)
    for method, wanted in ((group.method, True), (more, False)):
        members = [i for i, enough in enumerate(reached) if enough is wanted]
        if members:
            part = _Group(method, [group.rows[i] for i in members], [group.requests[i] for i in members])
            _draw_group(logits_NV, part, token_ids)


def _more_candidates(current: int, vocab_size: int) -> int:
    return next((n for n in NUCLEUS_CANDIDATES if current < n < vocab_size), vocab_size)


def _with_logprobs(logits_V: Tensor, token_id: int, num_top: int) -> SampledToken:
    logprobs_V = logits_V.log_softmax(-1)
    values, ids = logprobs_V.topk(min(num_top, logprobs_V.shape[0]))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return SampledToken(token_id, float(logprobs_V[token_id]), top)
