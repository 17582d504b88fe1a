"""Which arguments a call may have."""

from __future__ import annotations

from typing import Any

import pytest

from deepground.engine.argument_rules import arguments_schema
from deepground.messages import Tool

CITY = {"city": {"type": "string"}}


@pytest.mark.parametrize(
    ("parameters", "closed"),
    [
        ({}, True),
        ({"type": "object", "properties": CITY}, True),
        ({"type": "object", "properties": CITY, "required": ["city"], "title": "x", "$defs": {}}, True),
        ({"type": "object", "properties": {}}, False),
        ({"type": "object"}, False),
        ({"properties": CITY, "required": ["city", "date"]}, False),
        ({"properties": CITY, "additionalProperties": True}, False),
        ({"properties": CITY, "additionalProperties": {"type": "integer"}}, False),
        ({"properties": CITY, "patternProperties": {"^x-": {}}}, False),
        ({"properties": CITY, "anyOf": [{"required": ["city"]}, {"required": ["zip"]}]}, False),
        ({"properties": CITY, "minProperties": 2}, False),
    ],
)
def test_a_tool_that_lists_its_parameters_gets_no_others(parameters: dict[str, Any], closed: bool) -> None:
    schema = arguments_schema(Tool("f", "", parameters))
    assert isinstance(schema, dict)
    assert (schema.get("additionalProperties") is False) == closed
    if "additionalProperties" in parameters:
        assert schema["additionalProperties"] == parameters["additionalProperties"]
