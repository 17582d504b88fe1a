"""The engine: requests in, tokens out, one step at a time.

    receive  add() checks a request and queues it
    schedule the scheduler picks who computes what
    forward  the runner runs the model on it
    sample   the sampler picks the next tokens
    publish  the detokenizer makes text of them, and the finished ones leave

The engine belongs to one thread; `EngineService` gives it one of its own.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from deepground.engine.detokenizer import Detokenizer
from deepground.engine.kv_pages import PagePool, choose_num_pages
from deepground.engine.request import Request, StepOutput
from deepground.engine.runner import ForwardModel, Runner
from deepground.engine.sampler import SampledToken, Sampler
from deepground.engine.scheduler import Scheduler
from deepground.errors import (
    ContextLengthError,
    EngineError,
    ModelFolderError,
    RequestError,
)
from deepground.kernels.machine import read_machine
from deepground.messages import FinishReason, SamplingParams, TokenLogprob
from deepground.model import ChatFormat, KVCache, ModelConfig, Tokenizer, cache_widths, chat_format_for, load_model

PILOT_FOLDER = Path(__file__).resolve().parent.parent / "pilot"
"""The model that comes with the package."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How much the engine does at once, and with what.

    Raises:
        EngineError: a value is out of range; the error names the field.
    """

    max_sequences: int = 32
    """Most requests that run at the same time; the others wait."""
    max_batch_tokens: int = 1024
    """Most tokens of one step; larger is faster for long prompts, smaller makes running answers smoother."""
    prefill_chunk: int = 512
    """Most prompt tokens of one request in one step."""
    page_size: int = 16
    """Tokens per page of the cache, the unit in which requests are given room."""
    cache_bytes: int | None = None
    """Memory for keys and values. None: a quarter of what is free, at most 8 GiB, and never more than
    `max_sequences` requests of the model's full context can fill."""
    num_pages: int | None = None
    """The same as a number of pages, instead of `cache_bytes`."""
    cache_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the cache; auto takes the model's."""
    num_threads: int | None = None
    """Threads for the model's arithmetic, in the whole process. None: torch's own choice."""

    def __post_init__(self) -> None:
        for name in ("max_sequences", "max_batch_tokens", "prefill_chunk", "page_size", "cache_bytes", "num_pages"):
            self._check_positive(name)
        self._check_positive("num_threads")
        if self.max_batch_tokens < self.max_sequences:
            raise EngineError(
                f"max_batch_tokens is {self.max_batch_tokens}, less than max_sequences {self.max_sequences}; "
                "each running request needs room for one token in every step"
            )
        if self.cache_bytes is not None and self.num_pages is not None:
            raise EngineError("cache_bytes and num_pages both say how large the cache is; give one of them")
        if self.cache_dtype != "auto" and self.cache_dtype not in DTYPES:
            raise EngineError(f"cache_dtype is {self.cache_dtype!r}; choose auto, {' or '.join(DTYPES)}")

    def _check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and value < 1:
            raise EngineError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """Where the engine stands, and what it has done since it was built."""

    running: int
    waiting: int
    pages_used: int
    pages_total: int
    steps: int
    prompt_tokens: int
    """Tokens of all requests that were accepted."""
    computed_tokens: int
    """Tokens that passed through the model; more than prompts and answers after preemptions."""
    generated_tokens: int
    preemptions: int
    finished: int
    """Requests that ended by themselves."""
    aborted: int
    failed: int


