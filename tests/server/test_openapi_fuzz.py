"""What the OpenAPI document promises, tried by schemathesis: no input makes the server fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from server_fakes import ScriptedService, running_server

POSTS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/anthropic/v1/messages",
    "/anthropic/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
]
GETS = ["/v1/models", "/v1/models/{name}", "/anthropic/v1/models", "/user/balance", "/health", "/metrics", "/agent"]


@pytest.fixture(scope="module")
def api() -> Iterator[schemathesis.openapi.OpenApiSchema]:
    with running_server(ScriptedService()) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_every_operation_is_tried(api: schemathesis.openapi.OpenApiSchema) -> None:
    found = {(result.ok().method.upper(), result.ok().path) for result in api.get_all_operations()}
    assert found == {*(("POST", path) for path in POSTS), *(("GET", path) for path in GETS)}


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        *((path, mode) for path in POSTS for mode in schemathesis.GenerationMode),
        *((path, schemathesis.GenerationMode.POSITIVE) for path in GETS),  # there is nothing to get wrong
    ],
)
def test_no_input_is_the_servers_fault(
    api: schemathesis.openapi.OpenApiSchema, path: str, mode: schemathesis.GenerationMode
) -> None:
    operation = api[path]["POST" if path in POSTS else "GET"]

    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def attempt(case: schemathesis.Case) -> None:
        response = case.call(timeout=20)
        assert response.status_code < 500, case.as_curl_command()

    attempt()
