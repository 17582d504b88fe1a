"""One picture of a comparison: tokens per second of every engine, a panel per measure.

    python benchmarks/plot.py benchmarks/results/peers-2026-11-23.json --shape m1 --output docs/speed.svg

Needs matplotlib (`pip install 'deepground[bench]'`).
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from peer_report import Table

TITLES = {
    "decode": "Decode, 1 stream",
    "decode-4k": "Decode after 4,096 tokens",
    "streams-16": "Decode, 16 streams",
    "prefill-512": "Prefill, 512 tokens",
}
OURS, THEIRS = "#1f6feb", "#b4bcc6"


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON file of peers.py")
    parser.add_argument("--shape", default="m1")
    parser.add_argument("--output", type=Path, default=Path("docs/speed.svg"), help="SVG or PNG, by its ending")
    arguments = parser.parse_args()
    table = Table(json.loads(arguments.results.read_text()))
    figure = draw(table, arguments.shape)
    metadata = {"Date": None} if arguments.output.suffix == ".svg" else {}
    figure.savefig(arguments.output, bbox_inches="tight", metadata=metadata)


def draw(table: Table, shape: str) -> Any:
    """A matplotlib figure: bars from the fastest down, ours in colour."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    # The same file for the same figures, whenever it is drawn.
    matplotlib.rcParams["svg.hashsalt"] = "deepground"
    pyplot = importlib.import_module("matplotlib.pyplot")
    panels = [(measure, bars) for measure in TITLES if (bars := rates(table, shape, measure))]
    if not panels:
        raise SystemExit(f"the results hold nothing of the shape {shape}")
    height = 0.7 + 0.26 * max(len(bars) for _, bars in panels)
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.6 * len(panels), height), squeeze=False)
    for axis, (measure, bars) in zip(axes[0], panels, strict=True):
        names, speeds = zip(*reversed(bars), strict=True)
        colors = [OURS if name.startswith("deepground") else THEIRS for name in names]
        drawn = axis.barh(names, speeds, color=colors)
        labels = [f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}" for speed in speeds]
        axis.bar_label(drawn, labels, padding=2, fontsize=8)
        axis.set_title(TITLES[measure], fontsize=10)
        axis.tick_params(labelsize=8)
        axis.set_xticks([])
        axis.set_xlim(0, 1.18 * max(speeds))
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    machine = table.found["machine"]
    figure.suptitle(
        f"Tokens per second, {shape} shape; {machine['cpu']}, {table.found['threads']} threads, {table.found['date']}",
        fontsize=10,
    )
    figure.tight_layout()
    return figure


def rates(table: Table, shape: str, measure: str) -> list[tuple[str, float]]:
    """Names and medians, fastest first."""
    found = [
        (contender.name, rate)
        for contender in table.contenders(shape)
        if (rate := table.rate(shape, contender.name, measure)) is not None
    ]
    return sorted(found, key=lambda pair: -pair[1])


if __name__ == "__main__":
    main()
