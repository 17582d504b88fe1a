"""`deepground agent trip-data`: the database that trips are planned with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

trip_data = typer.Typer(help="The database of places and timetables that trips are planned with.", no_args_is_help=True)
Output = Annotated[Path, typer.Argument(help="SQLite file to write.", dir_okay=False)]


@trip_data.command()
def build(
    output: Output,
    region: Annotated[
        list[Path] | None, typer.Option(help="Folder of places; may be given several times. Else the bundled ones.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is made up.")] = 7,
) -> None:
    """Make a database: real places; timetables, prices, stays and restaurants are made up from the seed."""
    from deepground.agent.travel.generate import REGIONS, create_world

    world = create_world(output, region or REGIONS, seed=seed)
    print(f"{len(world.cities)} cities, {len(world.lines)} lines, {len(world.sights)} sights: {output}")


@trip_data.command()
def gtfs(
    feed: Annotated[Path, typer.Argument(help="Folder or zip of a GTFS feed.", exists=True)],
    output: Output,
    name: Annotated[str, typer.Option(help="Short name of the feed, the beginning of its ids.")] = "gtfs",
    database: Annotated[
        Path | None, typer.Option(help="Database to add it to; else the bundled one.", exists=True)
    ] = None,
    keep_generated: Annotated[
        bool, typer.Option("--keep-generated", help="Keep the made-up lines of its region beside it.")
    ] = False,
) -> None:
    """Put a real timetable into a database."""
    import tempfile

    from deepground.agent.travel.generate import create_world
    from deepground.agent.travel.gtfs import load_gtfs

    with tempfile.TemporaryDirectory() as scratch:
        bundled = Path(scratch) / "bundled.sqlite"
        if database is None:
            create_world(bundled)
        report = load_gtfs(feed, database or bundled, output, name=name, replace=not keep_generated)
    print(
        f"{report.lines} lines, {report.services} services, {report.stations} stations, "
        f"{report.first_date} to {report.last_date}; fares: {report.fares}"
    )
    for what, count in report.left_out.items():
        print(f"left out: {count} {what}")
