"""Where a step's time goes: the model's arithmetic, and the engine around it; greedy and sampled.

    python benchmarks/serving.py                     # the bundled pilot
    python benchmarks/serving.py --model FOLDER --threads 2 --batches 1 8 32

`deepground bench` measures speed beside the machine's limits; this adds the share of a step that is not the model's:
scheduling, building the batch, sampling, text. It matters for small models and large batches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from deepground.bench import Traffic
from deepground.engine import PILOT_FOLDER, Engine, EngineConfig, ForwardModel
from deepground.kernels import MachineLimits, measure_limits
from deepground.messages import SamplingParams
from deepground.model import Batch, NativeDecoder


class TimedDecoder:
    """A decoder that knows how long it has computed; everything else of a step is the engine's."""

    def __init__(self, decoder: ForwardModel) -> None:
        self.decoder = decoder
        self.config = decoder.config
        self.seconds = 0.0

    def parameters(self) -> Iterator[Parameter]:
        """As the decoder."""
        return self.decoder.parameters()

    def __call__(self, batch: Batch) -> Tensor:
        """As the decoder."""
        start = time.perf_counter()
        hidden_TD = self.decoder(batch)
        self.seconds += time.perf_counter() - start
        return hidden_TD

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """As the decoder."""
        start = time.perf_counter()
        logits_NV = self.decoder.logits(hidden_ND)
        self.seconds += time.perf_counter() - start
        return logits_NV


@dataclass(frozen=True)
class Measured:
    """One line of the table."""

    tokens_per_s: float
    step_ms: float
    overhead: float


def build_engine(folder: Path, config: EngineConfig, threads: int | None) -> tuple[Engine, TimedDecoder, Traffic]:
    """The engine to measure, with a clock around its model."""
    loaded = Engine.from_folder(folder, EngineConfig(num_pages=1, num_threads=threads))
    if isinstance(loaded.decoder, NativeDecoder):
        # Its threads are its own, and torch's would only be in their way.
        torch.set_num_threads(1)
    timed = TimedDecoder(loaded.decoder)
    return Engine(timed, loaded.tokenizer, config=config), timed, Traffic.of(loaded)


def measure(
    engine: Engine, timed: TimedDecoder, *, prompt: int, new: int, batch: int, params: dict[str, float]
) -> Measured:
    """Decoding speed of `batch` requests together; with new=1, prefill speed."""
    vocab_size = engine.decoder.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    for seed in range(batch):
        ids = torch.randint(vocab_size, (prompt,), generator=generator).tolist()
        engine.add(ids, SamplingParams(max_tokens=new, ignore_eos=True, seed=seed, **params))  # type: ignore[arg-type]
    while new > 1 and engine.stats.generated_tokens % (batch * new) < batch:
        engine.step()
    timed.seconds = 0.0
    before, start = engine.stats, time.perf_counter()
    while engine.has_work:
        engine.step()
    seconds, after = time.perf_counter() - start, engine.stats
    tokens = after.computed_tokens - before.computed_tokens
    return Measured(tokens / seconds, 1000 * seconds / (after.steps - before.steps), 1 - timed.seconds / seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PILOT_FOLDER, help="model folder; without it the bundled pilot")
    parser.add_argument("--threads", type=int, help="without it the engine's own choice")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--prompt", type=int, default=64, help="prompt tokens when decoding")
    parser.add_argument("--new", type=int, default=128, help="tokens to decode")
    arguments = parser.parse_args()
    limits = measure_limits(arguments.threads)
    # Neither drafts nor cached prompts: every token that is counted is computed, once.
    config = EngineConfig(max_sequences=max(arguments.batches), speculate="off", prefix_cache=False)
    engine, timed, traffic = build_engine(arguments.model, config, arguments.threads)
    print(f"{arguments.model.name}; {limits.threads} thread(s), {limits.instruction_set}")
    print(f"this machine: {limits.read_bytes_per_s / 1e9:.1f} GB/s, {limits.flops_per_s / 1e9:.0f} GFLOP/s\n")
    print(f"{'':24}{'tokens/s':>10}{'ms/step':>9}{'of the bound':>14}{'engine share':>14}")
    for name, params in (("greedy", {"temperature": 0.0}), ("sampled", {"temperature": 0.7, "top_p": 0.95})):
        for batch in arguments.batches:
            measure(engine, timed, prompt=arguments.prompt, new=16, batch=batch, params=params)
            line = measure(engine, timed, prompt=arguments.prompt, new=arguments.new, batch=batch, params=params)
            step = traffic.decode(batch, arguments.prompt + arguments.new // 2)
            report(f"decode {name}, batch {batch}", line, batch / step.seconds(limits))
    for length in (128, 512, 1024):
        if length < engine.context_length:
            line = measure(engine, timed, prompt=length, new=1, batch=4, params={"temperature": 0.0})
            report(f"prefill {length}", line, prefill_bound(traffic, length, limits))


def prefill_bound(traffic: Traffic, length: int, limits: MachineLimits) -> float:
    """Tokens per second that arithmetic and memory allow."""
    return length / traffic.prefill(length).seconds(limits)


def report(name: str, line: Measured, bound: float) -> None:
    """One line of the table."""
    print(
        f"{name:24}{line.tokens_per_s:10.0f}{line.step_ms:9.2f}{line.tokens_per_s / bound:14.1%}{line.overhead:14.1%}"
    )


if __name__ == "__main__":
    main()
