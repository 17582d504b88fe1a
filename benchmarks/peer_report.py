"""Who takes part in the comparison of engines, what is aimed at, and the page that shows it.

A contender's share of the memory wall is the bytes of weights and cache that one token must read, times its speed, over
the bandwidth measured in the same run; its share of the arithmetic is reckoned likewise.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peer_worker import DECODES, MEASURES, PREFILLS

from deepground.bench import Traffic, WeightBytes, parameter_counts
from deepground.engine import PILOT_FOLDER
from deepground.model import ModelConfig, cache_widths, load_config
from deepground.model.families import read_config


@dataclass(frozen=True, kw_only=True)
class Contender:
    """An engine with a number format."""

    name: str
    engine: str
    file: str
    """What follows the shape's name in the checkpoint's."""
    bits: tuple[float, float, float]
    """Per weight: routed experts, output head, everything else; scales counted in."""
    options: dict[str, Any] = field(default_factory=dict)
    """For the worker."""


_FP8 = 8 + 32 / 128**2
_BF16 = Contender(name="deepground bf16", engine="deepground", file="bf16", bits=(16, 16, 16))
_OURS = [
    Contender(name="deepground fp8-ue8m0", engine="deepground", file="fp8-ue8m0", bits=(_FP8, 16, _FP8)),
    Contender(name="deepground fp8-head", engine="deepground", file="fp8-head", bits=(_FP8, _FP8, _FP8)),
    Contender(name="deepground mxfp4", engine="deepground", file="mxfp4", bits=(4.25, 16, 4.25)),
    Contender(name="deepground mxfp4-head", engine="deepground", file="mxfp4-head", bits=(4.25, _FP8, 4.25)),
    _BF16,
]
_Q8 = Contender(name="llama.cpp q8_0", engine="llama.cpp", file="q8_0.gguf", bits=(8.5, 8.5, 8.5))
# llama.cpp's recipe for Q4_0 keeps the head in Q6_K.
_Q4 = Contender(name="llama.cpp q4_0", engine="llama.cpp", file="q4_0.gguf", bits=(4.5, 6.5625, 4.5))
_MX = Contender(name="llama.cpp mxfp4", engine="llama.cpp", file="mxfp4.gguf", bits=(4.25, 8.5, 8.5))
_VLLM = Contender(name="vllm bf16", engine="vllm", file="bf16", bits=(16, 16, 16))
_VLLM8 = Contender(name="vllm w8a8", engine="vllm", file="w8a8", bits=(8, 16, 8))
_HF = Contender(name="transformers bf16", engine="transformers", file="bf16", bits=(16, 16, 16))
_HF32 = Contender(
    name="transformers float32",
    engine="transformers",
    file="bf16",
    bits=(32, 32, 32),
    options={"dtype": "float32"},
)

CONTENDERS: dict[str, list[Contender]] = {
    "m1": [*_OURS, _Q8, _Q4, _VLLM, _VLLM8, _HF, _HF32],
    "m2": [*_OURS, _Q8, _Q4, _MX, _VLLM, _HF],
    "pilot": [Contender(name="deepground", engine="deepground", file="", bits=(_FP8, 16, _FP8)), _HF32],
}

# Ours by number format; with and without the output head in FP8, as llama.cpp's recipes quantise it.
_FP8S, _MXFP4S = ("deepground fp8-ue8m0", "deepground fp8-head"), ("deepground mxfp4", "deepground mxfp4-head")
GOALS: tuple[tuple[str, str, tuple[str, ...], str, float], ...] = (
    ("m1", "decode", _FP8S, "llama.cpp q8_0", 1.10),
    ("m1", "decode-4k", _FP8S, "llama.cpp q8_0", 1.4),
    ("m1", "decode", _MXFP4S, "llama.cpp q4_0", 1.3),
    ("m1", "decode-4k", _MXFP4S, "llama.cpp q4_0", 1.7),
    ("m1", "prefill-512", _FP8S[:1], "vllm bf16", 1.25),
    ("m1", "prefill-2048", _FP8S[:1], "vllm bf16", 1.25),
    ("m1", "streams-16", _FP8S, "best", 1.6),
    ("m2", "decode", _FP8S, "llama.cpp q8_0", 1.8),
    ("m2", "decode", _MXFP4S, "llama.cpp mxfp4", 1.25),
    ("m2", "prefill-512", _FP8S[:1], "vllm bf16", 1.2),
    ("m2", "prefill-2048", _FP8S[:1], "vllm bf16", 1.2),
    ("m2", "streams-8", _FP8S, "best", 2.0),
    ("m2", "streams-16", _FP8S, "best", 2.0),
)
"""Shape, measure, ours, peer ("best": the fastest at any bits), and the ratio that is aimed at."""

QUIET = 0.05
"""Of the processors' time: what others may take before a figure is marked."""


