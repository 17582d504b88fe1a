"""Reads the files of a GTFS feed (gtfs.org/documentation/schedule/reference), from a folder or a zip.

Rows come one by one, so that a feed of gigabytes needs little memory. A mistake is reported with its file, line and
cure.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepground.errors import TripDataError

_TIME = re.compile(r" ?(\d{1,3}):([0-5]\d):([0-5]\d)")
_LONGEST_LINE = 100_000


@dataclass(frozen=True)
class GtfsRow:
    """One row; its readers name the column when a value is wrong."""

    file: str
    line: int
    values: dict[str, str]

    def text(self, column: str) -> str:
        """A value that must be there."""
        value = self.values.get(column, "").strip()
        if not value:
            raise self.error(f"{column} is empty")
        return value

    def optional(self, column: str) -> str:
        """A value that may be missing."""
        return self.values.get(column, "").strip()

    def number(self, column: str, low: float, high: float) -> float:
        """A number in a range."""
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            raise self.error(f"{column} is {text!r}, not a number") from None
        if not low <= value <= high:
            raise self.error(f"{column} is {text}; it must be from {low:g} to {high:g}")
        return value

    def integer(self, column: str, *, default: int | None = None) -> int:
        """A whole number."""
        text = self.optional(column)
        if not text and default is not None:
            return default
        try:
            return int(text)
        except ValueError:
            raise self.error(f"{column} is {text!r}, not a whole number") from None

    def minutes(self, column: str) -> int | None:
        """A time of day in minutes, 24:00 and more for the next day; None if it is empty."""
        text = self.optional(column)
        if not text:
            return None
        match = _TIME.fullmatch(text)
        if match is None:
            raise self.error(f"{column} is {text!r}; write HH:MM:SS")
        return int(match[1]) * 60 + int(match[2])

    def date(self, column: str) -> dt.date:
        """A date written YYYYMMDD."""
        text = self.text(column)
        try:
            return dt.datetime.strptime(text, "%Y%m%d").date()
        except ValueError:
            raise self.error(f"{column} is {text!r}; write YYYYMMDD") from None

    def error(self, problem: str) -> TripDataError:
        """What to raise for this row."""
        return TripDataError(f"{problem}; correct the feed", file=self.file, line=self.line)


class Feed:
    """The files of a feed.

    Args:
        source: a folder, or a zip as feeds are published.

    Raises:
        TripDataError: it is neither, or a file that every feed has is missing.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._zip: zipfile.ZipFile | None = None
        if source.is_dir():
            self._names = {path.name: path.name for path in source.iterdir()}
        else:
            try:
                self._zip = zipfile.ZipFile(source)
            except (OSError, zipfile.BadZipFile) as error:
                raise TripDataError(f"neither a folder nor a zip ({error})", file=str(source)) from None
            self._names = {Path(name).name: name for name in self._zip.namelist() if not name.startswith("__MACOSX")}
        for name in ("agency.txt", "stops.txt", "routes.txt", "trips.txt", "stop_times.txt"):
            if name not in self._names:
                raise TripDataError(f"has no {name}, which every GTFS feed has", file=str(source))
        if not {"calendar.txt", "calendar_dates.txt"} & set(self._names):
            raise TripDataError("has neither calendar.txt nor calendar_dates.txt", file=str(source))

    def close(self) -> None:
        """Let go of the file."""
        if self._zip is not None:
            self._zip.close()

    def rows(self, name: str) -> Iterator[GtfsRow]:
        """The rows of a file; none if the feed lacks it.

        Raises:
            TripDataError: it is not UTF-8, a row has too many values, or it cannot be read.
        """
        if name not in self._names:
            return
        binary = self._zip.open(self._names[name]) if self._zip else (self.source / self._names[name]).open("rb")
        with io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as text:
            lines = csv.reader(text)
            try:
                header = [column.strip() for column in next(lines, [])]
                for values in lines:
                    if not any(values):
                        continue
                    if len(values) > len(header) or sum(map(len, values)) > _LONGEST_LINE:
                        raise TripDataError("has more values than columns", file=name, line=lines.line_num)
                    yield GtfsRow(name, lines.line_num, dict(zip(header, values, strict=False)))
            except UnicodeDecodeError as error:
                raise TripDataError(f"is not UTF-8 ({error.reason}); convert it", file=name) from None
            except (csv.Error, zipfile.BadZipFile, OSError) as error:
                raise TripDataError(f"cannot be read: {error}", file=name, line=lines.line_num) from None
