"""The engine: requests in, tokens out, one step at a time.

    receive  add() checks a request and queues it
    propose  the speculator guesses at next tokens, where that has paid
    schedule the scheduler picks who computes what
    forward  the runner runs the model on it
    sample   the sampler picks the next tokens, and keeps the guesses that are right
    publish  the publisher makes text of them, and the finished ones leave

The engine belongs to one thread; `EngineService` gives it one of its own.
"""

from __future__ import annotations

import itertools
import secrets
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deepground.engine.config import DTYPES, EngineConfig, EngineStats
from deepground.engine.constraint import Constraint
from deepground.engine.kv_pages import PagePool, choose_num_pages
from deepground.engine.mtp_drafter import MtpDrafter, MtpModel
from deepground.engine.prefix_cache import PrefixCache
from deepground.engine.prefix_store import DiskStore, open_disk_store
from deepground.engine.publisher import Publisher
from deepground.engine.reply_plan import ReplyPlanner
from deepground.engine.request import Request, StepOutput
from deepground.engine.runner import ForwardModel, Runner
from deepground.engine.sampler import Sampled, Sampler
from deepground.engine.scheduler import Scheduler
from deepground.engine.slots import SlotTables
from deepground.engine.speculative import (
    MTP_DRAFTS,
    NGRAM_DRAFTS,
    NgramProposer,
    Proposer,
    Speculator,
)
from deepground.errors import (
    ContextLengthError,
    EngineError,
    ModelFolderError,
    RequestError,
)
from deepground.kernels import ExpertStats
from deepground.kernels.machine import read_machine
from deepground.messages import FinishReason, SamplingParams
from deepground.model import (
    ChatFormat,
    KVCache,
    ModelConfig,
    NativeDecoder,
    ServingDtype,
    Tokenizer,
    cache_layers,
    cache_widths,
    chat_format_for,
    load_decoder,
    model_size,
    weights_fingerprint,
)

PILOT_FOLDER = Path(__file__).resolve().parent.parent / "pilot"
"""The model that comes with the package."""