class Table:
    """Medians of everything that was measured.

    Args:
        found: what `peers.py` wrote.
    """

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found
        self.shapes = list(dict.fromkeys(run["shape"] for run in found["runs"]))
        # Measured just before each run, as a machine that others share drifts.
        self.bandwidths: list[float] = [limits["read_bytes_per_s"] for limits in found["limits"]]
        self.flops: list[float] = [limits["flops_per_s"] for limits in found["limits"]]

    def contenders(self, shape: str) -> list[Contender]:
        """Those with figures."""
        return [c for c in CONTENDERS[shape] if self._runs(shape, c.name)]

    def rate(self, shape: str, name: str, measure: str) -> float | None:
        """Median tokens per second."""
        rates = [run[measure]["rate"] for run in self._runs(shape, name) if measure in run]
        return statistics.median(rates) if rates else None

    def foreign(self, shape: str, name: str, measure: str) -> float:
        """Median share of the processors' time that others took."""
        return statistics.median(float(run[measure]["foreign"]) for run in self._runs(shape, name) if measure in run)

    def figure(self, shape: str, name: str, key: str) -> float:
        """Median of a figure of the whole run."""
        return statistics.median(float(run[key]) for run in self._runs(shape, name))

    def share(self, shape: str, contender: Contender, measure: str) -> float | None:
        """Of the memory's bandwidth when decoding, of the arithmetic in prefill; median over the runs."""
        traffic = reckon(shape_config(shape), contender)
        if measure in PREFILLS:
            length = PREFILLS[measure]
            need, limits = traffic.prefill(length).flops / length, self.flops
        else:
            streams, prompt, new = DECODES[measure]
            need, limits = traffic.decode(streams, prompt + new // 2).read_bytes / streams, self.bandwidths
        shares = [
            float(run[measure]["rate"]) * need / limit
            for run, limit in zip(self.found["runs"], limits, strict=True)
            if (run["shape"], run["contender"]) == (shape, contender.name) and measure in run
        ]
        return statistics.median(shares) if shares else None

    def best_peer(self, shape: str, measure: str) -> tuple[str, float] | None:
        """The fastest engine that is not ours."""
        rates = [
            (c.name, rate)
            for c in self.contenders(shape)
            if c.engine != "deepground" and (rate := self.rate(shape, c.name, measure)) is not None
        ]
        return max(rates, key=lambda pair: pair[1], default=None)

    def _runs(self, shape: str, name: str) -> list[dict[str, Any]]:
        return [
            run
            for run in self.found["runs"]
            if (run["shape"], run["contender"]) == (shape, name) and "failed" not in run
        ]


def shape_config(shape: str) -> ModelConfig:
    """The model of a shape."""
    from checkpoints import COMMON, SHAPES

    return load_config(PILOT_FOLDER) if shape == "pilot" else read_config(SHAPES[shape] | COMMON)


def reckon(config: ModelConfig, contender: Contender) -> Traffic:
    """A model's traffic in a contender's number formats, with a cache of two bytes per value."""
    always, head, experts = parameter_counts(config)
    expert_bits, head_bits, other_bits = contender.bits
    weights = WeightBytes(
        always=int(always * other_bits / 8),
        head=int(head * head_bits / 8),
        experts=int(experts * expert_bits / 8),
        embedding=0,
    )
    return Traffic(config, weights, 2 * config.num_layers * sum(cache_widths(config).values()))


def write_page(found: dict[str, Any], path: Path) -> None:
    """Everything as Markdown."""
    if not any("failed" not in run for run in found["runs"]):
        return
    table = Table(found)
    machine = found["machine"]
    lines = [
        f"# Engines compared, {machine['cpu']}, {found['date']}",
        "",
        f"{found['threads']} threads; {', '.join(machine['instruction_sets'])}. Measured in the same run: "
        f"{_span(table.bandwidths)} GB/s read from memory, {_span(table.flops)} GFLOP/s "
        f"({found['limits'][-1]['instruction_set']}). Tokens per second, medians; in brackets the share of the "
        "bandwidth (decoding, streams) or arithmetic (prefill) measured just before the run. A star: other programs "
        f"took more than {QUIET:.0%} of the processors meanwhile.",
    ]
    for shape in table.shapes:
        lines += ["", f"## {shape}", "", *_speeds(table, shape)]
    lines += ["", "## Ratios", "", *_goals(table)]
    reasons = found["skipped"] | {
        f"{run['shape']} {run['contender']}": run["failed"] for run in found["runs"] if "failed" in run
    }
    if reasons:
        lines += ["", "## Left out", "", *(f"- {name}: {reason}" for name, reason in reasons.items())]
    path.write_text("\n".join(lines) + "\n")


def _span(values: list[float]) -> str:
    low, middle, high = (f"{value / 1e9:.0f}" for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def _speeds(table: Table, shape: str) -> list[str]:
    measures = [m for m in MEASURES if any(table.rate(shape, c.name, m) for c in table.contenders(shape))]
    lines = [f"| | {' | '.join(measures)} | load s (reading the file) | peak GB |", "|---" * (len(measures) + 3) + "|"]
    for contender in table.contenders(shape):
        cells = []
        for measure in measures:
            rate = table.rate(shape, contender.name, measure)
            if rate is None:
                cells.append("-")
                continue
            star = "*" if table.foreign(shape, contender.name, measure) > QUIET else ""
            cells.append(f"{rate:.1f}{star} ({table.share(shape, contender, measure):.0%})")
        load, read = (table.figure(shape, contender.name, key) for key in ("load_s", "read_s"))
        peak = table.figure(shape, contender.name, "peak_bytes") / 1e9
        lines.append(f"| {contender.name} | {' | '.join(cells)} | {load:.1f} ({read:.1f}) | {peak:.1f} |")
    return lines


def _goals(table: Table) -> list[str]:
    lines = ["| | ours | peer | ratio | aimed at |", "|---|---|---|---|---|"]
    for shape, measure, candidates, peer, wanted in GOALS:
        theirs = table.rate(shape, peer, measure)
        other = table.best_peer(shape, measure) if peer == "best" else None if theirs is None else (peer, theirs)
        for ours in candidates:
            rate = table.rate(shape, ours, measure)
            if rate is None or other is None:
                continue
            name, speed = other
            lines.append(
                f"| {shape} {measure} | {rate:.1f} {ours} | {speed:.1f} {name} | {rate / speed:.2f} | {wanted:.2f} |"
            )
    return lines
