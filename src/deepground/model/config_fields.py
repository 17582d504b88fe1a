"""Typed, range-checked reading of config.json fields.

Every accepted value has a type and a range; what is outside is refused with the field's name, its value and
what is allowed. The upper bounds are far above any released model: they exist so that a damaged or hostile
file fails here, with a sentence, and not later in an allocation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepground.errors import ConfigError

MAX_JSON_BYTES = 10 * 2**20
_REQUIRED: Any = object()


def read_json_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a small file.

    Args:
        path: the file.
        max_bytes: larger files are refused unread.

    Returns:
        The object.

    Raises:
        ConfigError: the file is missing, unreadable, too large, not JSON, or not an object.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ConfigError(f"{path} is not a regular file; put the model's own {path.name} there")
        if size > max_bytes:
            raise ConfigError(
                f"{path} has {size} bytes, more than the {max_bytes} that such a file may have; "
                f"restore the model's own {path.name}"
            )
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist; a model folder holds config.json beside its safetensors files: "
            "check the path, or download the folder again"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON ({error}); restore the model's own {path.name}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds {_kind(value)}, not a JSON object; restore the model's own {path.name}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's pairs as a dict; a key that stands twice has no single meaning."""
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return result


class Fields:
    """The fields of one JSON object; null counts as absent.

    Args:
        values: the object.
        where: what error messages put before a field's name, such as "config.json: ".
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json: ") -> None:
        self.values = values
        self.where = where

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(name) is not None

    def fail(self, name: str, allowed: str) -> ConfigError:
        """The error for a field whose value is not allowed."""
        shown = repr(self.values.get(name))
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return ConfigError(f"{self.where}{name} is {shown}; allowed: {allowed}")

    def integer(self, name: str, low: int, high: int, default: int = _REQUIRED) -> int:
        """A whole number within low .. high."""
        value = self._get(name, default)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fail(name, f"a whole number from {low} to {high}")
        return value

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number within low .. high, or None where the field is absent."""
        return self.integer(name, low, high) if self.has(name) else None

    def number(self, name: str, low: float, high: float, default: float = _REQUIRED) -> float:
        """A finite number within low .. high."""
        value = self._get(name, default)
        if value is None:
            return default
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or not low <= value <= high:
            raise self.fail(name, f"a finite number from {low:g} to {high:g}")
        return float(value)

    def optional_number(self, name: str, low: float, high: float) -> float | None:
        """A finite number within low .. high, or None where the field is absent."""
        return self.number(name, low, high) if self.has(name) else None

    def boolean(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._get(name, default)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(name, "true or false")
        return value

    def text(self, name: str, default: str = _REQUIRED) -> str:
        """A string."""
        value = self._get(name, default)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.fail(name, "a string")
        return value

    def integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """One whole number or a list of them, each within low .. high; empty where the field is absent."""
        value = self.values.get(name)
        if value is None:
            return ()
        items = value if isinstance(value, list) else [value]
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int) or not low <= item <= high:
                raise self.fail(name, f"whole numbers from {low} to {high}")
        return tuple(items)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty where the field is absent."""
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.fail(name, "a list of strings")
        return tuple(value)

    def nested(self, name: str) -> Fields | None:
        """The fields of an object within this one, or None where it is absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fail(name, "an object or null")
        return Fields(value, f"{self.where}{name}.")

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None and default is _REQUIRED:
            raise ConfigError(f"{self.where}{name} is missing; restore the model's own config.json")
        return value


def _kind(value: object) -> str:
    kinds = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
