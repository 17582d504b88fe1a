"""Finds the best plan for a request, or says which wishes cannot be met together and what comes nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ortools.sat.python import cp_model

from deepground.agent.travel.candidates import Choices
from deepground.agent.travel.itinerary import Plan
from deepground.agent.travel.solver_extract import extract_plan
from deepground.agent.travel.solver_model import TripModel
from deepground.agent.travel.world import World

_GAP = 20
SOLVED = (cp_model.OPTIMAL, cp_model.FEASIBLE)


@dataclass(frozen=True)
class Limits:
    """How long the solver may search. The same limits and seed give the same plan on every machine."""

    work: float = 3.0
    """Solver work for one plan in its own deterministic units; one is about a second."""
    seed: int = 1
    seconds: float = 30.0
    """Wall-clock limit of one search, for a machine that is too slow; reaching it may change the plan."""


@dataclass(frozen=True)
class Outcome:
    """A plan, or none, and how sure that is: `optimal`, `feasible`, `infeasible` or `unknown`."""

    plan: Plan | None
    status: str


def search(trip: TripModel, limits: Limits, work: float, **parameters: Any) -> tuple[cp_model.CpSolver, Any]:
    """Runs the solver in one thread."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = limits.seed
    solver.parameters.max_deterministic_time = work
    solver.parameters.max_time_in_seconds = limits.seconds
    for name, value in parameters.items():
        setattr(solver.parameters, name, value)
    return solver, solver.solve(trip.model)


def best_plan(choices: Choices, world: World, limits: Limits) -> Outcome:
    """Searches in three steps: an outline of nights and days; the best order for it; and what lies around that.

    An outline without ways is weaker than the exact model, so that its infeasibility is proof.
    """
    outline = TripModel(choices, world, gap=_GAP)
    outline.model.maximize(outline.quality)
    guide, status = search(outline, limits, limits.work * 0.3, linearization_level=0)
    exact = TripModel(choices, world)
    exact.model.maximize(exact.quality)
    best: cp_model.CpSolver | None = None
    if status in SOLVED:
        _follow(exact, outline, guide)
        solver, status = search(
            exact, limits, limits.work * 0.3, linearization_level=0, fix_variables_to_their_hinted_value=True
        )
        exact.model.clear_hints()
        best = solver if status in SOLVED else None
    elif _impossible(choices, world, limits):
        return Outcome(None, "infeasible")
    if best is not None:
        _hint(exact, best)
    solver, status = search(exact, limits, limits.work * (0.4 if best else 1), interleave_search=True)
    if status in SOLVED and (best is None or solver.objective_value >= best.objective_value):
        best = solver
    if best is not None:
        return Outcome(extract_plan(exact, best, world), "optimal" if status == cp_model.OPTIMAL else "feasible")
    return Outcome(None, "infeasible" if status == cp_model.INFEASIBLE else "unknown")


def _impossible(choices: Choices, world: World, limits: Limits) -> bool:
    """Whether no plan exists even if ways within cities took no time."""
    _, status = search(TripModel(choices, world, gap=0), limits, limits.work * 0.5)
    return bool(status == cp_model.INFEASIBLE)


def _follow(exact: TripModel, outline: TripModel, guide: cp_model.CpSolver) -> None:
    """Hints the nights and cities of an outline to the exact model."""
    exact.model.clear_hints()
    for key, literal in outline.route.night.items():
        exact.model.add_hint(exact.route.night[key], guide.boolean_value(literal))
    for place, literal in outline.route.middle.items():
        exact.model.add_hint(exact.route.middle[place], guide.boolean_value(literal))


def _hint(trip: TripModel, solver: cp_model.CpSolver) -> None:
    """Starts the next search from a solution."""
    trip.model.clear_hints()
    for index, value in enumerate(solver.response_proto.solution):
        trip.model.add_hint(trip.model.get_int_var_from_proto_index(index), value)
