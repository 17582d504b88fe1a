"""What a million tokens cost on a machine of one's own, beside what hosted models ask."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepground.errors import BenchError

PRICES_FILE = Path(__file__).with_name("prices.toml")
"""The table that comes with the package; copy and edit it."""

_HOURS_PER_YEAR = 8766


@dataclass(frozen=True, kw_only=True)
class Expenses:
    """What running the machine takes. Money is in the currency of the price table.

    Raises:
        BenchError: a number is negative, or the lifetime is not positive; names the field.
    """

    watts: float = 0.0
    """Drawn at the wall while the model runs."""
    electricity_price: float = 0.0
    """Of a kilowatt-hour."""
    hardware_price: float = 0.0
    """Of the machine, or of the part of it that is used."""
    lifetime_years: float = 5.0
    """Over which the price is spread evenly."""

    def __post_init__(self) -> None:
        for name in ("watts", "electricity_price", "hardware_price"):
            if not getattr(self, name) >= 0:
                raise BenchError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if not self.lifetime_years > 0:
            raise BenchError(f"lifetime_years is {self.lifetime_years}; it must be more than 0")

    @property
    def per_hour(self) -> float:
        """Electricity and wear of one hour."""
        return self.watts / 1000 * self.electricity_price + self.hardware_price / self.lifetime_years / _HOURS_PER_YEAR

    def per_million_tokens(self, tokens_per_s: float) -> float:
        """Cost of a million tokens at a speed that is kept up all the time; an idle machine costs more per token."""
        return self.per_hour / (tokens_per_s * 3600) * 1_000_000


@dataclass(frozen=True, kw_only=True)
class ApiPrice:
    """What a hosted model costs, per million tokens."""

    model: str
    input: float
    """Of the prompt."""
    cached_input: float | None = None
    """Of prompt tokens that the host's own prefix cache had; None: no such price."""
    output: float
    date: str
    """On which the source said so."""
    source: str


def read_prices(path: Path | None = None) -> list[ApiPrice]:
    """A table of prices.

    Args:
        path: a TOML file with [[price]] tables; None: the one that comes with the package.

    Raises:
        BenchError: the file cannot be read, or an entry lacks a field or has a wrong one; names both.
    """
    path = path or PRICES_FILE
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BenchError(f"{path}: the price table cannot be read ({error}); copy {PRICES_FILE} and edit it") from error
    entries = table.get("price")
    if not isinstance(entries, list) or not entries:
        raise BenchError(f"{path}: the price table has no [[price]] entry; copy {PRICES_FILE} and edit it")
    return [_price(path, number, entry) for number, entry in enumerate(entries, start=1)]


def _price(path: Path, number: int, entry: Any) -> ApiPrice:
    kinds = {"model": str, "input": float, "cached_input": float, "output": float, "date": str, "source": str}
    if not isinstance(entry, dict) or (unknown := set(entry) - set(kinds)):
        what = "is not a table" if not isinstance(entry, dict) else f"has the unknown field {min(unknown)}"
        raise BenchError(f"{path}: price {number} {what}; the fields are {', '.join(kinds)}")
    values: dict[str, Any] = {}
    for name, kind in kinds.items():
        value = entry.get(name)
        if value is None and name == "cached_input":
            continue
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, float) and not value >= 0):
            raise BenchError(f"{path}: price {number}: {name} is {value!r}; give a {_KIND_NAMES[kind]}")
        values[name] = value
    return ApiPrice(**values)


_KIND_NAMES = {str: "text in quotes", float: "number of 0 or more"}
