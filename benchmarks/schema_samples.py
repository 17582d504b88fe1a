"""Schemas as programs send them, each with values that fit and values that do not.

Used by benchmarks/grammar_engines.py and by the tests of constrained output.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class SchemaSample(NamedTuple):
    """One schema with its witnesses."""

    name: str
    schema: dict[str, Any]
    valid: tuple[Any, ...]
    invalid: tuple[Any, ...]


def _object(properties: dict[str, Any], required: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
        **more,
    }


_STRING = {"type": "string"}
_NUMBER = {"type": "number"}
_INTEGER = {"type": "integer"}

SAMPLES: tuple[SchemaSample, ...] = (
    SchemaSample("any object", {"type": "object"}, ({}, {"a": [1, None]}), ([], "x", 1)),
    SchemaSample(
        "person",
        _object({"name": _STRING, "age": {"type": "integer", "minimum": 0, "maximum": 150}}),
        ({"name": "Wei", "age": 41}, {"name": "", "age": 0}),
        ({"name": "Wei"}, {"name": "Wei", "age": -1}, {"name": "Wei", "age": 151}, {"name": 3, "age": 3}),
    ),
    SchemaSample(
        "optional fields",
        _object({"city": _STRING, "unit": {"enum": ["C", "F"]}}, ["city"]),
        ({"city": "台北"}, {"city": "Oslo", "unit": "C"}),
        ({"unit": "C"}, {"city": "Oslo", "unit": "K"}, {"city": "Oslo", "more": 1}),
    ),
    SchemaSample(
        "nullable",
        _object({"note": {"type": ["string", "null"]}, "score": {"anyOf": [_NUMBER, {"type": "null"}]}}),
        ({"note": None, "score": 1.5}, {"note": "x", "score": None}),
        ({"note": 1, "score": 1}, {"note": None}),
    ),
    SchemaSample(
        "array bounds",
        {"type": "array", "items": _INTEGER, "minItems": 2, "maxItems": 3},
        ([1, 2], [1, 2, 3]),
        ([1], [1, 2, 3, 4], [1, "2"]),
    ),
    SchemaSample(
        "tuple",
        {"type": "array", "prefixItems": [_STRING, _INTEGER], "items": False, "minItems": 2},
        (["a", 1],),
        (["a"], ["a", "b"], ["a", 1, 2]),
    ),
    SchemaSample(
        "tagged union",
        {
            "oneOf": [
                _object({"kind": {"const": "circle"}, "radius": _NUMBER}),
                _object({"kind": {"const": "box"}, "width": _NUMBER, "height": _NUMBER}),
            ]
        },
        ({"kind": "circle", "radius": 1.0}, {"kind": "box", "width": 2, "height": 3}),
        ({"kind": "circle", "width": 1}, {"kind": "line"}),
    ),
    SchemaSample(
        "recursive tree",
        {
            "$defs": {
                "node": _object({"value": _INTEGER, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}})
            },
            "$ref": "#/$defs/node",
        },
        ({"value": 1, "children": [{"value": 2, "children": []}]},),
        ({"value": 1}, {"value": 1, "children": [{"value": "2", "children": []}]}),
    ),
    SchemaSample(
        "pattern",
        {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
        ("AB-1234",),
        ("ab-1234", "AB-12345", "xAB-1234"),
    ),
    SchemaSample(
        "string length", {"type": "string", "minLength": 2, "maxLength": 4}, ("ab", "四個字元"), ("a", "abcde")
    ),
    SchemaSample("date", {"type": "string", "format": "date"}, ("2026-11-26",), ("2026-13-01", "yesterday")),
    SchemaSample(
        "date-time", {"type": "string", "format": "date-time"}, ("2026-11-26T08:00:00Z",), ("2026-11-26", "08:00")
    ),
    SchemaSample("email", {"type": "string", "format": "email"}, ("a.b@example.org",), ("a.b", "@example.org")),
    SchemaSample(
        "uuid",
        {"type": "string", "format": "uuid"},
        ("123e4567-e89b-12d3-a456-426614174000",),
        ("123e4567", "123e4567-e89b-12d3-a456-42661417400g"),
    ),
    SchemaSample("multiple", {"type": "integer", "multipleOf": 5}, (0, 25, -10), (3, 26)),
    SchemaSample("decimal steps", {"type": "number", "multipleOf": 0.25, "minimum": 0}, (0, 1.25, 2.5), (0.3, -0.25)),
    SchemaSample(
        "exclusive bounds", {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, (0.5,), (0, 1, 2)
    ),
    SchemaSample("constant", {"const": {"a": [1, "x"]}}, ({"a": [1, "x"]},), ({"a": [1]}, {})),
    SchemaSample("mixed enum", {"enum": ["a", 1, None, True]}, ("a", 1, None, True), ("b", 2, False)),
    SchemaSample(
        "map",
        {"type": "object", "additionalProperties": _INTEGER, "minProperties": 1},
        ({"x": 1}, {"x": 1, "y": 2}),
        ({}, {"x": "1"}),
    ),
    SchemaSample(
        "pattern properties",
        {"type": "object", "patternProperties": {"^x_": _STRING}, "additionalProperties": False},
        ({}, {"x_a": "1"}),
        ({"y": "1"}, {"x_a": 1}),
    ),
    SchemaSample(
        "all of",
        {
            "allOf": [
                _object({"id": _INTEGER}, additionalProperties=True),
                {"type": "object", "required": ["id", "tag"]},
            ]
        },
        ({"id": 1, "tag": "x"},),
        ({"id": 1}, {"id": "1", "tag": "x"}),
    ),
    SchemaSample(
        "reference with siblings",
        {
            "$defs": {"name": {"type": "string", "minLength": 1}},
            **_object({"n": {"$ref": "#/$defs/name", "maxLength": 3}}),
        },
        ({"n": "abc"},),
        ({"n": ""}, {"n": "abcd"}),
    ),
    SchemaSample(
        "required only",
        {"type": "object", "required": ["a"]},
        ({"a": 1}, {"a": {"b": []}, "c": 1}),
        ({}, {"b": 1}),
    ),
    SchemaSample(
        "order",
        _object(
            {
                "id": {"type": "string", "pattern": "^ORD-[0-9]+$"},
                "lines": {
                    "type": "array",
                    "minItems": 1,
                    "items": _object({"sku": _STRING, "count": {"type": "integer", "minimum": 1}, "price": _NUMBER}),
                },
                "paid": {"type": "boolean"},
                "address": _object({"street": _STRING, "zip": _STRING}, ["street"]),
            },
            ["id", "lines", "paid"],
        ),
        (
            {"id": "ORD-7", "lines": [{"sku": "a", "count": 2, "price": 9.99}], "paid": False},
            {
                "id": "ORD-7",
                "lines": [{"sku": "a", "count": 2, "price": 9.99}],
                "paid": True,
                "address": {"street": "Main 1", "zip": "100"},
            },
        ),
        (
            {"id": "7", "lines": [{"sku": "a", "count": 2, "price": 9.99}], "paid": False},
            {"id": "ORD-7", "lines": [], "paid": False},
            {"id": "ORD-7", "lines": [{"sku": "a", "count": 0, "price": 1}], "paid": False},
        ),
    ),
    SchemaSample(
        "escaped strings",
        _object({"code": _STRING}),
        ({"code": 'print("hi")\n\t\\ \u0001 \U0001f600'},),
        ({"code": None},),
    ),
    SchemaSample("empty object", _object({}), ({},), ({"a": 1}, [])),
    SchemaSample("not", {"not": {"type": "string"}}, (1, [], None), ("x",)),
    SchemaSample("unique items", {"type": "array", "uniqueItems": True}, ([1, 2],), ([1, 1],)),
    SchemaSample(
        "if then",
        {
            "type": "object",
            "properties": {"a": _INTEGER, "b": _INTEGER},
            "if": {"properties": {"a": {"const": 1}}, "required": ["a"]},
            "then": {"required": ["b"]},
        },
        ({"a": 1, "b": 2}, {"a": 2}),
        ({"a": 1},),
    ),
    SchemaSample(
        "dependent required",
        {"type": "object", "dependentRequired": {"card": ["address"]}},
        ({}, {"card": 1, "address": 2}),
        ({"card": 1},),
    ),
    SchemaSample("contains", {"type": "array", "contains": {"type": "integer"}}, ([1], ["a", 1]), ([], ["a"])),
    SchemaSample(
        "property names", {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}}, ({"abc": 1},), ({"A1": 1},)
    ),
)
"""Every sample; the last few use keywords that a grammar cannot or can hardly express."""
