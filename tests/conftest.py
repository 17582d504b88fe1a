"""What the tests of several rooms share."""

from __future__ import annotations

import pytest

from deepground.sandbox import Sandbox, available, find_sandbox


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    if reason := available():
        pytest.skip(reason)
    return find_sandbox()
