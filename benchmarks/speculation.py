"""What drafts bring: decoding speed with and without speculation, on text that repeats and on text that does not.

    python benchmarks/speculation.py                         # the bundled pilot: its own tasks
    python benchmarks/speculation.py MODELS/m1-fp8-ue8m0     # any other model, random weights included

With the pilot: problems of its tasks with thinking (`reasoning`), and replies that mostly copy from the prompt
(`copying`: JSON from texts, repaired functions). With any model: `quoting`, a passage of the prompt repeated word for
word, to which a constraint holds the model, so that drafts are as right as in an edit of a long text whatever the
weights say; and `random`, tokens drawn at a temperature of 2, where no draft is right.

All modes share one loaded model and take turns; a round is every mode once. Speed counts from the moment at which
all requests of a group have their first token. Ratios are medians over the rounds, of rates measured side by side.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from deepground.engine import PILOT_FOLDER, ChatRequest, Constraint, Engine, EngineConfig, TokenAutomaton
from deepground.engine.chat import prepare_chat
from deepground.messages import SamplingParams
from deepground.model import NativeDecoder
from deepground.tasks import evaluation_set

Mode = Literal["off", "mtp", "ngram", "auto"]
REASONING = ("addition", "multiplication", "chain_sum", "simple_equations", "gcd", "number_sorting", "countdown")
COPYING = ("order_extraction", "invoice_extraction", "appointment_extraction", "code_repair", "repeat")


@dataclass(frozen=True)
class Job:
    """One request, to be made anew for each run."""

    prompt_ids: list[int]
    params: SamplingParams
    constraint: Callable[[], Constraint | None]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=PILOT_FOLDER)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--problems", type=int, default=4, help="of each task of the pilot")
    parser.add_argument("--new-tokens", type=int, default=192, help="of a reply of the other workloads")
    arguments = parser.parse_args()
    loaded = Engine.from_folder(arguments.model, EngineConfig(num_threads=arguments.threads, speculate="auto"))
    if isinstance(loaded.decoder, NativeDecoder):
        torch.set_num_threads(1)  # The kernels' threads are their own.
    modes: list[Mode] = ["off", "mtp", "ngram", "auto"] if loaded.decoder.config.num_mtp_layers else ["off", "ngram"]
    engines = {mode: engine_for(loaded, mode, max(arguments.streams)) for mode in modes}
    print(f"{arguments.model.name}; {loaded.compute}\n")
    print("| text | streams | tokens/s without | " + " | ".join(f"{mode} (right)" for mode in modes[1:]) + " |")
    print("|---|---|---|" + "---|" * (len(modes) - 1))
    for name, jobs in workloads(loaded, arguments).items():
        for streams in arguments.streams:
            rates: dict[Mode, list[float]] = {mode: [] for mode in modes}
            right: dict[Mode, float] = {}
            for mode in modes:
                run(engines[mode], jobs, streams)  # The pace learns what steps cost.
            for number in range(arguments.rounds):
                for mode in modes[number % len(modes) :] + modes[: number % len(modes)]:
                    rate, right[mode] = run(engines[mode], jobs, streams)
                    rates[mode].append(rate)
            cells = [
                f"{statistics.median(a / b for a, b in zip(rates[mode], rates['off'], strict=True)):.2f}x"
                f" ({right[mode]:.0%})"
                for mode in modes[1:]
            ]
            print(f"| {name} | {streams} | {statistics.median(rates['off']):.0f} | {' | '.join(cells)} |", flush=True)


def engine_for(loaded: Engine, mode: Mode, streams: int) -> Engine:
    """An engine on the same weights; without cached prefixes, so that every run computes the same."""
    config = EngineConfig(max_sequences=streams, speculate=mode, prefix_cache=False, cache_bytes=2**28)
    return Engine(loaded.decoder, loaded.tokenizer, loaded.chat_format, config=config)


def workloads(engine: Engine, arguments: argparse.Namespace) -> dict[str, list[Job]]:
    """By name."""
    most = max(arguments.streams)
    found: dict[str, list[Job]] = {}
    if arguments.model == PILOT_FOLDER:
        found["reasoning"] = task_jobs(engine, REASONING, arguments.problems)
        found["copying"] = task_jobs(engine, COPYING, arguments.problems)
    found["quoting"] = [quoting(engine, number, arguments.new_tokens) for number in range(most)]
    found["random"] = [drawing(engine, number, arguments.new_tokens) for number in range(most)]
    return found


def task_jobs(engine: Engine, tasks: Sequence[str], count: int) -> list[Job]:
    """Problems of the pilot's tasks, in turn, so that a batch is mixed."""
    params = SamplingParams(temperature=0.0, max_tokens=256)
    jobs = []
    for problems in zip(*(evaluation_set(task, count) for task in tasks), strict=True):
        for problem in problems:
            request = ChatRequest(messages=problem.conversation, params=params)

            def constraint(request: ChatRequest = request) -> Constraint | None:
                return prepare_chat(engine, request).plan.constraint

            jobs.append(Job(prepare_chat(engine, request).prompt_ids, params, constraint))
    return jobs


def quoting(engine: Engine, seed: int, length: int) -> Job:
    """A passage of the prompt, repeated."""
    ids = random_ids(engine, seed, 2 * length)
    passage, end_id = ids[length // 2 : length // 2 + length], min(engine.end_ids)
    params = SamplingParams(temperature=0.0, max_tokens=length)
    return Job(ids, params, lambda: TokenAutomaton.from_choices([passage], end_id=end_id))


def drawing(engine: Engine, seed: int, length: int) -> Job:
    """Tokens that nothing foretells."""
    params = SamplingParams(temperature=2.0, max_tokens=length, ignore_eos=True, seed=seed, loop_detection="off")
    return Job(random_ids(engine, 1000 + seed, length), params, lambda: None)


def random_ids(engine: Engine, seed: int, count: int) -> list[int]:
    """Ids of ordinary tokens."""
    generator = random.Random(seed)
    usable = [id_ for id_ in range(300, engine.decoder.config.vocab_size) if id_ not in engine.end_ids]
    return [generator.choice(usable) for _ in range(count)]


def run(engine: Engine, jobs: Sequence[Job], streams: int) -> tuple[float, float]:
    """Tokens per second, and the share of drafts that were right; 0 where there were none."""
    before, tokens, seconds = engine.stats, 0, 0.0
    for first in range(0, len(jobs), streams):
        group = jobs[first : first + streams]
        waiting = {engine.add(job.prompt_ids, job.params, constraint=job.constraint()) for job in group}
        start: float | None = None
        while engine.has_work:
            outputs = engine.step()
            if start is not None:
                tokens += sum(len(output.token_ids) for output in outputs)
            waiting -= {output.request_id for output in outputs}
            if start is None and not waiting:
                start = time.perf_counter()
        assert start is not None
        seconds += time.perf_counter() - start
    drafted = engine.stats.drafted_tokens - before.drafted_tokens
    accepted = engine.stats.accepted_tokens - before.accepted_tokens
    return tokens / seconds, accepted / drafted if drafted else 0.0


if __name__ == "__main__":
    main()
