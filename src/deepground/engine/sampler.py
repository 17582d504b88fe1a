"""The next tokens of every request: bias, penalties, constraint, temperature, filters, one draw, and drafts verified.

Legend: N rows of the step (a request's next token, and one for each of its drafts), M of them one request's,
V vocabulary, K candidates of a row, most likely first.

The order is the field's usual one: bias, penalties, the constraint's mask, then (greedy stops here) temperature, top-k,
top-p, min-p, each on what the former left over. The draw is the inverse of the cumulative distribution at a number that
depends on the request's seed and on the number of the token in its answer, and on nothing else: neither the other
rows, nor chunking, nor preemption can change it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from deepground.engine.bitmask import Bitmask, apply_masks
from deepground.engine.constraint import Constraint
from deepground.engine.request import Request
from deepground.errors import DeepgroundError
from deepground.kernels import DrawOrder, draw_tokens
from deepground.messages import FinishReason

NUCLEUS_CANDIDATES = (64, 1024)
"""Top-p looks at this many most likely tokens, then at more, and sorts the whole vocabulary only if they fall
short of p. Where a row ends up depends on its own logits alone."""


FORBIDDEN = -100.0
"""A bias this low bars a token, however likely it is."""


class SampledToken(NamedTuple):
    """One new token."""

    token_id: int
    logprob: float | None = None
    """Natural logarithm, after penalties and constraint, before temperature; None unless asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens with their log-probabilities, best first, as many as asked for and possible."""


class Sampled(NamedTuple):
    """What one request got in a step: its drafts as far as they are right, and one token more."""

    tokens: list[SampledToken]
    failure: Literal["overflow", "dead end"] | DeepgroundError | None = None
    """Why no token could be drawn after `tokens`: the logits held no finite maximum (the model's numbers overflowed),
    the constraint allowed none, or it gave up with an error of its own."""
    verdict: FinishReason | None = None
    """The constraint ended the reply with the last of `tokens`."""


class _Row(NamedTuple):
    """One position to draw for: after the first `offset` drafts of a request."""

    request: Request
    offset: int


class Sampler:
    """Chooses tokens and verifies drafts; remembers token counts of requests with penalties, and constraints.

    A draft is right if it is the token that would have been drawn in its place. As draws depend on nothing but the
    request's seed, the token's number and the distribution, a request gets the same tokens with and without drafts.

    Args:
        native: draw with the native kernels, which have been started, where logits are on the CPU.
    """

    def __init__(self, *, native: bool = False) -> None:
        self._native = native
        self._histories: dict[str, _History] = {}
        self._constraints: dict[str, Constraint] = {}
        self._biases: dict[str, tuple[Tensor, Tensor]] = {}
        """Token ids and what is added to their logits, of requests that have been seen."""
        self._broken: dict[str, DeepgroundError] = {}
        """Requests whose constraint has given up."""

    def constrain(self, request_id: str, constraint: Constraint) -> None:
        """From now on this request's tokens are those that `constraint` allows."""
        self._constraints[request_id] = constraint

    def sample(self, logits_NV: Tensor, requests: Sequence[Request]) -> list[Sampled]:
        """New tokens of each request.

        Args:
            logits_NV: float32; for each request one row, and one for each of its `draft_ids`: the row at which a draft
                is verified comes before the row that follows it. Rows of requests with penalties or constraints are
                overwritten.
            requests: whose rows these are.

        Returns:
            In the order of the requests.
        """
        rows = [_Row(request, offset) for request in requests for offset in range(len(request.draft_ids) + 1)]
        masks: dict[int, Bitmask] = {}
        for row, (request, offset) in enumerate(rows):
            if not offset:
                self._adjust(logits_NV[row : row + len(request.draft_ids) + 1], request, row, masks)
        apply_masks(logits_NV, list(masks), list(masks.values()))
        # One pass gives the greedy choice and the check: NaN wins every maximum.
        best = logits_NV.max(dim=-1)
        token_ids: list[int] = best.indices.tolist()
        usable = [math.isfinite(value) for value in best.values.tolist()]
        drawing = [n for n, row in enumerate(rows) if row.request.params.temperature > 0 and usable[n]]
        if drawing and self._native and logits_NV.device.type == "cpu":
            drawn = draw_tokens(logits_NV, [_order(n, rows[n]) for n in drawing])
            for n, token_id in zip(drawing, drawn, strict=True):
                token_ids[n] = token_id
        elif drawing:
            for group in _group(drawing, rows, vocab_size=logits_NV.shape[1]):
                _draw_group(logits_NV, best.values, group, token_ids)
        sampled, start = [], 0
        for request in requests:
            sampled.append(self._accept(logits_NV, start, request, token_ids, usable))
            start += len(request.draft_ids) + 1
        return sampled

    def forget(self, request_id: str) -> None:
        """Drop what is remembered of a request."""
        self._histories.pop(request_id, None)
        self._constraints.pop(request_id, None)
        self._biases.pop(request_id, None)
        self._broken.pop(request_id, None)

    def _accept(
        self, logits_NV: Tensor, start: int, request: Request, token_ids: Sequence[int], usable: Sequence[bool]
    ) -> Sampled:
        """The tokens drawn for a request up to the first that differs from its draft."""
        tokens: list[SampledToken] = []
        constraint = self._constraints.get(request.id)
        if request.id in self._broken:
            return Sampled(tokens, self._broken[request.id])
        num_drafts, num_top = len(request.draft_ids), request.params.logprobs
        for offset in range(num_drafts + 1):
            row = start + offset
            if not usable[row]:
                dead_end = constraint is not None and bool((logits_NV[row] == -math.inf).all())
                return Sampled(tokens, "dead end" if dead_end else "overflow")
            token_id = token_ids[row]
            if constraint is not None:
                constraint.advance(token_id)
            tokens.append(
                SampledToken(token_id) if num_top is None else _with_logprobs(logits_NV[row], token_id, num_top)
            )
            if constraint is not None and constraint.verdict is not None:
                return Sampled(tokens, verdict=constraint.verdict)
            if offset < num_drafts and token_id != request.draft_ids[offset]:
                break
        return Sampled(tokens)

    def _adjust(self, logits_MV: Tensor, request: Request, first_row: int, masks: dict[int, Bitmask]) -> None:
        """Apply bias and penalties to the rows of one request, each as if the drafts before it were right.

        Args:
            logits_MV: its rows.
            request: whose they are.
            first_row: number of the first of them.
            masks: takes in what the constraint allows in each row.
        """
        if request.params.logit_bias:
            self._bias(logits_MV, request)
        if _has_penalties(request):
            self._penalize(logits_MV, request)
        constraint = self._constraints.get(request.id)
        if constraint is None:
            return
        advanced = 0
        try:
            for row, draft in itertools.zip_longest(range(first_row, first_row + len(logits_MV)), request.draft_ids):
                mask_W = constraint.mask()
                if mask_W is not None:
                    masks[row] = mask_W.copy() if request.draft_ids else mask_W
                # After a draft that is not allowed nothing is looked at: it cannot be drawn.
                if draft is None or not constraint.advance(draft):
                    break
                advanced += 1
        except DeepgroundError as error:
            self._broken[request.id] = error
        constraint.rollback(advanced)

    def _bias(self, logits_MV: Tensor, request: Request) -> None:
        bias = self._biases.get(request.id)
        if bias is None:
            table = request.params.logit_bias
            added = [-math.inf if value <= FORBIDDEN else value for value in table.values()]
            device = logits_MV.device
            bias = self._biases[request.id] = (
                torch.tensor(list(table), device=device),
                torch.tensor(added, device=device),
            )
        token_ids, values = bias
        logits_MV[:, token_ids] += values

    def _penalize(self, logits_MV: Tensor, request: Request) -> None:
        history = self._histories.get(request.id)
        if history is None:
            history = self._histories[request.id] = _History(logits_MV[0])
        history.catch_up(request)
        params = request.params
        with history.looking_ahead() as ahead:
            for row_V, draft in itertools.zip_longest(logits_MV, request.draft_ids):
                apply_penalties(
                    row_V,
                    generated_counts_V=history.generated_counts_V,
                    seen_V=history.seen_V,
                    frequency=params.frequency_penalty,
                    presence=params.presence_penalty,
                    repetition=params.repetition_penalty,
                )
                if draft is not None:
                    ahead(draft)


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

    @contextmanager
    def looking_ahead(self) -> Iterator[Callable[[int], None]]:
        """Count drafts in with the function that this gives; afterwards they are counted out again."""
        drafts: list[tuple[int, bool]] = []

        def ahead(token_id: int) -> None:
            drafts.append((token_id, bool(self.seen_V[token_id])))
            self.generated_counts_V[token_id] += 1.0
            self.seen_V[token_id] = True

        yield ahead
        for token_id, seen_before in reversed(drafts):
            self.generated_counts_V[token_id] -= 1.0
            self.seen_V[token_id] = seen_before


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
    owners: list[_Row]


def _group(drawing: Sequence[int], rows: Sequence[_Row], *, vocab_size: int) -> list[_Group]:
    groups: dict[_Method, _Group] = {}
    for row in drawing:
        params = rows[row].request.params
        if 0 < params.top_k < vocab_size:
            method = _Method(params.top_k, by_top_k=True)
        else:
            method = _Method(_more_candidates(0, vocab_size) if params.top_p < 1 else 0, by_top_k=False)
        group = groups.setdefault(method, _Group(method, [], []))
        group.rows.append(row)
        group.owners.append(rows[row])
    return list(groups.values())


def _order(row: int, owner: _Row) -> DrawOrder:
    params = owner.request.params
    number = uniform(owner.request.seed, owner.request.num_generated + owner.offset)
    return DrawOrder(row, params.temperature, params.top_k, params.top_p, params.min_p, number)


def _draw_group(logits_NV: Tensor, best_N: Tensor, group: _Group, token_ids: list[int]) -> None:
    """Draw one token for each row of the group, into `token_ids`; `best_N` is every row's maximum."""
    method, params = group.method, [owner.request.params for owner in group.owners]
    device, vocab_size = logits_NV.device, logits_NV.shape[1]

    def column(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device).unsqueeze(1)

    if len(group.rows) == logits_NV.shape[0]:
        rows_NV, best_N1 = logits_NV, best_N.unsqueeze(1)
    else:
        rows_NV, best_N1 = logits_NV[group.rows], best_N[group.rows].unsqueeze(1)
    # The maximum comes off first and the temperature has a floor: no quotient can overflow or be 0/0.
    scaled_NV = (rows_NV - best_N1).div_(column([max(p.temperature, 1e-6) for p in params]))
    if method.num_candidates:
        scaled_NK, ids_NK = scaled_NV.topk(method.num_candidates, dim=-1)
        total_NV = scaled_NK if method.by_top_k else scaled_NV
        probs_NK = (scaled_NK - total_NV.logsumexp(-1, keepdim=True)).exp()
        # Above 1 nothing is dropped, not even where rounding lets the sum reach 1 early.
        top_p_N1 = column([p.top_p if p.top_p < 1 else 2.0 for p in params])
        if not method.by_top_k and method.num_candidates < vocab_size:
            reached = (probs_NK.sum(-1, keepdim=True) >= top_p_N1).squeeze(1).tolist()
            if not all(reached):
                _draw_split(logits_NV, best_N, group, reached, token_ids)
                return
        probs_NK = keep_top_p(probs_NK, top_p_N1)
    else:
        probs_NK, ids_NK = scaled_NV.softmax(-1), None
    if any(p.min_p > 0 for p in params):
        probs_NK = keep_min_p(probs_NK, column([p.min_p for p in params]))
    numbers_N1 = column([uniform(r.seed, r.num_generated + offset) for r, offset in group.owners], torch.float64)
    index_N1 = draw(probs_NK, numbers_N1).unsqueeze(1)
    chosen_N1 = index_N1 if ids_NK is None else ids_NK.gather(1, index_N1)
    for row, token_id in zip(group.rows, chosen_N1.squeeze(1).tolist(), strict=True):
        token_ids[row] = token_id


def _draw_split(
    logits_NV: Tensor, best_N: Tensor, group: _Group, reached: Sequence[bool], token_ids: list[int]
) -> None:
    """Draw rows whose candidates fall short of p from more candidates, the others as before."""
    more = _Method(_more_candidates(group.method.num_candidates, logits_NV.shape[1]), by_top_k=False)
    for method, wanted in ((group.method, True), (more, False)):
        members = [i for i, enough in enumerate(reached) if enough is wanted]
        if members:
            part = _Group(method, [group.rows[i] for i in members], [group.owners[i] for i in members])
            _draw_group(logits_NV, best_N, part, token_ids)


def _more_candidates(current: int, vocab_size: int) -> int:
    return next((n for n in NUCLEUS_CANDIDATES if current < n < vocab_size), vocab_size)


def _with_logprobs(logits_V: Tensor, token_id: int, num_top: int) -> SampledToken:
    logprobs_V = logits_V.log_softmax(-1)
    values, ids = logprobs_V.topk(min(num_top, logprobs_V.shape[0]))
    top = tuple((id_, value) for id_, value in zip(ids.tolist(), values.tolist(), strict=True) if value > -math.inf)
    return SampledToken(token_id, float(logprobs_V[token_id]), top)
