"""The rows of a file: JSONL, JSON, Parquet, and the tables that people keep: Excel workbooks, CSV and TSV."""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from deepground.errors import TrainingError

QUESTION_FIELDS = ("messages", "prompt", "question", "problem", "instruction", "query", "input", "問題", "題目")
ANSWER_FIELDS = (
    *("answer", "ground_truth", "expected", "expected_answer", "final_answer", "solution", "target", "答案", "解答"),
)
FILE_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".xlsx", ".parquet")
_KNOWN_FIELDS = frozenset(
    {
        *(*QUESTION_FIELDS, *ANSWER_FIELDS, "id", "grader", "cluster", "suite", "tools"),
        *("output", "completion", "response", "reasoning", "reasoning_content", "thinking", "system"),
    }
)
_SEPARATORS = ",;\t"
"""Of a .csv file: spreadsheet programs take the one of the country that they are set to."""


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file with their numbers, as an editor or a spreadsheet program counts them.

    Of a table, the first row names the columns; a usual name is known in any case, empty rows are passed over, and all
    cells are texts. Of a workbook, the first sheet is read, with the values that its formulas had when it was saved.

    Raises:
        TrainingError: the file cannot be read, is of another kind, or a row is damaged; names the row.
    """
    suffix = path.suffix.lower()
    kinds = f"{', '.join(FILE_KINDS[:-1])} or {FILE_KINDS[-1]}"
    if not path.is_file():
        raise TrainingError(f"{path} does not exist; name a {kinds} file")
    if suffix == ".parquet":
        yield from enumerate(_parquet_rows(path), start=1)
    elif suffix == ".xlsx":
        yield from _table_rows(path, _sheet(path), "")
    elif suffix in (".csv", ".tsv"):
        yield from _separated_rows(path, suffix)
    elif suffix == ".json":
        yield from enumerate(_json_rows(path), start=1)
    elif suffix in (".jsonl", ".ndjson"):
        for number, line in enumerate(_text(path).split("\n"), start=1):
            if line.strip():
                yield number, json_object(line, f"{path} line {number}")
    else:
        raise TrainingError(f"{path} must be a {kinds} file")


def table_column(name: str) -> str:
    """How the rows of a table call a column that its first row calls so: usual names in small letters."""
    name = name.strip()
    return name.lower() if name.lower() in _KNOWN_FIELDS else name


def json_object(text: str, where: str) -> dict[str, Any]:
    """The JSON object that a text is.

    Raises:
        TrainingError: it is anything else; `where` begins the message.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise TrainingError(f"{where} must hold an object")
    return value


def _text(path: Path, *, table: bool = False) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error}") from error
    marked = table and content.startswith((b"\xff\xfe", b"\xfe\xff"))  # Excel's "Unicode text"
    try:
        return content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrainingError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
            + (", which a spreadsheet program calls 'CSV UTF-8', or keep the table as .xlsx" if table else "")
        ) from error


def _separated_rows(path: Path, suffix: str) -> Iterator[tuple[int, dict[str, Any]]]:
    text = _text(path, table=True)
    header = text.split("\n", 1)[0]
    separator = "\t" if suffix == ".tsv" else max(_SEPARATORS, key=header.count)
    try:
        yield from _table_rows(path, csv.reader(io.StringIO(text, newline=""), delimiter=separator), separator)
    except csv.Error as error:
        raise TrainingError(f"{path} is no CSV file that can be read: {error}") from error


def _table_rows(path: Path, table: Iterable[Sequence[str]], separator: str) -> Iterator[tuple[int, dict[str, Any]]]:
    names: list[str] = []
    for number, cells in enumerate(table, start=1):
        if not any(cell.strip() for cell in cells):
            continue
        if not names:
            names = [table_column(name) for name in cells]
            twice = {name for name in names if name and names.count(name) > 1}
            if twice:
                raise TrainingError(f"{path} row {number} names the column {min(twice)!r} twice; rename one of them")
            continue
        if any(cell.strip() for cell in cells[len(names) :]):
            cure = f'; put "quotes" around texts that hold a {separator!r}' if separator else ""
            raise TrainingError(f"{path} row {number} has {len(cells)} cells and the first row {len(names)}{cure}")
        yield number, {name: cell for name, cell in zip(names, cells, strict=False) if name}


def _sheet(path: Path) -> list[list[str]]:
    try:
        from openpyxl.reader.excel import load_workbook
    except ImportError as error:
        raise TrainingError("Excel workbooks need openpyxl; run: pip install 'deepground[train]'") from error
    try:
        with path.open("rb") as file:
            workbook = load_workbook(file, read_only=True, data_only=True)  # type: ignore[no-untyped-call]
            return [[_cell(value) for value in row] for row in workbook.worksheets[0].iter_rows(values_only=True)]
    except Exception as error:  # A damaged workbook fails anywhere in openpyxl, in its XML or ZIP reader, or in a type.
        raise TrainingError(
            f"{path} is no Excel workbook that can be read: {error}; take a password off it, or save it as 'CSV UTF-8'"
        ) from error


def _cell(value: Any) -> str:
    """The text that a spreadsheet shows in a cell of the format that it chooses by itself."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).upper()
        case float():
            return format(value, ".15g")  # The digits that Excel keeps; a sum of cents is not 0.30000000000000004.
        case datetime.datetime() if value.time() == datetime.time():
            return value.date().isoformat()
        case _:
            return str(value)


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        rows = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path} is not JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TrainingError(f"{path} must hold a list of objects")
    yield from rows


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow.lib import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise TrainingError("Parquet files need pyarrow; run: pip install 'deepground[train]'") from error
    try:
        with ParquetFile(path) as file:  # type: ignore[no-untyped-call]
            for batch in file.iter_batches(batch_size=1000):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise TrainingError(f"{path} is no Parquet file that can be read: {error}") from error
