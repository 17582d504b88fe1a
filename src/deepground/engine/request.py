"""A request on its way through the engine, its share of a step, and what comes of it.

Plain data: no tensors, no decisions.
The engine fills a `Request`, the scheduler moves it between waiting and running, the sampler reads it. A
preempted request keeps every token that it has generated; only the cached keys and values are lost.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from deepground.errors import DeepgroundError
from deepground.messages import FinishReason, SamplingParams, TokenLogprob


class RequestStatus(enum.Enum):
    """Where a request stands."""

    WAITING = "waiting"
    """Holds no pages: new, or preempted."""
    RUNNING = "running"
    """Holds pages for all of its tokens so far."""
    FINISHED = "finished"
    """Holds nothing any more."""


@dataclass(frozen=True, kw_only=True)
class RequestTiming:
    """How long a finished request took, in seconds since it arrived."""

    scheduled_s: float
    """Until its first token was computed with."""
    first_token_s: float
    """Until its first new token."""
    total_s: float


@dataclass(eq=False, kw_only=True)
class Request:
    """A prompt, how to continue it, and how far it has come."""

    id: str
    prompt_length: int
    """The first tokens of `token_ids` are the prompt; the others were generated."""
    token_ids: list[int]
    """Prompt and generated tokens, in order."""
    params: SamplingParams
    max_tokens: int
    """Most tokens to generate: `params.max_tokens`, or what the context leaves room for."""
    seed: int
    """`params.seed`, or one drawn when the request arrived."""
    arrival: int
    """Running number; the lower one is served first."""
    cache_salt: str | None = None
    """Whose cached prefixes it may use: only those of requests with the same one."""
    status: RequestStatus = RequestStatus.WAITING
    num_computed: int = 0
    """Leading tokens whose keys and values are in the cache. Back to 0 when preempted."""
    prefix_keys: list[bytes] = field(default_factory=list)
    """What the prefix cache calls the beginnings of `token_ids`, as far as it has been asked; filled by it."""
    num_cached: int = 0
    """Leading prompt tokens that the prefix cache had when the request was first scheduled."""
    num_preemptions: int = 0
    draft_ids: list[int] = field(default_factory=list)
    """Guesses at the next tokens, to be verified by the next step; filled by the speculator, cut by the scheduler,
    empty again after the step."""
    finish_reason: FinishReason | None = None
    arrived_at: float = field(default_factory=time.monotonic)
    scheduled_at: float | None = None
    first_token_at: float | None = None

    @property
    def num_tokens(self) -> int:
        """Prompt plus generated tokens."""
        return len(self.token_ids)

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.prompt_length

    @property
    def num_uncomputed(self) -> int:
        """Tokens that still have to pass through the model; 1 while decoding."""
        return len(self.token_ids) - self.num_computed

    def append(self, token_id: int) -> None:
        """Take in one generated token."""
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()
        self.token_ids.append(token_id)

    def timing(self) -> RequestTiming:
        """Durations until now; moments that never came count as now."""
        now = time.monotonic()
        return RequestTiming(
            scheduled_s=(self.scheduled_at or now) - self.arrived_at,
            first_token_s=(self.first_token_at or now) - self.arrived_at,
            total_s=now - self.arrived_at,
        )


@dataclass(frozen=True, kw_only=True)
class ScheduledChunk:
    """One request's share of a step: its tokens start .. start + length."""

    request: Request
    start: int
    """Tokens before it are in the cache already."""
    length: int
    """Drafts included."""
    num_drafts: int = 0
    """Its last tokens that are `request.draft_ids` and not (yet) the request's own."""
    pages: Sequence[int]
    """The request's page table; covers start + length tokens."""
    samples: bool
    """The chunk ends with the request's last token, drafts aside, so the next token is to be sampled."""


@dataclass(frozen=True, kw_only=True)
class ScheduledBatch:
    """What the next forward pass computes; filled by the scheduler, read by the runner."""

    chunks: tuple[ScheduledChunk, ...]
    preempted: tuple[Request, ...] = ()
    """Requests that lost their pages for this step."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the pass."""
        return sum(chunk.length for chunk in self.chunks)

    @property
    def sampling(self) -> list[Request]:
        """Requests that get a new token, in the order of the chunks."""
        return [chunk.request for chunk in self.chunks if chunk.samples]


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What one step added to one request."""

    request_id: str
    token_ids: tuple[int, ...] = ()
    """New tokens, end tokens included."""
    pieces: tuple[str, ...] = ()
    """New text, one piece for each token; a last output without tokens may have a piece too. Text may lag behind the
    tokens, and it holds neither end tokens nor stop strings."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Of `token_ids`; None unless asked for."""
    finish_reason: FinishReason | None = None
    """Set on the request's last output."""
    stop_string: str | None = None
    """The stop string that ended the text, if one did."""
    prompt_tokens: int
    cached_tokens: int = 0
    """Prompt tokens that the prefix cache had."""
    completion_tokens: int
    """Tokens generated so far."""
    error: DeepgroundError | None = None
    """Why the request failed; set when `finish_reason` is "error"."""
    timing: RequestTiming | None = None
    """Set on the request's last output."""

    @property
    def text(self) -> str:
        """All of the new text."""
        return "".join(self.pieces)
