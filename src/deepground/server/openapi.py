"""The OpenAPI document: request bodies are described from the models that validate them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from deepground.server.wire import Wire

_REF = "#/components/schemas/{model}"
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}

_documented: dict[str, type[Wire]] = {}
"""Bodies of the routes that were described so far, by their names in the document."""


def describe_body(model: type[Wire]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads `model` from its body."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    _documented[model.__name__] = model
    error = {"content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"4XX": {"description": "The request is at fault; `param` names the field.", **error}},
    }


def install_openapi(app: FastAPI) -> None:
    """Serve the document with the models' schemas among its components."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schemas = described.setdefault("components", {}).setdefault("schemas", {})
            for name, model in _documented.items():
                schema = model.model_json_schema(ref_template=_REF)
                schemas.update(schema.pop("$defs", {}))
                schemas[name] = schema
            schemas["Error"] = _ERROR_SCHEMA
            app.openapi_schema = described
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