class Engine:
    """Continuous batching over one model.

    Args:
        decoder: the model, on the device where it is to run.
        tokenizer: of the same checkpoint.
        chat_format: how the checkpoint writes conversations; None: it does not.
        config: sizes.

    Raises:
        OutOfMemoryError: the cache does not fit.
    """

    def __init__(
        self,
        decoder: ForwardModel,
        tokenizer: Tokenizer,
        chat_format: ChatFormat | None = None,
        config: EngineConfig | None = None,
    ) -> None:
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.chat_format = chat_format
        self.config = config or EngineConfig()
        if self.config.num_threads is not None:
            torch.set_num_threads(self.config.num_threads)
        dtype, device = _cache_placement(decoder, self.config)
        pool = PagePool(num_pages=_num_pages(decoder.config, self.config, dtype), page_size=self.config.page_size)
        cache = KVCache(decoder.config, pool.capacity, dtype=dtype, device=device)
        self.cache_bytes = sum(tensor.nbytes for tensor in cache.tensors.values())
        """Memory of the cache."""
        self._pool = pool
        self._scheduler = Scheduler(
            pool,
            max_batch_tokens=self.config.max_batch_tokens,
            max_sequences=self.config.max_sequences,
            prefill_chunk=self.config.prefill_chunk,
        )
        self._runner = Runner(decoder, cache, page_size=self.config.page_size)
        self._sampler = Sampler()
        self.end_ids = _end_ids(decoder.config, tokenizer, chat_format)
        """Tokens that end the model's turn; they are no part of the text."""
        self._live: dict[str, _Live] = {}
        self._arrivals = itertools.count()
        self._counts = _Counts()

    @classmethod
    def from_folder(
        cls,
        path: str | Path | None = None,
        config: EngineConfig | None = None,
        *,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        chat_format: str | None = None,
    ) -> Engine:
        """Load a Hugging Face folder.

        Args:
            path: the folder; None: the model that comes with the package.
            config: sizes.
            dtype: number format of the weights in memory; auto: what this machine computes fastest.
            chat_format: name of a chat format, where the folder's own is not right.

        Raises:
            ModelFolderError: the folder is not a model that can be loaded; several kinds, each naming the cure.
            OutOfMemoryError: model or cache do not fit.
        """
        folder = PILOT_FOLDER if path is None else Path(path)
        if path is None and not (folder / "config.json").is_file():
            raise ModelFolderError(
                "this build of deepground has no bundled model (no pilot/config.json in the package); "
                "name a model folder, or make the pilot with the recipe in recipes/"
            )
        decoder = load_model(folder, dtype=dtype)
        tokenizer = Tokenizer.from_folder(folder)
        tokenizer.check_vocab_size(decoder.config.vocab_size)
        return cls(decoder, tokenizer, chat_format_for(folder, decoder.config, chat_format), config)

    @property
    def has_work(self) -> bool:
        """Some request is not finished."""
        return self._scheduler.has_work

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together: the model's limit, or the cache's if that is smaller."""
        return min(self.decoder.config.max_positions, self._pool.capacity)

    @property
    def stats(self) -> EngineStats:
        """Counters; may be read from any thread."""
        return EngineStats(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            pages_used=self._pool.num_used,
            pages_total=self._pool.num_pages,
            preemptions=self._scheduler.num_preemptions,
            **vars(self._counts),
        )

    def validate(self, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Whether `add` would take this request; may be called from any thread.

        Raises:
            ContextLengthError: prompt plus `max_tokens` exceed `context_length`.
            RequestError: the prompt is empty, or a token id is outside the vocabulary.
        """
        vocab_size = self.decoder.config.vocab_size
        if not prompt_ids:
            raise RequestError("the prompt is empty; give at least one token", field="prompt")
        if min(prompt_ids) < 0 or max(prompt_ids) >= vocab_size:
            raise RequestError(f"the prompt holds token ids outside 0 to {vocab_size - 1}", field="prompt")
        if any(not 0 <= id_ < vocab_size for id_ in params.stop_token_ids):
            raise RequestError(f"stop_token_ids holds ids outside 0 to {vocab_size - 1}", field="stop_token_ids")
        limit, wanted = self.context_length, params.max_tokens or 1
        if len(prompt_ids) + wanted > limit:
            cause = "the model's context" if limit == self.decoder.config.max_positions else "the cache's room"
            raise ContextLengthError(
                f"{len(prompt_ids)} prompt tokens plus {wanted} to generate exceed {cause} of {limit} tokens; "
                "shorten the prompt or lower max_tokens",
                field="max_tokens" if len(prompt_ids) < limit else "prompt",
            )

    def add(self, prompt_ids: Sequence[int], params: SamplingParams, request_id: str | None = None) -> str:
        """Queue a request; the next steps work on it.

        Args:
            prompt_ids: the prompt.
            params: how to continue it.
            request_id: a name of the caller's choice, unused so far; None: one is made.

        Returns:
            The request's id.

        Raises:
            RequestError: as `validate`, or the id is in use.
        """
        self.validate(prompt_ids, params)
        if request_id is None:
            request_id = f"request-{secrets.token_hex(8)}"
        if request_id in self._live:
            raise RequestError(f"a request {request_id!r} is under way already", field="request_id")
        room = self.context_length - len(prompt_ids)
        request = Request(
            id=request_id,
            prompt_length=len(prompt_ids),
            token_ids=list(prompt_ids),
            params=params,
            max_tokens=room if params.max_tokens is None else params.max_tokens,
            seed=secrets.randbits(63) if params.seed is None else params.seed,
            arrival=next(self._arrivals),
        )
        self._live[request_id] = _Live(request, Detokenizer(self.tokenizer, params.stop))
        self._scheduler.add(request)
        self._counts.prompt_tokens += len(prompt_ids)
        return request_id

    def step(self) -> list[StepOutput]:
        """Run the model once and return what it added, one output per request that got a token.

        An empty list means that prompts are still being computed, or that there is nothing to do.
        """
        batch = self._scheduler.next_batch()
        if batch is None:
            return []
        logits_NV = self._runner.forward(batch)
        sampled = self._sampler.sample(logits_NV, batch.sampling)
        self._scheduler.advance(batch)
        self._counts.steps += 1
        self._counts.computed_tokens += batch.num_tokens
        return [self._publish(request, token) for request, token in zip(batch.sampling, sampled, strict=True)]

    def abort(self, request_id: str) -> bool:
        """End a request and free all that it holds at once; False if it is not under way."""
        live = self._live.get(request_id)
        if live is None:
            return False
        self._leave(live.request, "abort")
        self._counts.aborted += 1
        return True

    def check_integrity(self) -> None:
        """The books of pages, queue and requests agree.

        Raises:
            IntegrityError: they do not.
        """
        self._scheduler.check_integrity({live.request.id for live in self._live.values()})

    def _publish(self, request: Request, sampled: SampledToken | None) -> StepOutput:
        if sampled is None:
            return self._fail(request)
        live, params, token_id = self._live[request.id], request.params, sampled.token_id
        request.append(token_id)
        self._counts.generated_tokens += 1
        is_end = token_id in self.end_ids
        stopped = (is_end and not params.ignore_eos) or token_id in params.stop_token_ids
        text = "" if stopped or is_end else live.detokenizer.feed(token_id)
        reason: FinishReason | None = None
        if stopped or live.detokenizer.stopped:
            reason = "stop"
        elif request.num_generated >= request.max_tokens:
            reason = "length"
        if reason is not None:
            text += live.detokenizer.finish()
            # The text that was held back may turn out to hold a stop string in the very last token.
            reason = "stop" if live.detokenizer.stopped else reason
            self._leave(request, reason)
            self._counts.finished += 1
        return StepOutput(
            request_id=request.id,
            token_ids=(token_id,),
            text=text,
            logprobs=None if sampled.logprob is None else (self._describe(token_id, sampled.logprob, sampled.top),),
            finish_reason=reason,
            prompt_tokens=request.prompt_length,
            completion_tokens=request.num_generated,
            timing=None if reason is None else request.timing(),
        )

    def _fail(self, request: Request) -> StepOutput:
        text = self._live[request.id].detokenizer.finish()
        self._leave(request, "error")
        self._counts.failed += 1
        error = EngineError(
            f"request {request.id}: the model's numbers overflowed after {request.num_tokens} tokens "
            "(its logits hold NaN or infinity); load the model in float32, or check its weights"
        )
        return StepOutput(
            request_id=request.id,
            text=text,
            finish_reason="error",
            prompt_tokens=request.prompt_length,
            completion_tokens=request.num_generated,
            error=error,
            timing=request.timing(),
        )

    def _leave(self, request: Request, reason: FinishReason) -> None:
        request.finish_reason = reason
        self._scheduler.finish(request)
        self._runner.forget(request.id)
        self._sampler.forget(request.id)
        del self._live[request.id]

    def _describe(self, token_id: int, logprob: float, top: Sequence[tuple[int, float]] = ()) -> TokenLogprob:
        token = self.tokenizer.token_bytes(token_id)
        return TokenLogprob(
            token_id=token_id,
            token=token.decode("utf-8", errors="replace"),
            bytes=token,
            logprob=logprob,
            top=tuple(self._describe(rival, value) for rival, value in top),
        )


