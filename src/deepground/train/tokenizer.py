"""Trains a byte-level BPE tokenizer with single digits and DeepSeek V3.1's special tokens.

Layout of the ids: 0 beginning of sentence, 1 end, 2 padding; 256 bytes; merges; the remaining special tokens,
in V3.1's order, at the end. Digits are always tokens of their own, and so is a space before a digit, so that
a number is spelled the same way wherever it stands.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from deepground.errors import TrainingError

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"

LEADING_SPECIALS = (BOS, EOS, PAD)
TRAILING_SPECIALS = (
    "<｜search▁begin｜>",
    "<｜search▁end｜>",
    "<think>",
    "</think>",
    "<｜fim▁hole｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁end｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|EOT|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜tool▁sep｜>",
)
_HIDDEN = {BOS, EOS, PAD, "<|EOT|>"}
"""Those that V3.1 flags as special, so that decoders may skip them; the others are part of the text."""

SPLIT = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s"
"""Words and single signs take one space before them; a digit takes none, and signs never join."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE over `texts`.

    Args:
        texts: what merges are counted on.
        vocab_size: all ids together: bytes, merges and special tokens.

    Raises:
        TrainingError: the size leaves no room for merges, or the texts hold too few of them.
    """
    base = len(LEADING_SPECIALS) + 256 + len(TRAILING_SPECIALS)
    if vocab_size <= base:
        raise TrainingError(f"vocab_size is {vocab_size}; bytes and special tokens alone take {base}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TRAILING_SPECIALS),
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in LEADING_SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(text, special=text in _HIDDEN, normalized=False) for text in TRAILING_SPECIALS])
    if tokenizer.get_vocab_size() != vocab_size:
        raise TrainingError(
            f"the texts hold merges for {tokenizer.get_vocab_size()} tokens only, vocab_size asks for {vocab_size}; "
            "give more varied text, or lower vocab_size"
        )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, max_positions: int) -> None:
    """Write the tokenizer files of a Hugging Face folder.

    Args:
        tokenizer: what `train_tokenizer` gave.
        folder: created if it does not exist.
        max_positions: the model's context, in tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_format": "deepseek-v3.1",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_positions,
    }
    generation = {
        "bos_token_id": tokenizer.token_to_id(BOS),
        "eos_token_id": tokenizer.token_to_id(EOS),
        "pad_token_id": tokenizer.token_to_id(PAD),
        "do_sample": False,
    }
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "generation_config.json", generation)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
