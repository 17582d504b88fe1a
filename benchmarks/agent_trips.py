"""Whole runs of the agent on held-out trip requests in two languages, each verified against what was really asked.

    deepground serve --port 8124
    python benchmarks/agent_trips.py --url http://127.0.0.1:8124 --n 60

The requests come from the generator's `test` split: city names and half of the wordings are not in the pilot's
training. Kept are those that name cities and dates of the planner's database and no sight (the generator makes sights
up). Whether a request can be met is found out first, by the planner with the true constraints.

A request that can be met is a success if the run ends as completed and its plan passes the checker against the true
constraints, not those that the model wrote. One that cannot be met is a success if the run ends without claiming
success, the model says that it cannot be done, and the planner had been asked with the true constraints.
"""

from __future__ import annotations

import datetime as dt
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

from deepground.agent.outcome import Budget, Outcome
from deepground.agent.session import RunSettings, open_run
from deepground.agent.trajectory import read_events
from deepground.agent.travel.candidates import resolve
from deepground.agent.travel.checker import check_plan
from deepground.agent.travel.generate import default_world
from deepground.agent.travel.itinerary import read_plan
from deepground.agent.travel.request import TripRequest, read_request
from deepground.agent.travel.tools import PLAN_FILE
from deepground.agent.travel.trip import plan_trip
from deepground.agent.travel.world import World
from deepground.errors import TripRequestError
from deepground.tasks.entities import Language
from deepground.tasks.trips import TripAgent
from deepground.train import wilson_interval


@dataclass(frozen=True)
class TripTask:
    """A request as a person writes it, and what it asks for."""

    text: str
    request: TripRequest
    language: str
    possible: bool


def draw_tasks(n: int, seed: int, world: World, today: dt.date) -> Iterator[TripTask]:
    """Different requests of the test split."""
    seen: set[str] = set()
    while len(seen) < n:
        seed += 1
        rng = Random(f"trip {seed}")
        language: Language = "zh" if seed % 2 else "en"
        _, arguments, text = TripAgent().request(rng, "test", rng.randint(1, 4), language)
        if "must_see" in arguments or text in seen:
            continue
        try:
            request = read_request(dict(arguments))
            result = plan_trip(request, world, today)
        except TripRequestError:
            continue
        seen.add(text)
        yield TripTask(text, request, language, result.plan is not None)


def carry_out(task: TripTask, settings: RunSettings, runs: Path, world: World, today: dt.date) -> tuple[Outcome, bool]:
    """One run, and whether it is a success."""
    with open_run(task.text, settings, runs=runs) as run:
        outcome = run.run()
    folder = runs / outcome.run_id
    if task.possible:
        path = folder / "files" / PLAN_FILE
        if outcome.status != "completed" or not path.is_file():
            return outcome, False
        return outcome, check_plan(read_plan(path.read_text()), task.request, world, today).passed
    asked = [
        event["data"]["request"]
        for event in read_events(folder)
        if event["type"] == "tool_result" and event["name"] == "plan_trip" and isinstance(event["data"], dict)
    ]
    right = bool(asked) and same(read_request(asked[-1]), task.request, world, today)
    return outcome, right and outcome.status == "incomplete" and "cannot" in outcome.reason


def same(one: TripRequest, two: TripRequest, world: World, today: dt.date) -> bool:
    """Whether two requests ask for the same: names in any spelling, lists as sets."""
    a, b = (resolve(request, world, today) for request in (one, two))
    if (a.origin, set(a.cities), set(a.must_see)) != (b.origin, set(b.cities), set(b.must_see)):
        return False
    names = set(TripRequest.model_fields) - {"origin", "destinations", "must_see", "start", "currency"}
    pairs = [(getattr(one, name), getattr(two, name)) for name in names]
    agree = [set(x) == set(y) if isinstance(x, list) else x == y for x, y in pairs]
    return all(agree) and (a.start, a.currency) == (b.start, b.currency)


def main(
    url: Annotated[str, typer.Option(help="Endpoint, without /v1.")] = "http://127.0.0.1:8000",
    n: Annotated[int, typer.Option("--n", min=1, help="Requests.")] = 60,
    seed: Annotated[int, typer.Option(help="Of the requests.")] = 7_000_000,
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side.")] = 1,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Run and report."""
    world, today = default_world(), dt.date.today()
    tasks = list(draw_tasks(n, seed, world, today))
    settings = RunSettings(base_url=f"{url}/v1", budget=Budget(steps=20, seconds=300.0))
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(jobs) as pool:
        runs = Path(scratch)
        done = list(pool.map(lambda task: carry_out(task, settings, runs, world, today), tasks))
    report: dict[str, Any] = {"n": n, "seed": seed, "seconds": round(time.monotonic() - start, 1)}
    groups = {
        "can be met": [task.possible for task in tasks], "cannot be met": [not task.possible for task in tasks],
        "English": [task.language == "en" for task in tasks], "Chinese": [task.language == "zh" for task in tasks],
        "all": [True] * n,
    }  # fmt: skip
    for name, chosen in groups.items():
        some = [success for (_, success), inside in zip(done, chosen, strict=True) if inside]
        if some:
            low, high = wilson_interval(sum(some), len(some))
            report[name] = {"n": len(some), "succeeded": sum(some), "interval": [low, high]}
            print(f"{name}: {sum(some)}/{len(some)} = {sum(some) / len(some):.1%} ({low:.1%} to {high:.1%})")
    claims = sum(outcome.status == "completed" and not success for outcome, success in done)
    report |= {
        "ends": dict(Counter(outcome.status for outcome, _ in done)), "wrongly completed": claims,
        "mean steps": sum(outcome.spent.steps for outcome, _ in done) / n,
        "failed": [task.text for task, (_, success) in zip(tasks, done, strict=True) if not success],
    }  # fmt: skip
    print(json.dumps(report, ensure_ascii=False, indent=1))
    if output is not None:
        output.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
