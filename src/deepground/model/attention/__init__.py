"""Attention of every kind, behind one call: (T, D) and a prepared context to (T, D)."""

from deepground.model.attention.context import PagedContext, PassContext, RowContext, prepare
from deepground.model.attention.gqa import GroupedQueryAttention
from deepground.model.attention.mla import MultiHeadLatentAttention

__all__ = [
    "GroupedQueryAttention",
    "MultiHeadLatentAttention",
    "PagedContext",
    "PassContext",
    "RowContext",
    "prepare",
]
