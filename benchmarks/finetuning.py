"""Fine-tuning throughput beside TRL's SFTTrainer and a plain transformers loop, on the same model and data.

    python benchmarks/finetuning.py --python /path/to/venv/with/trl/bin/python --rounds 3

The peers live in an environment of their own (`pip install trl`), so that they choose their own versions of what they
need. Every worker trains all weights of the bundled model's configuration in float32 (random weights) on the same
token ids, with rows of the same length, the same number of threads, AdamW, and loss on the replies only; the steps
after the first two are timed. Tokens are those of the samples, padding not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WORKERS = ("deepground", "transformers", "trl")
ROW = 256
ROWS = 8
STEPS = 12
WARM_UP = 2


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="interpreter that has trl")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in WORKERS}
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch))
        for _ in range(arguments.rounds):
            for name in WORKERS:  # In turn, so that a disturbance meets all of them.
                interpreter = sys.executable if name == "deepground" else str(arguments.python)
                rates[name].append(run_worker(interpreter, name, scratch, arguments.threads, arguments.precision))
    best = max(statistics.median(rates[name]) for name in WORKERS[1:])
    print(
        f"{arguments.threads} thread(s), {arguments.precision}, {arguments.rounds} rounds, tokens of samples per second"
    )
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"{name:14} median {median:8.0f}   {median / best:5.2f} x the better peer   {[round(v) for v in values]}")
    if arguments.precision == "bfloat16":
        report_share(statistics.median(rates["deepground"]), arguments.threads)


def prepare(folder: Path) -> None:
    """The model with random weights, and samples of the tasks' mixture as token ids."""
    from dataclasses import replace

    import torch

    from deepground.engine import PILOT_FOLDER
    from deepground.model import Decoder, Tokenizer, chat_format_for, load_config, save_model
    from deepground.train import mixture_samples

    config = load_config(PILOT_FOLDER)
    assert config.moe is not None
    layers = frozenset(layer for layer in config.moe_layers if layer < config.num_layers)
    config = replace(config, num_mtp_layers=0, moe_layers=layers)
    decoder = Decoder(config)
    decoder.init_weights(0)
    torch.set_num_threads(1)
    save_model(decoder, folder / "model", weight_format="float32", tokenizer_from=PILOT_FOLDER)
    tokenizer = Tokenizer.from_folder(PILOT_FOLDER)
    make = mixture_samples(tokenizer, chat_format_for(PILOT_FOLDER, config), seed=1, easy_samples=0)
    samples = [s for s in (make(i) for i in range(4000)) if len(s.token_ids) <= ROW]
    rows = [{"ids": s.token_ids, "prompt": s.prompt_length} for s in samples]
    (folder / "samples.json").write_text(json.dumps(rows))


def report_share(rate: float, threads: int) -> None:
    """Print how much of this machine's arithmetic the weights' products of our training use.

    A value takes six operations per token, two forward and four backward (arXiv 2001.08361, section 2.1); attention
    scores and the optimizer's own products are left out.
    """
    from deepground.bench import parameter_counts
    from deepground.engine import PILOT_FOLDER
    from deepground.kernels import measure_limits
    from deepground.model import load_config

    config = load_config(PILOT_FOLDER)
    assert config.moe is not None
    always, head, experts = parameter_counts(config)
    values = always + head + experts * config.moe.experts_per_token / config.moe.num_experts
    limits = measure_limits(threads)
    print(
        f"products of weights: {6 * values * rate / 1e9:.0f} GFLOP/s, {6 * values * rate / limits.flops_per_s:.0%} of "
        f"{limits.flops_per_s / 1e9:.0f} ({limits.instruction_set}, {limits.threads} threads)"
    )


def run_worker(interpreter: str, name: str, folder: str, threads: int, precision: str) -> float:
    """Tokens per second of one run in a process of its own."""
    worker = Path(__file__).parent / "finetuning_worker.py"
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    command = [interpreter, str(worker), name, folder, precision, str(ROW), str(ROWS), str(STEPS), str(WARM_UP)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return float(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
