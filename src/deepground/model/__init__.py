"""The model room: configuration, decoder, batches and cache."""

from deepground.model.batch import Batch, KVCache, PagedBatch, RowBatch, Span, cache_widths
from deepground.model.chat_format import CHAT_FORMATS, ChatFormat, StreamParser, chat_format_for
from deepground.model.config import ModelConfig
from deepground.model.decoder import Decoder
from deepground.model.families import FAMILIES
from deepground.model.inspection import FormatFit, Inspection, inspect_model
from deepground.model.loading import load_config, load_model, load_raw_config
from deepground.model.memory import DtypeChoice, ModelSize, available_memory, check_fits, choose_dtype, model_size
from deepground.model.prompt import Prompt, Special, Text
from deepground.model.sampling_defaults import load_sampling_defaults
from deepground.model.saving import WeightFormat, save_model
from deepground.model.tokenizer import StreamDecoder, Tokenizer

__all__ = [
    "CHAT_FORMATS",
    "FAMILIES",
    "Batch",
    "ChatFormat",
    "Decoder",
    "DtypeChoice",
    "FormatFit",
    "Inspection",
    "KVCache",
    "ModelConfig",
    "ModelSize",
    "PagedBatch",
    "Prompt",
    "RowBatch",
    "Span",
    "Special",
    "StreamDecoder",
    "StreamParser",
    "Text",
    "Tokenizer",
    "WeightFormat",
    "available_memory",
    "cache_widths",
    "chat_format_for",
    "check_fits",
    "choose_dtype",
    "inspect_model",
    "load_config",
    "load_model",
    "load_raw_config",
    "load_sampling_defaults",
    "model_size",
    "save_model",
]
