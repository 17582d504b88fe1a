"""The generated world, made once."""

from __future__ import annotations

import pytest

from deepground.agent.travel.generate import build_world
from deepground.agent.travel.world import World


@pytest.fixture(scope="session")
def world() -> World:
    return build_world()