class Engine:
    """Continuous batching over one model.

    Args:
        decoder: the model, on the device where it is to run.
        tokenizer: of the same checkpoint.
        chat_format: how the checkpoint writes conversations; None: it does not.
        config: sizes.
        fingerprint: stands for the weights, where cached prefixes are to outlive the process.

    Raises:
        OutOfMemoryError: the cache does not fit.
        EngineError: `config` names a `prefix_disk`, and there is no fingerprint.
    """

    def __init__(
        self,
        decoder: ForwardModel,
        tokenizer: Tokenizer,
        chat_format: ChatFormat | None = None,
        config: EngineConfig | None = None,
        *,
        fingerprint: str | None = None,
    ) -> None:
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.chat_format = chat_format
        self.config = config or EngineConfig()
        self.torch_threads = 1 if isinstance(decoder, NativeDecoder) else self.config.num_threads
        """Threads of torch's operations; None: torch's own choice. One beside native kernels, which have threads of
        their own: torch's would take their cores."""
        if self.torch_threads is not None:
            torch.set_num_threads(self.torch_threads)
        dtype, device = _cache_placement(decoder, self.config)
        pool = PagePool(num_pages=_num_pages(decoder.config, self.config, dtype), page_size=self.config.page_size)
        cache = KVCache(decoder.config, pool.capacity, dtype=dtype, device=device)
        self.cache_bytes = sum(tensor.nbytes for tensor in cache.tensors.values())
        """Memory of the cache."""
        self._pool = pool
        self._prefix_cache = PrefixCache(pool) if self.config.prefix_cache else None
        self._disk_store = self._open_disk(cache, fingerprint)
        self._scheduler = Scheduler(
            pool,
            max_batch_tokens=self.config.max_batch_tokens,
            max_sequences=self.config.max_sequences,
            prefill_chunk=self.config.prefill_chunk,
            prefix_cache=self._prefix_cache,
        )
        tables = SlotTables(page_size=self.config.page_size, device=device)
        self._runner = Runner(decoder, cache, tables)
        self._sampler = Sampler(native=isinstance(decoder, NativeDecoder))
        self._drafter = _mtp_drafter(decoder, cache, tables, pool, self.config)
        proposers: list[Proposer] = []
        if self.config.speculate in ("auto", "ngram"):
            proposers.append(NgramProposer(self.config.draft_tokens or NGRAM_DRAFTS))
        if self._drafter is not None:
            proposers.append(self._drafter)
        self._speculator = Speculator(proposers, reserve=self._scheduler.reserve)
        self.end_ids = _end_ids(decoder.config, tokenizer, chat_format)
        """Tokens that end the model's turn; they are no part of the text."""
        self.planner = ReplyPlanner(tokenizer, chat_format, self.end_ids)
        """Makes constraints of what requests want; may be used from any thread."""
        self._publisher = Publisher(tokenizer, self.end_ids)
        self._live: dict[str, Request] = {}
        self._arrivals = itertools.count()
        self._counts = _Counts()

    @classmethod
    def from_folder(
        cls,
        path: str | Path | None = None,
        config: EngineConfig | None = None,
        *,
        dtype: ServingDtype = "auto",
        chat_format: str | None = None,
    ) -> Engine:
        """Load a Hugging Face folder.

        Args:
            path: the folder; None: the model that comes with the package.
            config: sizes.
            dtype: how the weights are held: native (as stored, for the compiled kernels), float32 or bfloat16 (for
                torch); auto: native where there are kernels for the model.
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
        config = config or EngineConfig()
        decoder = load_decoder(
            folder,
            dtype=dtype,
            threads=config.num_threads,
            memory_limit=config.memory_limit,
            cache_bytes=config.cache_bytes,
        )
        planned = decoder.cache_bytes if isinstance(decoder, NativeDecoder) else None
        if planned is not None and config.cache_bytes is None and config.num_pages is None:
            config = replace(config, cache_bytes=planned)
        tokenizer = Tokenizer.from_folder(folder)
        tokenizer.check_vocab_size(decoder.config.vocab_size)
        return cls(
            decoder,
            tokenizer,
            chat_format_for(folder, decoder.config, chat_format),
            config,
            fingerprint=None if config.prefix_disk is None else weights_fingerprint(folder),
        )

    @property
    def has_work(self) -> bool:
        """Some request is not finished."""
        return self._scheduler.has_work

    @property
    def num_parameters(self) -> int:
        """Of the main model, embedding and head counted, multi-token prediction not."""
        return model_size(self.decoder.config, torch.bfloat16).parameters

    @property
    def compute(self) -> str:
        """What the model runs on, in words."""
        if isinstance(self.decoder, NativeDecoder):
            return self.decoder.description
        parameter = next(self.decoder.parameters())
        dtype = str(parameter.dtype).removeprefix("torch.")
        return f"torch, {dtype} on {parameter.device}, {torch.get_num_threads()} threads"

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together: the model's limit, or the cache's if that is smaller."""
        return min(self.decoder.config.max_positions, self._pool.capacity)

    @property
    def prefix_folder(self) -> Path | None:
        """Where cached prefixes are kept on disk; None: they are not."""
        return self._disk_store.root if self._disk_store else None

    @property
    def expert_stats(self) -> ExpertStats | None:
        """How often experts were found in memory; None unless they stay on disk. May be asked from any thread."""
        return self.decoder.expert_stats() if isinstance(self.decoder, NativeDecoder) else None

    @property
    def stats(self) -> EngineStats:
        """Counters; may be read from any thread."""
        return EngineStats(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            pages_used=self._pool.num_used,
            pages_cached=self._prefix_cache.num_reclaimable if self._prefix_cache else 0,
            pages_total=self._pool.num_pages,
            disk_units_loaded=self._disk_store.num_loaded if self._disk_store else 0,
            disk_units_saved=self._disk_store.num_saved if self._disk_store else 0,
            preemptions=self._scheduler.num_preemptions,
            drafted_tokens=self._speculator.num_drafted,
            accepted_tokens=self._speculator.num_accepted,
            **vars(self._counts),
        )

    def validate(
        self, prompt_ids: Sequence[int], params: SamplingParams, *, constraint: Constraint | None = None
    ) -> None:
        """Whether `add` would take this request; may be called from any thread.

        Raises:
            ContextLengthError: prompt plus `max_tokens` exceed `context_length`.
            SchemaError: the wanted output cannot be enforced. To find out may take up to a second, the first time.
            RequestError: the prompt is empty, or a token id is outside the vocabulary.
        """
        vocab_size = self.decoder.config.vocab_size
        if not prompt_ids:
            raise RequestError("the prompt is empty; give at least one token", field="prompt")
        if min(prompt_ids) < 0 or max(prompt_ids) >= vocab_size:
            raise RequestError(f"the prompt holds token ids outside 0 to {vocab_size - 1}", field="prompt")
        if any(not 0 <= id_ < vocab_size for id_ in params.stop_token_ids):
            raise RequestError(f"stop_token_ids holds ids outside 0 to {vocab_size - 1}", field="stop_token_ids")
        if any(not 0 <= id_ < vocab_size for id_ in params.logit_bias):
            raise RequestError(f"logit_bias holds token ids outside 0 to {vocab_size - 1}", field="logit_bias")
        limit, wanted = self.context_length, params.max_tokens or 1
        if len(prompt_ids) + wanted > limit:
            cause = "the model's context" if limit == self.decoder.config.max_positions else "the cache's room"
            raise ContextLengthError(
                f"{len(prompt_ids)} prompt tokens plus {wanted} to generate exceed {cause} of {limit} tokens; "
                "shorten the prompt or lower max_tokens",
                field="max_tokens" if len(prompt_ids) < limit else "prompt",
            )
        if constraint is None:
            self.planner.plan_text(params)

    def add(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
        *,
        cache_salt: str | None = None,
        constraint: Constraint | None = None,
    ) -> str:
        """Queue a request; the next steps work on it.

        Args:
            prompt_ids: the prompt.
            params: how to continue it.
            request_id: a name of the caller's choice, unused so far; None: one is made.
            cache_salt: whose cached prefixes it may use, and who may use its own: requests with the same one only.
            constraint: what it may say, in its first state; used for this request alone. None: what `params.output`
                asks for.

        Returns:
            The request's id.

        Raises:
            RequestError: as `validate`, or the id is in use.
        """
        self.validate(prompt_ids, params, constraint=constraint)
        if constraint is None and (plan := self.planner.plan_text(params)) is not None:
            constraint = plan.constraint
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
            cache_salt=cache_salt,
        )
        self._live[request_id] = request
        if constraint is not None:
            self._sampler.constrain(request_id, constraint)
        self._scheduler.add(request)
        self._counts.prompt_tokens += len(prompt_ids)
        return request_id

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """Run the model once and return what it added, one output per request that got a token.

        An empty list means that prompts are still being computed, or that there is nothing to do.
        """
        self._speculator.propose(self._scheduler.decoding)
        batch = self._scheduler.next_batch()
        if batch is None:
            return []
        logits_NV = self._runner.forward(batch)
        requests = batch.sampling
        sampled = self._sampler.sample(logits_NV, requests)
        self._speculator.learn(batch, [len(share.tokens) for share in sampled])
        self._scheduler.advance(batch)
        self._counts.steps += 1
        self._counts.computed_tokens += batch.num_tokens
        outputs = [self._publish(request, share) for request, share in zip(requests, sampled, strict=True)]
        if self._drafter is not None:
            self._drafter.observe(batch, self._runner.hidden_TD)
        return outputs

    def abort(self, request_id: str) -> bool:
        """End a request and free all that it holds at once; False if it is not under way."""
        request = self._live.get(request_id)
        if request is None:
            return False
        self._leave(request, "abort")
        self._counts.aborted += 1
        return True

    def close(self) -> None:
        """Bring what the disk shall keep of the prefix cache to the disk; takes seconds at the most.

        Happens by itself when the engine is dropped or Python ends. The engine works on without its disk.
        """
        if self._prefix_cache is not None and self._disk_store is not None:
            self._prefix_cache.store = None
            self._disk_store.close()
        self.planner.compiler.close()

    def check_integrity(self) -> None:
        """The books of pages, queue and requests agree.

        Raises:
            IntegrityError: they do not.
        """
        self._scheduler.check_integrity(set(self._live))

    def _open_disk(self, cache: KVCache, fingerprint: str | None) -> DiskStore | None:
        if self._prefix_cache is None or self.config.prefix_disk is None:
            return None
        if fingerprint is None:
            raise EngineError("prefix_disk needs the fingerprint of the weights; load the model with from_folder")
        store = open_disk_store(
            cache,
            page_size=self.config.page_size,
            unit_tokens=self._prefix_cache.unit_tokens,
            root=Path(self.config.prefix_disk),
            model=_identity(self.decoder, fingerprint),
            limit=self.config.prefix_disk_bytes,
        )
        self._prefix_cache.store = store
        if store is not None:
            weakref.finalize(self, store.close)
        return store

    def _publish(self, request: Request, sampled: Sampled) -> StepOutput:
        output = self._publisher.publish(request, sampled)
        self._counts.generated_tokens += len(output.token_ids)
        if output.finish_reason is not None:
            self._leave(request, output.finish_reason)
            if output.error is None:
                self._counts.finished += 1
            else:
                self._counts.failed += 1
        return output

    def _leave(self, request: Request, reason: FinishReason) -> None:
        request.finish_reason = reason
        if request.scheduled_at is not None:
            self._counts.prompt_cache_hit_tokens += request.num_cached
            self._counts.prompt_cache_miss_tokens += request.prompt_length - request.num_cached
        self._scheduler.finish(request)
        self._runner.forget(request.id)
        self._sampler.forget(request.id)
        self._publisher.forget(request.id)
        self._speculator.forget(request.id)
        del self._live[request.id]


