"""Grammar rules for the arguments of a call: as one JSON object, or parameter by parameter where a format has it so.

Where parameters stand one by one, a string stands as it is, without quotes and escapes, so its schema becomes a regular
expression; any other value is JSON under its own schema. Only declared parameters can be written, in the order of the
schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from deepground.engine.json_schema import Enforcement, Schema, json_rule
from deepground.engine.rule_book import Rule, RuleBook
from deepground.errors import SchemaError
from deepground.messages import Tool
from deepground.model import ParameterList
from deepground.model.prompt import Text

_ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
_STRING_KEYWORDS = {"type", "enum", "const", "pattern", "minLength", "maxLength", *_ANNOTATIONS}
_OBJECT_KEYWORDS = {
    *("type", "properties", "required", "additionalProperties", "$defs", "definitions", "$schema", "$id"),
    *_ANNOTATIONS,
}
_PLAIN_KEYWORDS = _OBJECT_KEYWORDS - {"additionalProperties"}
_NOT_STRINGS = ["number", "boolean", "null", "object", "array"]


def arguments_schema(tool: Tool) -> Schema:
    """The schema of all arguments together; a tool without parameters takes none.

    A tool that lists its parameters gets no others, unless its schema speaks of others itself: JSON Schema would allow
    them, but nobody who lists parameters waits for more, and small models make some up.
    """
    if not tool.parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    schema = {"type": "object", **tool.parameters}
    listed, needed = schema.get("properties"), schema.get("required", [])
    plain = isinstance(listed, Mapping) and isinstance(needed, Sequence) and schema.keys() <= _PLAIN_KEYWORDS
    if plain and listed and all(name in listed for name in needed):
        schema["additionalProperties"] = False
    return schema


def arguments_rule(tool: Tool, enforcement: Enforcement, book: RuleBook) -> Rule:
    """The arguments as one JSON object."""
    schema = {"type": "object"} if enforcement == "any" else arguments_schema(tool)
    return book.rule(json_rule(schema, enforcement))


def parameters_rule(tool: Tool, enforcement: Enforcement, written: ParameterList, book: RuleBook) -> Rule:
    """The arguments one by one.

    Raises:
        SchemaError: with exact enforcement, the schema holds something that cannot be said so.
    """
    schema = arguments_schema(tool)
    assert isinstance(schema, Mapping)
    if enforcement == "exact":
        _check_keywords(schema, _OBJECT_KEYWORDS, "")
    declared = schema.get("properties")
    properties: dict[str, Any] = dict(declared) if isinstance(declared, Mapping) else {}
    required = schema.get("required")
    needed = [name for name in required if isinstance(name, str)] if isinstance(required, Sequence) else []
    for name in needed:
        properties.setdefault(name, True)
    expressions = []
    for name, inner in properties.items():
        parameter = _parameter(name, inner, schema, enforcement, written, book)
        expressions.append(parameter.expression if name in needed else f"{parameter.expression}?")
    if written.empty and not needed:
        return book.rule(
            f"{' '.join(expressions)} | {json.dumps(written.empty)}" if expressions else json.dumps(written.empty)
        )
    return book.rule(" ".join(expressions) if expressions else '""')


def _parameter(
    name: str, schema: Schema, root: Mapping[str, Any], enforcement: Enforcement, written: ParameterList, book: RuleBook
) -> Rule:
    path = f"/properties/{name}"
    if re.search(r'["<>\n]', name):
        raise SchemaError(
            f"the schema cannot be enforced, at {path}: the model's chat format cannot write this name", path=path
        )
    try:
        text, value = split_schema(schema, root, path)
    except SchemaError:
        if enforcement == "exact":
            raise
        text, value = r"(?s:.*)", {"type": _NOT_STRINGS}
    forms = []
    if text is not None:
        close = book.resolve(written.close)
        # Up to the closing marker: its leading text is the terminal's own end, so that the value is told from it.
        prefix = close[0].text if isinstance(close[0], Text) else ""
        rest = close[1:] if prefix else close
        lazy = not rest
        body = f"(?:{text}){re.escape(prefix)}"
        value_rule = book.rule(f"/{_slashed_body(body)}/", lazy=True) if lazy else book.terminal(body)
        forms.append(book.expression([*book.resolve(written.open(name, True)), value_rule, *rest]))
    if value is not None:
        defs = {key: root[key] for key in ("$defs", "definitions") if key in root}
        whole = {**defs, **value} if isinstance(value, Mapping) else value
        json_value = book.rule(json_rule(whole, enforcement))
        forms.append(book.expression(book.resolve([*written.open(name, False), json_value, *written.close])))
    return book.rule(" | ".join(forms))


def split_schema(schema: Schema, root: Mapping[str, Any], path: str) -> tuple[str | None, Schema | None]:
    """A parameter's schema as a regular expression for its strings and a schema for everything else.

    Either is None if there are no such values.

    Raises:
        SchemaError: the schema cannot be taken apart; the error names the keyword.
    """
    schema = _resolved(schema, root, path)
    if isinstance(schema, bool) or not schema.keys() - _ANNOTATIONS:
        if schema is False:
            raise SchemaError(f"the schema cannot be enforced, at {path}: nothing fits it", path=path)
        return r"(?s:.*)", {"type": _NOT_STRINGS}
    if "enum" in schema or "const" in schema:
        values = [schema["const"]] if "const" in schema else list(schema["enum"])
        strings = [value for value in values if isinstance(value, str)]
        others = [value for value in values if not isinstance(value, str)]
        text = "|".join(re.escape(value) for value in strings) if strings else None
        return text, {"enum": others} if others else None
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return _split_union(schema, word, root, path)
    kinds = schema.get("type")
    named = (
        [kinds] if isinstance(kinds, str) else list(kinds) if isinstance(kinds, Sequence) else ["string", *_NOT_STRINGS]
    )
    others_only = [kind for kind in named if kind != "string"]
    rest: Schema | None = {**schema, "type": others_only} if others_only else None
    if "string" not in named:
        return None, schema
    text_part = {key: value for key, value in schema.items() if key in _STRING_KEYWORDS or not others_only}
    _check_keywords(text_part, _STRING_KEYWORDS, path)
    return _string_regex(text_part, path), rest


def _split_union(
    schema: Mapping[str, Any], word: str, root: Mapping[str, Any], path: str
) -> tuple[str | None, Schema | None]:
    _check_keywords(schema, {word, *_ANNOTATIONS}, path)
    texts, others = [], []
    for number, branch in enumerate(schema[word]):
        text, other = split_schema(branch, root, f"{path}/{word}/{number}")
        texts += [] if text is None else [text]
        others += [] if other is None else [other]
    if word == "oneOf" and len(texts) > 1:
        raise SchemaError(
            f"the schema cannot be enforced, at {path}/oneOf: more than one branch allows strings; use anyOf",
            path=f"{path}/oneOf",
        )
    return "|".join(f"(?:{text})" for text in texts) if texts else None, {word: others} if others else None


def _string_regex(schema: Mapping[str, Any], path: str) -> str:
    low, high = schema.get("minLength"), schema.get("maxLength")
    pattern = schema.get("pattern")
    if pattern is None:
        bounds = "*" if low is None and high is None else f"{{{low or 0},{'' if high is None else high}}}"
        return f"(?s:.{bounds})"
    if low is not None or high is not None:
        raise SchemaError(
            f"the schema cannot be enforced, at {path}/pattern: together with a length it is not supported where "
            "strings stand without quotes; give one of them",
            path=f"{path}/pattern",
        )
    return searched(pattern)


def searched(pattern: str) -> str:
    """A pattern that may match anywhere, as JSON Schema has it, as one that matches the whole."""
    anchored_left = pattern.startswith("^")
    anchored_right = pattern.endswith("$") and not pattern.endswith("\\$")
    if "|" in pattern and (anchored_left or anchored_right):
        return f"(?s:.*)(?:{pattern})(?s:.*)"
    inner = pattern[1:] if anchored_left else pattern
    inner = inner[:-1] if anchored_right else inner
    left = "" if anchored_left else "(?s:.*)"
    right = "" if anchored_right else "(?s:.*)"
    return f"{left}(?:{inner}){right}"


def _slashed_body(regex: str) -> str:
    return regex.replace("/", r"\/").replace("\n", r"\n")


def _resolved(schema: Schema, root: Mapping[str, Any], path: str) -> Schema:
    for _ in range(16):
        if not isinstance(schema, Mapping) or set(schema) - _ANNOTATIONS != {"$ref"}:
            return schema
        reference = schema["$ref"]
        target: Any = root
        parts = str(reference).removeprefix("#/").split("/") if str(reference).startswith("#/") else [""]
        for part in parts:
            target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
        if not isinstance(target, Mapping | bool):
            break
        schema = target
    raise SchemaError(f"the schema cannot be enforced, at {path}/$ref: it leads nowhere", path=f"{path}/$ref")


def _check_keywords(schema: Mapping[str, Any], known: set[str], path: str) -> None:
    for key in schema:
        if key not in known:
            raise SchemaError(
                f"the schema cannot be enforced, at {path}/{key}: {key} is not supported where the model's chat format "
                "writes arguments one by one; leave it out, or ask without strict",
                path=f"{path}/{key}",
            )
