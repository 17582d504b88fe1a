"""Rows of files as people keep them: tables from spreadsheet programs of several countries, and damaged ones."""

from __future__ import annotations

import csv
import datetime
import zipfile
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from deepground.errors import TrainingError
from deepground.train.answering import FieldNames, read_questions, read_rows

TABLE = [["question", "answer"], ['He said "hi", how much?', "12.5"], ["運費多少？", "7"]]


def write_table(path: Path, rows: list[list[str]], *, encoding: str = "utf-8", separator: str = ",") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    return path


def write_sheet(path: Path, rows: list[list[Any]]) -> Path:
    book = Workbook()
    assert book.active is not None
    for row in rows:
        book.active.append(row)
    book.create_sheet("notes").append(["not read"])
    book.save(path)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_any_spreadsheet_program(tmp_path: Path, encoding: str, separator: str) -> None:
    path = write_table(tmp_path / "set.csv", TABLE, encoding=encoding, separator=separator)
    assert [(q.text, q.answer) for q in read_questions(path)] == [(row[0], row[1]) for row in TABLE[1:]]


def test_tab_separated_files_keep_their_commas(tmp_path: Path) -> None:
    path = write_table(tmp_path / "set.tsv", [["question", "a,b,c,d"], ["x?", "1"]], separator="\t")
    assert list(read_rows(path)) == [(2, {"question": "x?", "a,b,c,d": "1"})]


@pytest.mark.parametrize("header", [["Question ", " ANSWER"], ["問題", "答案"], ["題目", "解答"]])
def test_usual_names_of_columns(tmp_path: Path, header: list[str]) -> None:
    (question,) = read_questions(write_table(tmp_path / "set.csv", [header, ["1+1?", "2"]]))
    assert (question.text, question.answer) == ("1+1?", "2")


def test_columns_may_be_named_as_the_table_has_them(tmp_path: Path) -> None:
    path = write_table(tmp_path / "set.csv", [["Prompt", "Question ", "Solution"], ["x", "1+1?", "2"]])
    fields = FieldNames(question="Question ", answer="Solution")
    (question,) = read_questions(path, fields=fields)
    assert (question.text, question.answer) == ("1+1?", "2")


def test_workbook_cells_are_read_as_they_are_shown(tmp_path: Path) -> None:
    day, moment = datetime.date(2026, 5, 7), datetime.datetime(2026, 5, 7, 9, 30)
    cells: list[Any] = [12, 0.1 + 0.2, 1e-7, True, day, moment, "007", None]
    rows = [["question", "answer"], *([f"cell {i}?", cell] for i, cell in enumerate(cells))]
    answers = [row["answer"] for _, row in read_rows(write_sheet(tmp_path / "set.xlsx", rows))]
    assert answers == ["12", "0.3", "1e-07", "TRUE", "2026-05-07", "2026-05-07 09:30:00", "007", ""]


def test_rows_are_counted_as_the_spreadsheet_does(tmp_path: Path) -> None:
    rows = [["", ""], ["question", "answer"], ["a?", "1"], ["", " "], ["b\nc?", "2"], ["", "3"]]
    for path in (write_table(tmp_path / "set.csv", rows), write_sheet(tmp_path / "set.xlsx", rows)):
        assert [number for number, _ in read_rows(path)] == [3, 5, 6]
        with pytest.raises(TrainingError, match="row 6 has no question: .* the row has question, answer"):
            read_questions(path)


def test_all_repeats_are_named_at_once(tmp_path: Path) -> None:
    path = write_table(tmp_path / "set.csv", [*TABLE, TABLE[2], TABLE[1]])
    with pytest.raises(TrainingError, match="row 4 repeats row 3, row 5 repeats row 2; remove"):
        read_questions(path)
    path = write_table(tmp_path / "set.csv", [TABLE[0], *[TABLE[1]] * 30])
    with pytest.raises(TrainingError, match="row 22 repeats row 2 and 9 more; remove"):
        read_questions(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "set.csv",
            "問題,答案\n運費？,7\n".encode("big5"),
            "not UTF-8 text .* 'CSV UTF-8', or keep the table as .xlsx",
        ),
        ("set.csv", b"question,answer\nhow much, please?,7\n", 'row 2 has 3 cells and the first row 2; put "quotes"'),
        ("set.csv", b"question,answer,question\na,b,c\n", "row 1 names the column 'question' twice"),
        ("set.csv", b"", "holds no questions"),
        ("set.csv", b'question,answer\n"' + b"x" * 200_000 + b'",1\n', "no CSV file that can be read: field larger"),
        ("set.xlsx", b"PK not a zip", "no Excel workbook that can be read: .* take a password off"),
        ("set.xls", b"\xd0\xcf\x11\xe0", "must be a .jsonl, .*, .xlsx or .parquet file"),
        ("set.parquet", b"PAR1", "no Parquet file that can be read"),
    ],
)
def test_damaged_tables(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingError, match=message):
        read_questions(tmp_path / name)


def test_a_workbook_with_damaged_parts(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_sheet(tmp_path / "set.xlsx", TABLE)) as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    for damaged in ("xl/workbook.xml", "xl/worksheets/sheet1.xml", "[Content_Types].xml"):
        with zipfile.ZipFile(tmp_path / "set.xlsx", "w") as file:
            for name, content in parts.items():
                file.writestr(name, content[: len(content) // 2] if name == damaged else content)
        with pytest.raises(TrainingError, match="no Excel workbook that can be read"):
            read_questions(tmp_path / "set.xlsx")


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    path = write_table(tmp_path / "set.csv", [["Frage", "Antwort"], ["1+1?", "2"]])
    with pytest.raises(TrainingError, match="looked for Kunde, and the row has Frage, Antwort; name its column"):
        read_questions(path, fields=FieldNames(question="Kunde"))
