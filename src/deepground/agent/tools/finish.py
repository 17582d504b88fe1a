"""The tool that ends a run, and the answer that it carries. The loop decides whether it is accepted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import jsonschema

from deepground.agent.tools.protocol import Tool, ToolContext, ToolFailure, ToolResult
from deepground.errors import AgentError

_BLOCK = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)


def finish_tool(answer_schema: Mapping[str, Any] | None) -> Tool:
    """The finish tool; its answer fits `answer_schema`, or is text.

    Raises:
        AgentError: the schema is none.
    """
    if answer_schema is not None:
        try:
            jsonschema.validators.validator_for(answer_schema).check_schema(answer_schema)
        except jsonschema.SchemaError as error:
            raise AgentError(f"The answer's schema is wrong at {error.json_path}: {error.message}.") from error
    return Tool(
        name="finish",
        description="End the task. status done: it is done; cannot: it cannot be done, and the answer says why.",
        parameters={
            "type": "object",
            "properties": {
                "answer": dict(answer_schema) if answer_schema is not None else {"type": "string"},
                "status": {"enum": ["done", "cannot"]},
            },
            "required": ["answer"],
        },
        effect="repeatable",
        run=_run,
    )


def read_answer(text: str, schema: Mapping[str, Any] | None) -> tuple[Any, str]:
    """The structured answer that a text holds, or what is wrong with it.

    Returns:
        The value and an empty text; or None and the problem, for the model.
    """
    if schema is None:
        return None, ""
    block = _BLOCK.search(text)
    try:
        value = json.loads(block.group(1) if block else text)
    except ValueError as error:
        return None, f"The answer is not JSON ({error}). Call finish with an answer that fits its schema."
    problem = next(iter(jsonschema.validators.validator_for(schema)(schema).iter_errors(value)), None)
    if problem is not None:
        return None, f"The answer does not fit at {problem.json_path}: {problem.message[:300]}. Call finish again."
    return value, ""


def _run(arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
    del arguments, context
    raise ToolFailure("A run is not ended here.")
