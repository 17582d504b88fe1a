"""How fast an engine decodes and prefills, beside what the machine allows."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from deepground.bench.traffic import Step, Traffic
from deepground.engine import Engine
from deepground.errors import BenchError
from deepground.kernels import MachineLimits
from deepground.messages import SamplingParams


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """What to measure.

    Raises:
        BenchError: a number is too small, or there is nothing to measure; names the field.
    """

    streams: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Requests that decode at the same time."""
    prompt_tokens: int = 32
    """Of each of them."""
    new_tokens: int = 64
    """Decoded by each of them."""
    prefill_tokens: tuple[int, ...] = (512, 2048)
    """Lengths of the prompts whose prefill is measured."""
    context_tokens: int = 4096
    """Of the prompt for the time to the first token, and behind the decoding from a long context."""
    rounds: int = 3
    """Times that everything is measured; medians count."""

    def __post_init__(self) -> None:
        for name in ("streams", "prefill_tokens"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise BenchError(f"{name} must hold numbers of at least 1")
        for name, least in (("prompt_tokens", 1), ("new_tokens", 2), ("context_tokens", 1), ("rounds", 1)):
            if getattr(self, name) < least:
                raise BenchError(f"{name} is {getattr(self, name)}; it must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One speed."""

    kind: str
    """decode or prefill"""
    streams: int
    context: int
    """Tokens before those that were timed (decode), or of the prompt (prefill)."""
    tokens_per_s: float
    """Over all streams; the median of the rounds."""
    limit_tokens_per_s: float
    """What the machine's memory and arithmetic would allow."""
    bound: str
    """Which of the two sets the limit: memory or arithmetic."""
    step_ms: float
    """Of one pass of the model."""

    @property
    def fraction(self) -> float:
        """Of the limit."""
        return self.tokens_per_s / self.limit_tokens_per_s


class SpeedMeter:
    """Measures one engine; its speculation should be off, or every figure depends on the text.

    Args:
        engine: loaded and idle, with room for the streams and their tokens.
        limits: of this machine.
        seed: of the random prompts; no two of them begin alike, so that no prefix cache shortens them.
    """

    def __init__(self, engine: Engine, limits: MachineLimits, seed: int = 0) -> None:
        self.engine = engine
        self.limits = limits
        self.traffic = Traffic.of(engine)
        self._random = random.Random(seed)

    def rates(self, config: BenchConfig) -> Iterator[Rate]:
        """Everything, one by one as it is measured; prompts are cut to the model's context.

        Raises:
            BenchError: the context has no room for `new_tokens`.
        """
        room = self.engine.context_length
        if config.new_tokens >= room:
            raise BenchError(f"new_tokens is {config.new_tokens}; the model's context holds {room} tokens")
        self._decode(1, 8, 4)
        for streams in config.streams:
            yield self.decode(streams, min(config.prompt_tokens, room - config.new_tokens), config)
        yield self.decode(1, min(config.context_tokens, room - config.new_tokens), config)
        for length in dict.fromkeys(min(length, room - 1) for length in config.prefill_tokens):
            yield self.prefill(length, config)

    def decode(self, streams: int, prompt: int, config: BenchConfig) -> Rate:
        """Decoding of `streams` requests at the same time, after prompts of `prompt` tokens."""
        step_s = statistics.median(self._decode(streams, prompt, config.new_tokens) for _ in range(config.rounds))
        context = prompt + config.new_tokens // 2
        return self._rate("decode", streams, prompt, streams, step_s, self.traffic.decode(streams, context))

    def prefill(self, length: int, config: BenchConfig) -> Rate:
        """One prompt of `length` tokens, to its first new token."""
        seconds = statistics.median(self.first_token(self.prompt(length)) for _ in range(config.rounds))
        return self._rate("prefill", 1, length, length, seconds, self.traffic.prefill(length))

    def prompt(self, length: int) -> list[int]:
        """Random tokens."""
        return self._random.choices(range(self.engine.decoder.config.vocab_size), k=length)

    def first_token(self, prompt_ids: list[int]) -> float:
        """Seconds from the arrival of a request to its first token."""
        start = time.perf_counter()
        self.engine.add(prompt_ids, SamplingParams(temperature=0, max_tokens=1, ignore_eos=True))
        while self.engine.has_work:
            self.engine.step()
        return time.perf_counter() - start

    def _decode(self, streams: int, prompt: int, new: int) -> float:
        """Seconds of the median step, once all streams are decoding."""
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
        waiting = {self.engine.add(self.prompt(prompt), params) for _ in range(streams)}
        while waiting:
            waiting -= {output.request_id for output in self.engine.step()}
        times = [time.perf_counter()]
        while self.engine.has_work:
            # The first to finish leave the others behind: what follows is no step of all streams.
            outputs = self.engine.step()
            if len(outputs) == streams:
                times.append(time.perf_counter())
        return statistics.median(after - before for before, after in itertools.pairwise(times))

    def _rate(self, kind: str, streams: int, context: int, tokens: int, seconds: float, step: Step) -> Rate:
        return Rate(
            kind=kind,
            streams=streams,
            context=context,
            tokens_per_s=tokens / seconds,
            limit_tokens_per_s=tokens / step.seconds(self.limits),
            bound=step.bound(self.limits),
            step_ms=1000 * seconds,
        )