@dataclass
class _Counts:
    steps: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    aborted: int = 0
    failed: int = 0
    prompt_cache_hit_tokens: int = 0
    prompt_cache_miss_tokens: int = 0


def _end_ids(config: ModelConfig, tokenizer: Tokenizer, chat_format: ChatFormat | None) -> frozenset[int]:
    """Everything that ends the model's turn, whoever says so: config, tokenizer or chat format."""
    markers = (tokenizer.special_id(text) for text in (chat_format.stop_markers if chat_format else ()))
    return frozenset({*config.eos_token_ids, *tokenizer.eos_ids, *(id_ for id_ in markers if id_ is not None)})


def _cache_placement(decoder: ForwardModel, config: EngineConfig) -> tuple[torch.dtype, torch.device]:
    parameter = next(decoder.parameters())
    dtype = parameter.dtype if config.cache_dtype == "auto" else DTYPES[config.cache_dtype]
    return dtype, parameter.device


def _mtp_drafter(
    decoder: ForwardModel, cache: KVCache, tables: SlotTables, pool: PagePool, config: EngineConfig
) -> MtpDrafter | None:
    if config.speculate not in ("auto", "mtp"):
        return None
    if decoder.config.num_mtp_layers and isinstance(decoder, MtpModel):
        return MtpDrafter(decoder, cache, tables, pool.table, config.draft_tokens or MTP_DRAFTS)
    if config.speculate == "mtp":
        raise EngineError(
            "speculate is mtp, but this model has no layer of multi-token prediction; choose auto or ngram"
        )
    return None


def _identity(decoder: ForwardModel, fingerprint: str) -> str:
    """What keys and values depend on besides tokens and the cache's layout: weights, their format, and our code."""
    formats = sorted({str(parameter.dtype) for parameter in decoder.parameters()})
    # The root package imports nothing of this room, but an import statement would look like a cycle.
    version = sys.modules["deepground"].__version__
    kernels = decoder.runtime.isa if isinstance(decoder, NativeDecoder) else "torch"
    return repr((version, kernels, formats, fingerprint, decoder.config))


def _num_pages(model: ModelConfig, config: EngineConfig, dtype: torch.dtype) -> int:
    token_bytes = sum(cache_widths(model).values()) * cache_layers(model) * dtype.itemsize
    return choose_num_pages(
        page_bytes=token_bytes * config.page_size,
        available_bytes=read_machine().memory_available,
        useful_pages=config.max_sequences * -(-model.max_positions // config.page_size),
        cache_bytes=config.cache_bytes,
        num_pages=config.num_pages,
    )
