"""`deepground bench`: speed beside the machine's limits, and what a token costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deepground.cli.options import Dtype, DtypeOption, ModelFolder, ThreadsOption

if TYPE_CHECKING:
    from deepground.bench import BenchReport, Expenses, FirstToken, Rate

_QUIET = 0.05
"""Of the processors' time: what others may take without a warning."""


def bench(
    model: ModelFolder = None,
    streams: Annotated[str, typer.Option(help="Requests that decode at the same time, by commas.")] = "1,2,4,8,16",
    prefill: Annotated[str, typer.Option(help="Lengths of prompts to prefill, by commas.")] = "512,2048",
    context: Annotated[int, typer.Option(min=1, help="Tokens of the long prompt, if the model takes them.")] = 4096,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens that each request decodes.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Times that everything is measured; medians count.")] = 3,
    dtype: DtypeOption = Dtype.AUTO,
    threads: ThreadsOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the results to this JSON file.")] = None,
    watts: Annotated[float | None, typer.Option(min=0, help="Power drawn at the wall while the model runs.")] = None,
    electricity_price: Annotated[float, typer.Option(min=0, help="Of a kilowatt-hour, in US dollars.")] = 0.15,
    hardware_price: Annotated[float | None, typer.Option(min=0, help="Of the machine, in US dollars.")] = None,
    lifetime_years: Annotated[float, typer.Option(min=0.01, help="Years over which that price is spread.")] = 5.0,
    prices: Annotated[
        Path | None, typer.Option(help="TOML file of API prices to set the cost beside; else the bundled one.")
    ] = None,
) -> None:
    """Measure a model's speed, beside what this machine's memory and arithmetic allow."""
    from deepground.bench import BenchConfig, read_prices, run_bench

    expenses = _expenses(watts, electricity_price, hardware_price, lifetime_years)
    if expenses is None and prices is not None:
        raise typer.BadParameter("has no meaning without --watts or --hardware-price", param_hint="--prices")
    # Read before anything is measured, so that a mistake in it is told at once.
    table = read_prices(prices)
    config = BenchConfig(
        streams=_numbers(streams, "--streams"),
        prefill_tokens=_numbers(prefill, "--prefill"),
        context_tokens=context,
        new_tokens=new_tokens,
        rounds=rounds,
    )
    console, progress = Console(), Console(stderr=True)

    def show(rate: Rate) -> None:
        progress.print(f"{_name(rate)}, {rate.context} tokens: {rate.tokens_per_s:,.1f} tokens/s", highlight=False)

    report = run_bench(model, config, dtype=dtype.value, threads=threads, on_rate=show)
    _print(console, report)
    content = report.as_json()
    if expenses is not None:
        content["cost"] = cost = _costs(report, expenses)
        console.print(_cost_table(cost, [vars(price) for price in table]))
        console.print(f"{expenses.per_hour:.4f} dollars an hour, the machine busy all the time.", highlight=False)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(content, indent=2) + "\n")


def _expenses(
    watts: float | None, electricity_price: float, hardware_price: float | None, lifetime_years: float
) -> Expenses | None:
    """What the machine costs; None where nobody asked."""
    from deepground.bench import Expenses

    if watts is None and hardware_price is None:
        return None
    return Expenses(
        watts=watts or 0.0,
        electricity_price=electricity_price,
        hardware_price=hardware_price or 0.0,
        lifetime_years=lifetime_years,
    )


def _print(console: Console, report: BenchReport) -> None:
    console.print(_heading(report), highlight=False)
    console.print(_speed_table(report))
    console.print(_first_token_table(report.first_tokens))
    console.print(_memory_line(report), highlight=False)
    if report.foreign_share > _QUIET:
        console.print(
            f"[yellow]Other programs took {report.foreign_share:.0%} of the processors' time: speeds are too low.[/]"
        )


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"{text!r} is no list of numbers such as 1,8,16", param_hint=option)
    return numbers


def _name(rate: Rate) -> str:
    if rate.kind == "prefill":
        return "prefill"
    return "decode, 1 stream" if rate.streams == 1 else f"decode, {rate.streams} streams"


def _heading(report: BenchReport) -> str:
    machine, limits = report.machine, report.limits
    return (
        f"{report.model}; {machine.cpu}, {limits.threads} thread(s), {limits.instruction_set}; {report.date}\n"
        f"this machine: {limits.read_bytes_per_s / 1e9:.1f} GB/s read from memory, "
        f"{limits.flops_per_s / 1e9:,.0f} GFLOP/s\n"
        f"loaded in {report.load_s:.1f} s, {report.disk_bytes / 1e9:.2f} GB on disk"
    )


def _speed_table(report: BenchReport) -> Table:
    table = Table("", "context", "tokens/s", "ms/step", "limit", "of it", "bound by")
    for rate in report.rates:
        table.add_row(
            _name(rate),
            str(rate.context),
            f"{rate.tokens_per_s:,.1f}",
            f"{rate.step_ms:,.2f}",
            f"{rate.limit_tokens_per_s:,.1f}",
            f"{rate.fraction:.0%}",
            rate.bound,
        )
    return table


def _first_token_table(times: tuple[FirstToken, ...]) -> Table:
    table = Table("First token", "prompt", "from the cache", "seconds", "of cold")
    names = {"cold": "cold", "memory": "prefix in memory", "disk": "prefix on disk after restart"}
    for time in times:
        table.add_row(
            names[time.cache],
            str(time.prompt_tokens),
            str(time.hit_tokens),
            f"{time.seconds:.3f}",
            f"{time.seconds / times[0].seconds:.0%}",
        )
    return table


def _memory_line(report: BenchReport) -> str:
    memory = report.memory
    disk = f" ({memory.on_disk / 2**20:,.0f} of them on disk, whose speed is no part of the limits)"
    return (
        f"memory: weights {memory.weights / 2**20:,.0f} MiB{disk if memory.on_disk else ''}, "
        f"cache {memory.cache / 2**20:,.0f} MiB ({memory.cache_per_token / 1024:.1f} KiB per token), "
        f"whole process at its peak {memory.peak_resident / 2**20:,.0f} MiB"
    )


def _costs(report: BenchReport, expenses: Expenses) -> dict[str, Any]:
    """Dollars per million tokens."""
    best, single = report.best_decode, report.rate("decode", 1)
    prefill = next((rate for rate in report.rates if rate.kind == "prefill"), None)
    rows = {f"{best.streams} streams": best} | ({"1 stream": single} if single else {})
    return {
        "per_hour": expenses.per_hour,
        "output": {name: expenses.per_million_tokens(rate.tokens_per_s) for name, rate in rows.items()},
        "input": expenses.per_million_tokens(prefill.tokens_per_s) if prefill else None,
    }


def _cost_table(cost: dict[str, Any], prices: list[dict[str, Any]]) -> Table:
    table = Table("US dollars per million tokens", "input", "cached input", "output", "as of")
    own_input = "-" if cost["input"] is None else f"{cost['input']:.2f}"
    for name, dollars in cost["output"].items():
        table.add_row(f"[bold]here, {name}[/]", own_input, "-", f"{dollars:.2f}", "")
    for price in prices:
        cached = "-" if price["cached_input"] is None else f"{price['cached_input']:.3f}"
        table.add_row(price["model"], f"{price['input']:.2f}", cached, f"{price['output']:.2f}", price["date"])
    return table
