"""JSON Schemas on their way to a grammar: checked, brought to one draft, and faults named by their place.

The grammar engine refuses what it cannot hold, which is what we want; it just does not say where in the schema that is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from deepground.errors import SchemaError

Schema = Mapping[str, Any] | bool
Enforcement = Literal["exact", "lenient", "any"]
"""How far a schema is held: in full or it is refused; as far as a grammar can; only that it is JSON."""

DEEPEST = 60
"""Levels of nesting; the grammar engine's reader has a limit of about twice that."""
MOST_NODES = 50_000
"""Values in a schema, all told."""
WHITE_SPACE = r" |\n(?: {0,32}|\t{0,8})"
"""What may stand between the parts of JSON: a space, or a new line with its indentation. More than that is never
needed, and a model that is unsure would fill a reply with it."""

_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS = (
    "additionalProperties",
    "propertyNames",
    "items",
    "contains",
    "additionalItems",
    "not",
    "if",
    "then",
    "else",
    "unevaluatedProperties",
    "unevaluatedItems",
)


def json_rule(schema: Schema, enforcement: Enforcement = "exact") -> str:
    """The grammar engine's expression for JSON that fits a schema, which has passed `check_schema`."""
    options = {"whitespace_pattern": WHITE_SPACE, "lenient": enforcement == "lenient"}
    plain = _modern(dict(schema) if isinstance(schema, Mapping) else {} if schema else {"enum": []})
    return "%json " + json.dumps({**plain, "x-guidance": options}, ensure_ascii=False)


def check_schema(schema: Schema, *, field: str = "output", tool: int | None = None) -> None:
    """Refuse schemas that are out of all proportion, before anything walks through them.

    Raises:
        SchemaError: too deep or too large, or it is not JSON.
    """
    nodes = 0
    level: list[Any] = [schema]
    depth = 0
    while level:
        nodes += len(level)
        if depth > DEEPEST:
            raise SchemaError(
                f"the schema is nested deeper than {DEEPEST} levels; make it flatter", field=field, tool=tool
            )
        if nodes > MOST_NODES:
            raise SchemaError(
                f"the schema holds more than {MOST_NODES} values; make it smaller", field=field, tool=tool
            )
        level = [child for node in level for child in _children(node)]
        depth += 1
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"the schema is not JSON: {error}", field=field, tool=tool) from None


def walk(schema: Any, pointer: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every subschema that is an object, with its JSON pointer, outer ones first."""
    if not isinstance(schema, Mapping):
        return
    yield pointer, schema
    for key, value in schema.items():
        here = f"{pointer}/{_escape(key)}"
        if key in _SCHEMA_MAPS and isinstance(value, Mapping):
            for name, child in value.items():
                yield from walk(child, f"{here}/{_escape(name)}")
        elif key in (*_SCHEMA_LISTS, "items") and isinstance(value, Sequence) and not isinstance(value, str):
            for number, child in enumerate(value):
                yield from walk(child, f"{here}/{number}")
        elif key in _SCHEMAS:
            yield from walk(value, here)


def locate(schema: Schema, message: str) -> str:
    """The JSON pointer of what the grammar engine complains about; empty if it cannot be told."""
    keys = re.search(r"Unimplemented keys: (\[.*?\])", message)
    if keys is not None:
        return _first(schema, json.loads(keys[1]))
    unknown = re.search(r"Unknown format: (\S+)", message)
    if unknown is not None:
        return _first(schema, ["format"], unknown[1])
    external = re.search(r"Resource '([^']*)'", message)
    if external is not None:
        return _first(schema, ["$ref"], external[1])
    if "regex parse error" in message:
        return _first(schema, ["pattern", "patternProperties"])
    for word in ("oneOf", "anyOf", "allOf", "patternProperties", "patternProperty", "minProperties", "maxProperties"):
        if word in message:
            return _first(schema, [word.replace("patternProperty", "patternProperties")])
    return ""


def schema_error(error: SchemaError, schema: Schema, *, field: str = "output", tool: int | None = None) -> SchemaError:
    """The engine's complaint about a schema as one that names the place."""
    message = str(error)
    path = locate(schema, message)
    reason = _reason(message)
    place = f"at {path}: " if path else ""
    return SchemaError(f"the schema cannot be enforced, {place}{reason}", field=field, path=path, tool=tool)


def _reason(message: str) -> str:
    keys = re.search(r"Unimplemented keys: \[(.*?)\]", message)
    if keys is not None:
        return f"{keys[1].replace(chr(34), '')} is not supported; leave it out, or ask without strict"
    inner = re.search(r"failed to compile JSON schema: (.*)", message)
    return (inner[1] if inner else message.splitlines()[0] if message else "it does not compile")[:300]


def _first(schema: Any, keys: Sequence[str], value: str | None = None) -> str:
    for pointer, node in walk(schema):
        for key in keys:
            if key in node and (value is None or str(node[key]).startswith(value)):
                return f"{pointer}/{_escape(key)}"
    return ""


def _modern(schema: Any) -> Any:
    """Draft 4's boolean bounds as today's numbers; everything else the engine reads in every draft."""
    if isinstance(schema, Mapping):
        changed = {
            key: _modern(value) if key not in ("enum", "const", "default") else value for key, value in schema.items()
        }
        for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if isinstance(changed.get(exclusive), bool) and not isinstance(changed.get(bound), Mapping):
                strict = changed.pop(exclusive)
                if strict and bound in changed:
                    changed[exclusive] = changed.pop(bound)
        return changed
    return [_modern(child) for child in schema] if isinstance(schema, list) else schema


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        yield from node.values()
    elif isinstance(node, Sequence) and not isinstance(node, str):
        yield from node


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
