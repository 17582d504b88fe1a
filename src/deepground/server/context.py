"""What every route is given."""

from __future__ import annotations

from dataclasses import dataclass

from deepground.server.exchange import Exchange
from deepground.server.service import ModelService, ServedModel


@dataclass(frozen=True, kw_only=True)
class ServerContext:
    """The model, whatever answers for it, and how requests are answered."""

    service: ModelService
    model: ServedModel
    exchange: Exchange
    max_body_bytes: int
