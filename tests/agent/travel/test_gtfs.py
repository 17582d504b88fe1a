"""Real timetables: a small feed with what feeds have, and feeds that are damaged."""

from __future__ import annotations

import datetime as dt
import zipfile
from pathlib import Path

import pytest

from deepground.agent.travel.generate import create_world
from deepground.agent.travel.gtfs import GtfsReport, load_gtfs
from deepground.agent.travel.itinerary import Travel
from deepground.agent.travel.journeys import Timetable
from deepground.agent.travel.planner import Limits
from deepground.agent.travel.request import read_request
from deepground.agent.travel.trip import plan_trip
from deepground.agent.travel.world import World
from deepground.errors import TripDataError

MONDAY, SUNDAY = dt.date(2026, 3, 9), dt.date(2026, 3, 15)
FEED = {
    "agency.txt": "\ufeffagency_id,agency_name,agency_url,agency_timezone\nA,Rail,http://example.org,Asia/Taipei\n",
    "stops.txt": "stop_id,stop_name,stop_lat,stop_lon,location_type,parent_station,zone_id\n"
    "TPE,Taipei Rail,25.0478,121.517,1,,\nTPE1,Platform 1,25.0478,121.517,0,TPE,north\n"
    "TNN,Tainan Rail,22.997,120.212,0,,south\nTNN2,Tainan Suburb,22.99,120.22,0,,south\n"
    "SEA,Nowhere,24.0,118.0,,,\n",
    "routes.txt": "route_id,agency_id,route_short_name,route_long_name,route_type\n"
    "R,A,WL,Western Line,2\nN,A,Night,,3\nM,A,Metro,,1\n",
    "trips.txt": "route_id,service_id,trip_id,trip_short_name\n"
    "R,WD,T1,101\nR,WD,T2,\nN,ALL,T3,\nM,ALL,T4,\nR,ALL,T5,\n",
    "stop_times.txt": "trip_id,arrival_time,departure_time,stop_id,stop_sequence,pickup_type,drop_off_type\n"
    "T1,,08:00:00,TPE1,1,0,1\nT1,,,SEA,2,,\nT1,11:30:00,,TNN,5,1,0\n"
    "T3,25:10:00,25:10:00,TPE1,1,,\nT3,29:00:00,29:00:00,TNN,2,,\n"
    "T2,19:30:00,19:30:00,TPE1,9,,\nT2,16:00:00,16:00:00,TNN,3,,\n"
    "T4,08:00:00,08:00:00,TPE1,1,,\nT4,08:05:00,08:05:00,TPE1,2,,\n"
    "T5,09:00:00,09:00:00,TNN,1,,\nT5,09:20:00,09:20:00,TNN2,2,,\n",
    "calendar.txt": "service_id,monday,tuesday,wednesday,thursday,friday,saturday,sunday,start_date,end_date\n"
    "WD,1,1,1,1,1,0,0,20260301,20260630\n",
    "calendar_dates.txt": "service_id,date,exception_type\nWD,20260310,2\nWD,20260315,1\n"
    + "".join(f"ALL,202603{day:02d},1\n" for day in range(1, 32)),
    "frequencies.txt": "trip_id,start_time,end_time,headway_secs\nT2,13:00:00,17:00:00,7200\n",
    "fare_attributes.txt": "fare_id,price,currency_type,payment_method,transfers\nF,738,TWD,0,\n",
    "fare_rules.txt": "fare_id,route_id,origin_id,destination_id\nF,R,north,south\nF,R,south,north\n",
    "transfers.txt": "from_stop_id,to_stop_id,transfer_type,min_transfer_time\nTPE1,TPE1,2,420\n",
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world") / "world.sqlite"
    create_world(path)
    return path


def write(folder: Path, **changes: str | None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in {**FEED, **{f"{key}.txt": value for key, value in changes.items()}}.items():
        if text is not None:
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def load(database: Path, tmp_path: Path, *, replace: bool = True, **changes: str | None) -> tuple[World, GtfsReport]:
    output = tmp_path / "out.sqlite"
    report = load_gtfs(write(tmp_path / "feed", **changes), database, output, name="rail", replace=replace)
    return World(output), report


def departures(world: World, date: dt.date, *, south: bool = True) -> list[str]:
    ends = ("taipei", "tainan") if south else ("tainan", "taipei")
    rides = Timetable(world, "TWD").rides(date).get(ends, [])
    return [ride.service_id for ride in rides]


def test_a_feed_takes_the_place_of_the_made_up_lines(database: Path, tmp_path: Path) -> None:
    world, report = load(database, tmp_path)
    assert (report.lines, report.fares) == (2, "table")
    assert report.left_out == {
        "stops outside the cities": 1, "lines of local transport": 1, "trips within one city": 1,
    }  # fmt: skip
    assert (report.first_date, report.last_date) == (dt.date(2026, 3, 1), dt.date(2026, 6, 30))
    assert departures(world, MONDAY) == ["rail:T3", "rail:T1"]  # the first left on Sunday's timetable at 25:10
    assert departures(world, dt.date(2026, 3, 10)) == ["rail:T3"]  # an exception takes the weekday away
    assert departures(world, SUNDAY) == ["rail:T3", "rail:T1"]  # and one adds it
    assert departures(world, MONDAY, south=False) == ["rail:T2#0", "rail:T2#1"]
    (price,) = {ride.fare for ride in Timetable(world, "TWD").rides(MONDAY)["tainan", "taipei"]}
    assert price == 738
    assert world.transfers["rail:TPE", "rail:TPE"] == 7
    assert not world.generated or "gtfs" in world.meta["origins"]


def test_a_trip_is_planned_and_verified_with_it(database: Path, tmp_path: Path) -> None:
    world, _ = load(database, tmp_path)
    fields = {"origin": "Taipei", "destinations": ["Tainan"], "days": 2, "start": "2026-03-11", "daily_start": "07:00"}
    request = read_request(fields)
    result = plan_trip(request, world, MONDAY, Limits(work=1.0))
    assert result.plan is not None
    journeys = [item for day in result.plan.days for item in day.items if isinstance(item, Travel)]
    rides = [ride.service for journey in journeys for ride in journey.rides]
    assert rides[0] == "rail:T1"
    assert rides[-1].startswith("rail:T2#")


def test_a_zip_and_lines_beside_the_made_up_ones(database: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "feed", frequencies=None, fare_rules=None, fare_attributes=None, transfers=None)
    archive = tmp_path / "feed.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for path in folder.iterdir():
            if path.name not in {"frequencies.txt", "fare_rules.txt", "fare_attributes.txt", "transfers.txt"}:
                target.write(path, f"inner/{path.name}")
    report = load_gtfs(archive, database, tmp_path / "out.sqlite", name="rail", replace=False)
    assert report.fares == "estimated"
    found = departures(World(tmp_path / "out.sqlite"), MONDAY)
    assert "rail:T1" in found
    assert any(not service.startswith("rail:") for service in found)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("stops", "25.0478,121.517,1", "95,121.517,1", "stops.txt line 2: stop_lat is 95"),
        ("stops", "0,TPE,north", "0,XXX,north", "stops.txt line 3: parent_station 'XXX'"),
        ("stop_times", "T1,,08:00:00", "T1,,8am", "stop_times.txt line 2: departure_time is '8am'"),
        ("stop_times", "11:30:00,,TNN", "07:30:00,,TNN", "stop_times.txt line 4: trip 'T1' goes back in time"),
        ("stop_times", "T1,,08:00:00,TPE1", "T1,,08:00:00,ZZZ", "stop_times.txt line 2: stop_id 'ZZZ'"),
        ("calendar", "20260630", "20260631", "calendar.txt line 2: end_date is '20260631'"),
        ("calendar", "20260301,20260630", "20260630,20260301", "end_date is before start_date"),
        ("calendar_dates", "WD,20260310,2", "WD,20260310,3", "exception_type is 3"),
        ("trips", "R,WD,T1", "R,QQ,T1", "trips.txt line 2: service_id 'QQ' is in no calendar"),
        ("routes", "Western Line,2", "Western Line,train", "route_type is 'train'"),
        ("frequencies", "7200", "0", "frequencies.txt line 2"),
        ("agency", "Asia/Taipei", "", "agency_timezone is empty"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(
    database: Path, tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    text = FEED[f"{name}.txt"]
    assert old in text
    with pytest.raises(TripDataError) as caught:
        load(database, tmp_path, **{name: text.replace(old, new, 1)})
    assert message in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["feed"]


def test_feeds_that_are_none(database: Path, tmp_path: Path) -> None:
    (tmp_path / "not.zip").write_bytes(b"no")
    for source, message in ((tmp_path / "not.zip", "neither a folder nor a zip"), (tmp_path, "has no agency.txt")):
        with pytest.raises(TripDataError, match=message):
            load_gtfs(source, database, tmp_path / "out.sqlite", name="rail")
    far = FEED["stops.txt"].replace("25.0478", "52.5").replace("22.99", "52.6")
    with pytest.raises(TripDataError, match="serves no two cities"):
        load(database, tmp_path, stops=far)
