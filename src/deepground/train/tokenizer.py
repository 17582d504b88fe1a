"""Makes a byte-level tokenizer of whole words, single digits and DeepSeek V3.1's special tokens.

Layout of the ids: 0 beginning of sentence, 1 end, 2 padding; 256 bytes; frequent words, commonest first; the
remaining special tokens, in V3.1's order.

It is a byte-level BPE without merges: a word is either one token or spelled in bytes, which are letters in
English. With merges, a word that a small model has never seen falls into pieces whose letters it would have to
know by heart, whereas letters only need to be copied. Digits are always tokens of their own, and so is a space
before a digit, so that a number looks the same wherever it stands.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

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

SPLIT = r"\p{N}|\p{Han}| ?[\p{L}&&\P{Han}]+| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s"
"""Words and single signs take one space before them; a digit or a Chinese character takes none."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, min_count: int = 2) -> Tokenizer:
    """A tokenizer for `texts`.

    Args:
        texts: what words are counted in.
        vocab_size: most ids, all kinds together. Fewer if fewer words are frequent enough; the model's
            embedding may have unused rows.
        min_count: times that a word must occur to become a token.

    Raises:
        TrainingError: the size leaves no room for words.
    """
    base = len(LEADING_SPECIALS) + 256 + len(TRAILING_SPECIALS)
    if vocab_size <= base:
        raise TrainingError(f"vocab_size is {vocab_size}; bytes and special tokens alone take {base}")
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts = Counter(piece for text in texts for piece, _ in splitter.pre_tokenize_str(text))
    frequent = [piece for piece, count in counts.items() if len(piece) > 1 and count >= min_count]
    frequent.sort(key=lambda piece: (-counts[piece], piece))
    entries = [*LEADING_SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *frequent[: vocab_size - base]]
    vocab = {entry: id_ for id_, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    specials = (*LEADING_SPECIALS, *TRAILING_SPECIALS)
    tokenizer.add_tokens([AddedToken(text, special=text in _HIDDEN, normalized=False) for text in specials])
    return tokenizer


def extend_tokenizer(
    definition: Mapping[str, Any],
    texts: Iterable[str],
    vocab_size: int,
    *,
    phrases: Sequence[str] = (),
    min_count: Callable[[str], int],
) -> dict[str, Any]:
    """A tokenizer with more tokens; every id that the old one has keeps its meaning.

    Args:
        definition: the content of a tokenizer.json that `train_tokenizer` made.
        texts: what words are counted in.
        vocab_size: most ids, all kinds together.
        phrases: texts that become one token each, wherever they stand: all of them, those that the old one has too.
        min_count: times that a word (or a Chinese character) must occur to become a token.

    Returns:
        The content of the new tokenizer.json.

    Raises:
        TrainingError: the phrases do not fit.
    """
    content: dict[str, Any] = json.loads(json.dumps(definition))
    vocab: dict[str, int] = content["model"]["vocab"]
    # Added tokens stand above the words: with an id in the vocabulary too, new words follow them without a gap.
    vocab |= {token["content"]: token["id"] for token in content["added_tokens"]}
    if vocab_size < len(vocab) + len(phrases):
        raise TrainingError(f"vocab_size is {vocab_size}; {len(vocab)} tokens and {len(phrases)} phrases do not fit")
    longest_first = sorted(dict.fromkeys(phrases), key=lambda phrase: (-len(phrase), phrase))
    pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    pattern["Regex"] = "|".join([*map(_literal, longest_first), SPLIT])
    splitter = Tokenizer.from_str(json.dumps(content)).pre_tokenizer
    counts = count_pieces(content, texts)
    pieces = ["".join(piece for piece, _ in splitter.pre_tokenize_str(phrase)) for phrase in longest_first]
    frequent = [piece for piece, count in counts.items() if len(piece) > 1 and count >= min_count(piece)]
    frequent.sort(key=lambda piece: (-counts[piece], piece))
    for piece in (*pieces, *frequent):
        if piece not in vocab and len(vocab) < vocab_size:
            vocab[piece] = len(vocab)
    return content


def count_pieces(definition: Mapping[str, Any], texts: Iterable[str]) -> Counter[str]:
    """How often each piece occurs in `texts`: a word, a sign, a digit, a phrase, written as a vocabulary has it."""
    splitter = Tokenizer.from_str(json.dumps(definition)).pre_tokenizer
    return Counter(piece for text in texts for piece, _ in splitter.pre_tokenize_str(text))


def retire_words(definition: Mapping[str, Any], retired: Callable[[str], bool]) -> dict[str, Any]:
    """A tokenizer that spells some words which it had as tokens; every other token keeps its id.

    A word that is one token after a space and letters at the beginning of a JSON string cannot be copied from a
    question into a reply, only known by heart; and a token that no training text has is a hole in the model. The ids
    stay taken, under names that no text has.

    Args:
        definition: the content of a tokenizer.json that `train_tokenizer` made.
        retired: whether to retire a word, which is given as the vocabulary has it: a space before it is `\u0120`.

    Returns:
        The content of the new tokenizer.json.
    """
    content: dict[str, Any] = json.loads(json.dumps(definition))
    kept = {token["content"] for token in content["added_tokens"]}
    vocab: dict[str, int] = content["model"]["vocab"]
    content["model"]["vocab"] = {
        f"<|unused_{id_}|>" if len(entry) > 1 and entry not in kept and retired(entry) else entry: id_
        for entry, id_ in vocab.items()
    }
    return content


def _literal(text: str) -> str:
    return re.sub(r"([\\.^$|?*+()\[\]{}])", r"\\\1", text)


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
