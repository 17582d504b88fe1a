"""The model room: configuration, decoder, batches and cache."""

from deepground.model.batch import Batch, KVCache, PagedBatch, RowBatch, Span, cache_layers, cache_widths
from deepground.model.chat_format import (
    CHAT_FORMATS,
    CallLayout,
    CallPart,
    ChatFormat,
    Digits,
    JsonArguments,
    ParameterList,
    SpelledMarkers,
    StreamParser,
    chat_format_for,
    without_sign,
)
from deepground.model.config import ModelConfig
from deepground.model.conversion_report import ConversionReport
from deepground.model.convert import ConversionOptions, convert_model
from deepground.model.decoder import Decoder
from deepground.model.families import FAMILIES
from deepground.model.fill_middle import FILL_MARKERS, FillMarkers, fill_markers, fill_prompt
from deepground.model.fingerprint import weights_fingerprint
from deepground.model.inspection import FormatFit, Inspection, inspect_model
from deepground.model.loading import load_config, load_model, load_raw_config
from deepground.model.memory import (
    DtypeChoice,
    ModelSize,
    ServingDtype,
    available_memory,
    check_fits,
    choose_dtype,
    model_size,
)
from deepground.model.native_decoder import NativeDecoder, load_decoder, load_native, native_obstacle
from deepground.model.perplexity import Perplexity, ScoredText, measure_perplexity, read_scored_texts
from deepground.model.prompt import Prompt, Special, Text
from deepground.model.random_model import write_random_model
from deepground.model.sampling_defaults import load_sampling_defaults
from deepground.model.saving import WeightFormat, save_model
from deepground.model.tokenizer import StreamDecoder, Tokenizer

__all__ = [
    "CHAT_FORMATS",
    "FAMILIES",
    "FILL_MARKERS",
    "Batch",
    "CallLayout",
    "CallPart",
    "ChatFormat",
    "ConversionOptions",
    "ConversionReport",
    "Decoder",
    "Digits",
    "DtypeChoice",
    "FillMarkers",
    "FormatFit",
    "Inspection",
    "JsonArguments",
    "KVCache",
    "ModelConfig",
    "ModelSize",
    "NativeDecoder",
    "PagedBatch",
    "ParameterList",
    "Perplexity",
    "Prompt",
    "RowBatch",
    "ScoredText",
    "ServingDtype",
    "Span",
    "Special",
    "SpelledMarkers",
    "StreamDecoder",
    "StreamParser",
    "Text",
    "Tokenizer",
    "WeightFormat",
    "available_memory",
    "cache_layers",
    "cache_widths",
    "chat_format_for",
    "check_fits",
    "choose_dtype",
    "convert_model",
    "fill_markers",
    "fill_prompt",
    "inspect_model",
    "load_config",
    "load_decoder",
    "load_model",
    "load_native",
    "load_raw_config",
    "load_sampling_defaults",
    "measure_perplexity",
    "model_size",
    "native_obstacle",
    "read_scored_texts",
    "save_model",
    "weights_fingerprint",
    "without_sign",
    "write_random_model",
]
