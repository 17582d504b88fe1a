"""Decode and prefill speed of the engine, beside what this machine can do at the most.

    python benchmarks/serving.py                     # the bundled pilot
    python benchmarks/serving.py --model FOLDER --threads 2 --batches 1 8 32

Decoding is bound by memory: every step reads all weights that its tokens use, and their cached keys and values. Prefill
is bound by arithmetic. Each rate stands beside that bound, measured on this machine in the same run. The
last column is the share of a step that is not the model's: scheduling, building the batch, sampling, text.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from deepground.engine import PILOT_FOLDER, Engine, EngineConfig
from deepground.kernels import measure_matmul_rate, measure_memory_bandwidth, read_machine
from deepground.messages import SamplingParams
from deepground.model import Batch, Decoder, ModelConfig


class TimedDecoder(nn.Module):
    """A decoder that knows how long it has computed; everything else of a step is the engine's."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.config = decoder.config
        self.seconds = 0.0

    def forward(self, batch: Batch) -> Tensor:
        """As the decoder."""
        start = time.perf_counter()
        hidden_TD: Tensor = self.decoder(batch)
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


def build_engine(folder: Path, config: EngineConfig) -> tuple[Engine, TimedDecoder]:
    """The engine to measure, with a clock around its model."""
    loaded = Engine.from_folder(folder, EngineConfig(num_pages=1))
    assert isinstance(loaded.decoder, Decoder)
    timed = TimedDecoder(loaded.decoder.eval())
    return Engine(timed, loaded.tokenizer, config=config), timed


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


def active_bytes(decoder: nn.Module, batch: int) -> float:
    """Bytes of weights that one decode step of `batch` tokens reads, experts by their expected use."""
    config = decoder.config
    assert isinstance(config, ModelConfig)
    total = 0.0
    for name, parameter in decoder.named_parameters():
        if ".experts." in name and config.moe is not None:
            share = 1 - (1 - config.moe.experts_per_token / config.moe.num_experts) ** batch
            total += parameter.nbytes * share
        elif "embed_tokens" not in name and "mtp_layers" not in name:
            total += parameter.nbytes
    return total


def active_flops(decoder: nn.Module) -> float:
    """Floating-point operations per token of prefill, attention over earlier tokens left out."""
    return 2 * active_bytes(decoder, 1) / next(decoder.parameters()).itemsize


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PILOT_FOLDER, help="model folder; without it the bundled pilot")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--prompt", type=int, default=64, help="prompt tokens when decoding")
    parser.add_argument("--new", type=int, default=128, help="tokens to decode")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = EngineConfig(max_sequences=max(arguments.batches), max_batch_tokens=1024)
    engine, timed = build_engine(arguments.model, config)
    machine = read_machine()
    bandwidth, matmul = measure_memory_bandwidth(), measure_matmul_rate()
    print(f"{arguments.model.name}; {machine.cpu}, {arguments.threads} thread(s)")
    print(f"this machine: {bandwidth / 1e9:.1f} GB/s read from memory, {matmul / 1e9:.0f} GFLOP/s matrix product\n")
    print(f"{'':24}{'tokens/s':>10}{'ms/step':>9}{'of the bound':>14}{'engine share':>14}")
    for name, params in (("greedy", {"temperature": 0.0}), ("sampled", {"temperature": 0.7, "top_p": 0.95})):
        for batch in arguments.batches:
            measure(engine, timed, prompt=arguments.prompt, new=16, batch=batch, params=params)
            line = measure(engine, timed, prompt=arguments.prompt, new=arguments.new, batch=batch, params=params)
            bound = bandwidth / active_bytes(timed.decoder, batch) * batch
            report(f"decode {name}, batch {batch}", line, bound)
    for length in (128, 512, 1024):
        if length < engine.context_length:
            line = measure(engine, timed, prompt=length, new=1, batch=4, params={"temperature": 0.0})
            report(f"prefill {length}", line, matmul / active_flops(timed.decoder))


def report(name: str, line: Measured, bound: float) -> None:
    """One line of the table."""
    print(
        f"{name:24}{line.tokens_per_s:10.0f}{line.step_ms:9.2f}{line.tokens_per_s / bound:14.1%}{line.overhead:14.1%}"
    )


if __name__ == "__main__":
    main()
