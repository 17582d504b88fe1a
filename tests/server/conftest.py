"""A scripted service and a server in front of it, one for each module of tests."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from server_fakes import ScriptedService, running_server


@pytest.fixture(scope="module")
def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture(scope="module")
def url(service: ScriptedService) -> Iterator[str]:
    with running_server(service) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=20) as client:
        yield client
