"""Chat formats: conversations to prompts, and replies back to messages."""

from deepground.model.chat_format.base import ChatFormat
from deepground.model.chat_format.selection import (
    CHAT_FORMATS,
    ChatFormatChoice,
    chat_format_for,
    choose_chat_format,
)
from deepground.model.chat_format.streaming import ParserState, StreamParser

__all__ = [
    "CHAT_FORMATS",
    "ChatFormat",
    "ChatFormatChoice",
    "ParserState",
    "StreamParser",
    "chat_format_for",
    "choose_chat_format",
]
