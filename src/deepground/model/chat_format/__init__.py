"""Chat formats: conversations to prompts, and replies back to messages."""

from deepground.model.chat_format.base import ChatFormat
from deepground.model.chat_format.call_layout import CallLayout, CallPart, Digits, JsonArguments, ParameterList
from deepground.model.chat_format.selection import (
    CHAT_FORMATS,
    ChatFormatChoice,
    chat_format_for,
    choose_chat_format,
)
from deepground.model.chat_format.spelled import SpelledMarkers, without_sign
from deepground.model.chat_format.streaming import ParserState, StreamParser

__all__ = [
    "CHAT_FORMATS",
    "CallLayout",
    "CallPart",
    "ChatFormat",
    "ChatFormatChoice",
    "Digits",
    "JsonArguments",
    "ParameterList",
    "ParserState",
    "SpelledMarkers",
    "StreamParser",
    "chat_format_for",
    "choose_chat_format",
    "without_sign",
]
