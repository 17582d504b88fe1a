"""The model room: configuration, decoder, batches and cache."""

from deepground.model.batch import Batch, KVCache, PagedBatch, RowBatch, Span, cache_widths
from deepground.model.chat_format import CHAT_FORMATS, ChatFormat, StreamParser, chat_format_for
from deepground.model.config import ModelConfig
from deepground.model.decoder import Decoder
from deepground.model.prompt import Prompt, Special, Text
from deepground.model.tokenizer import StreamDecoder, Tokenizer

__all__ = [
    "CHAT_FORMATS",
    "Batch",
    "ChatFormat",
    "Decoder",
    "KVCache",
    "ModelConfig",
    "PagedBatch",
    "Prompt",
    "RowBatch",
    "Span",
    "Special",
    "StreamDecoder",
    "StreamParser",
    "Text",
    "Tokenizer",
    "cache_widths",
    "chat_format_for",
]
