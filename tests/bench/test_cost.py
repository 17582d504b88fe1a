"""Cost per million tokens, and tables of prices."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepground.bench import PRICES_FILE, Expenses, read_prices
from deepground.errors import BenchError

ENTRY = 'model = "m"\ninput = 1\noutput = 2.5\ndate = "2026-01-01"\nsource = "s"\n'


def test_electricity_and_wear_add_up() -> None:
    # 500 W at 0.20 a kilowatt-hour are 0.10 an hour; 8766 over one year is 1.00 an hour.
    expenses = Expenses(watts=500, electricity_price=0.2, hardware_price=8766, lifetime_years=1)
    assert expenses.per_hour == pytest.approx(1.1)
    # 100 tokens a second are 0.36 million an hour.
    assert expenses.per_million_tokens(100) == pytest.approx(1.1 / 0.36)


def test_a_faster_machine_costs_less_per_token() -> None:
    expenses = Expenses(watts=100, electricity_price=0.3)
    assert expenses.per_million_tokens(20) == pytest.approx(expenses.per_million_tokens(10) / 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("watts", -1.0),
        ("electricity_price", -0.1),
        ("hardware_price", float("nan")),
        ("lifetime_years", 0.0),
    ],
)
def test_impossible_expenses_name_the_field(field: str, value: float) -> None:
    with pytest.raises(BenchError, match=field):
        Expenses(**{field: value})


def test_the_bundled_table_names_its_sources() -> None:
    prices = read_prices()
    assert len({price.model for price in prices}) == len(prices) >= 3
    for price in prices:
        assert price.source.startswith("https://")
        assert len(price.date) == 10
        assert price.cached_input is not None
        assert price.cached_input < price.input <= price.output


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(f"[[price]]\n{ENTRY}")
    (price,) = read_prices(path)
    assert (price.input, price.cached_input, price.output) == (1.0, None, 2.5)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no \\[\\[price\\]\\] entry"),
        ("price = 3", "no \\[\\[price\\]\\] entry"),
        ("[[price]", "cannot be read"),
        ("price = [1]", "price 1 is not a table"),
        (f"[[price]]\n{ENTRY}outpt = 2\n", "price 1 has the unknown field outpt"),
        (f"[[price]]\n{ENTRY}[[price]]\nmodel = 'x'\n", "price 2: input is None; give a number"),
        ("[[price]]\n" + ENTRY.replace("2.5", "-1"), "output is -1.0"),
        ("[[price]]\n" + ENTRY.replace("2.5", "nan"), "output is nan"),
        ("[[price]]\n" + ENTRY.replace("2.5", "true"), "output is True"),
        ("[[price]]\n" + ENTRY.replace('"m"', "7"), "model is 7; give a text"),
    ],
)
def test_a_wrong_table_names_file_and_field(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(BenchError, match=complaint) as caught:
        read_prices(path)
    assert "mine.toml" in str(caught.value)


def test_a_missing_table_tells_where_to_copy_one(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="copy") as caught:
        read_prices(tmp_path / "none.toml")
    assert str(PRICES_FILE) in str(caught.value)