@dataclass(eq=False)
class _Live:
    """A request that is under way, with its text."""

    request: Request
    detokenizer: Detokenizer


@dataclass
class _Counts:
    steps: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    aborted: int = 0
    failed: int = 0


def _end_ids(config: ModelConfig, tokenizer: Tokenizer, chat_format: ChatFormat | None) -> frozenset[int]:
    """Everything that ends the model's turn, whoever says so: config, tokenizer or chat format."""
    markers = (tokenizer.special_id(text) for text in (chat_format.stop_markers if chat_format else ()))
    return frozenset({*config.eos_token_ids, *tokenizer.eos_ids, *(id_ for id_ in markers if id_ is not None)})


def _cache_placement(decoder: ForwardModel, config: EngineConfig) -> tuple[torch.dtype, torch.device]:
    parameter = next(decoder.parameters())
    dtype = parameter.dtype if config.cache_dtype == "auto" else DTYPES[config.cache_dtype]
    return dtype, parameter.device


def _num_pages(model: ModelConfig, config: EngineConfig, dtype: torch.dtype) -> int:
    token_bytes = sum(cache_widths(model).values()) * model.num_layers * dtype.itemsize
    return choose_num_pages(
        page_bytes=token_bytes * config.page_size,
        available_bytes=read_machine().memory_available,
        useful_pages=config.max_sequences * -(-model.max_positions // config.page_size),
        cache_bytes=config.cache_bytes,
        num_pages=config.num_pages,
    )
