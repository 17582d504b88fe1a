"""Text to token ids and back, from the files of a Hugging Face folder.

Two rules hold whatever a checkpoint's files say. Text never becomes a special token: it is encoded by
a twin of the tokenizer that has no added tokens at all, because the library matches added tokens in
plain text even when it is told to add none. And ids are turned into text through bytes, so that a
character split over several tokens comes out whole.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from deepground.errors import TokenizerError
from deepground.model.prompt import Prompt, Special, Text, merge_text


class Tokenizer:
    """The tokenizer of one checkpoint; build it with `from_folder`.

    Args:
        definition: the content of tokenizer.json.
        settings: the content of tokenizer_config.json; may be empty.
        end_ids: token ids that end a turn according to the other files of the folder.
        source: what error messages call the place that the files came from.

    Raises:
        TokenizerError: the definition is not a tokenizer, or of a kind that is not supported.
    """

    def __init__(
        self,
        definition: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        *,
        end_ids: Iterable[int] = (),
        source: str = "tokenizer.json",
    ) -> None:
        settings = settings or {}
        self._special_ids = _added_tokens(definition, source)
        self._plain = _build({**definition, "added_tokens": [], "post_processor": None}, source)
        whole = _build(definition, source)
        self._bytes = _token_bytes(definition, whole.get_vocab(with_added_tokens=True), self._special_ids, source)
        self._forbidden = frozenset(
            id_ for text, id_ in self._special_ids.items() if len(text) > 1 and text != _unknown_token(definition)
        )
        self.vocab_size = max(self._bytes, default=-1) + 1
        """One more than the largest id; the model's embedding may have more rows than that."""
        self.bos_id = self._named_id(settings, "bos_token")
        """The token that begins a text, if the checkpoint names one."""
        eos_id = self._named_id(settings, "eos_token")
        self.eos_ids: tuple[int, ...] = tuple(sorted({*end_ids, *([] if eos_id is None else [eos_id])}))
        """Tokens that end the model's turn, ascending."""
        self.adds_bos = self._adds_bos(settings, whole)
        """Plain text (not a chat) is meant to begin with `bos_id`."""

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read tokenizer.json, and tokenizer_config.json, special_tokens_map.json, generation_config.json
        and config.json where they exist.

        Raises:
            TokenizerError: tokenizer.json is missing, or a file cannot be read or does not make sense.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(_missing_message(folder))
        settings = {
            **read_settings(folder / "special_tokens_map.json"),
            **read_settings(folder / "tokenizer_config.json"),
        }
        end_ids: list[int] = []
        for name in ("generation_config.json", "config.json"):
            end_ids += _end_ids(read_settings(folder / name), folder / name)
        return cls(read_settings(path), settings, end_ids=end_ids, source=str(path))

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; never a special token, and no beginning-of-text token either.

        Halves of surrogate pairs, which are no characters, count as U+FFFD.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        encoding = self._plain.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if self._forbidden.isdisjoint(ids):
            return ids
        # The vocabulary itself holds a marker as a whole word: encode the text in pieces cut within it.
        cut_ids: list[int] = []
        begin = 0
        for (start, end), id_ in zip(encoding.offsets, ids, strict=True):
            if id_ in self._forbidden:
                middle = (start + end) // 2
                cut_ids += self.encode(text[begin:middle] if start < middle else text[begin:start] + "\ufffd")
                begin = middle if start < middle else end
        return cut_ids + self.encode(text[begin:])

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Token ids of a rendered prompt.

        Raises:
            TokenizerError: the checkpoint lacks a token that the chat format cannot do without.
        """
        ids: list[int] = []
        for segment in merge_text(self._spell_out(s) if isinstance(s, Special) else s for s in prompt.segments):
            if isinstance(segment, Special):
                ids.append(self._special_ids[segment.text])
            else:
                ids += self.encode(segment.text)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens included; bytes that are not UTF-8 show as U+FFFD."""
        return b"".join(self.token_bytes(id_) for id_ in ids).decode("utf-8", errors="replace")

    def token_bytes(self, id_: int) -> bytes:
        """The bytes that a token stands for; empty for the unused ids of a padded embedding."""
        return self._bytes.get(id_, b"")

    def special_id(self, text: str) -> int | None:
        """The id of an added token, or None if the checkpoint has none with exactly this text."""
        return self._special_ids.get(text)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Texts of all added tokens, by id."""
        return tuple(sorted(self._special_ids, key=self._special_ids.__getitem__))

    def check_vocab_size(self, model_vocab_size: int) -> None:
        """Make sure that every token has a row in the model's embedding.

        Raises:
            TokenizerError: the tokenizer has ids that the model does not know.
        """
        if self.vocab_size > model_vocab_size:
            raise TokenizerError(
                f"tokenizer.json has token ids up to {self.vocab_size - 1}, but vocab_size in config.json is "
                f"{model_vocab_size}; use the tokenizer files that belong to this model"
            )

    def _spell_out(self, segment: Special) -> Special | Text:
        if segment.text in self._special_ids:
            return segment
        if segment.required:
            raise TokenizerError(
                f"the tokenizer has no token {segment.text!r}, which the chat format needs; "
                "choose the chat format that this checkpoint was trained with"
            )
        return Text(segment.text)

    def _named_id(self, settings: Mapping[str, Any], key: str) -> int | None:
        token = settings.get(key)
        text = token.get("content") if isinstance(token, dict) else token
        return self._special_ids.get(text) if isinstance(text, str) else None

    def _adds_bos(self, settings: Mapping[str, Any], whole: tokenizers.Tokenizer) -> bool:
        if self.bos_id is None:
            return False
        if isinstance(settings.get("add_bos_token"), bool):
            return bool(settings["add_bos_token"])
        return bool(whole.encode("", add_special_tokens=True).ids[:1] == [self.bos_id])


class StreamDecoder:
    """Token ids in, text out, as soon as its characters are complete."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, id_: int) -> str:
        """The text that this token completes; a character whose bytes are still missing is held back."""
        return self._decoder.decode(self._tokenizer.token_bytes(id_))

    def finish(self) -> str:
        """What was held back: U+FFFD if a character was never completed, else nothing."""
        return self._decoder.decode(b"", final=True)


def _build(definition: Mapping[str, Any], source: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{source} is not a valid tokenizer definition: {error}") from error


def _added_tokens(definition: Mapping[str, Any], source: str) -> dict[str, int]:
    try:
        return {str(token["content"]): int(token["id"]) for token in definition.get("added_tokens") or ()}
    except (KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"{source}: each entry of added_tokens needs a content and an id") from error


def _unknown_token(definition: Mapping[str, Any]) -> str | None:
    model = definition.get("model")
    token = model.get("unk_token") if isinstance(model, dict) else None
    return token if isinstance(token, str) else None


def _token_bytes(
    definition: Mapping[str, Any], vocab: Mapping[str, int], special_ids: Mapping[str, int], source: str
) -> dict[int, bytes]:
    """Bytes by id, by the tokenizer's kind: byte-level BPE, or SentencePiece with byte fallback."""
    kinds = _component_types(definition.get("decoder"))
    if "ByteLevel" in kinds:
        byte_of = {character: byte for byte, character in _byte_level_alphabet().items()}

        def spell(token: str) -> bytes:
            if all(character in byte_of for character in token):
                return bytes(byte_of[character] for character in token)
            return token.encode()

    elif kinds & {"ByteFallback", "Metaspace"}:

        def spell(token: str) -> bytes:
            if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                return bytes([int(token[3:5], 16)])
            return token.replace("▁", " ").encode()

    else:
        raise TokenizerError(
            f"{source}: this kind of tokenizer is not supported (decoder {sorted(kinds) or 'absent'}); "
            "byte-level BPE and SentencePiece with byte fallback are"
        )
    special = {id_: text.encode() for text, id_ in special_ids.items()}
    return {id_: spell(token) for token, id_ in vocab.items()} | special


def _component_types(component: Any) -> set[str]:
    if not isinstance(component, dict):
        return set()
    inner = component.get("decoders")
    types = {str(component.get("type"))}
    return types.union(*(_component_types(part) for part in inner)) if isinstance(inner, list) else types


def _byte_level_alphabet() -> dict[int, str]:
    """GPT-2's map from bytes to printable characters: bytes without a glyph move to U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}


def read_settings(path: Path) -> dict[str, Any]:
    """The object in one of the tokenizer's JSON files; empty if there is no such file.

    Raises:
        TokenizerError: the file is there but does not hold a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} cannot be read as JSON: {error}; download the file again") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} must hold a JSON object, but holds {type(content).__name__}")
    return content


def _end_ids(content: Mapping[str, Any], path: Path) -> list[int]:
    value = content.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(id_, int) and id_ >= 0 for id_ in ids):
        raise TokenizerError(f"{path}: eos_token_id must be a token id or a list of them, but is {value!r}")
    return ids


def _missing_message(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder; name the folder that holds the model's files"
    for name, kind in (("tokenizer.model", "SentencePiece"), ("tiktoken.model", "tiktoken")):
        if (folder / name).is_file():
            return (
                f"{folder} holds {name} ({kind}) but no tokenizer.json; convert it once with "
                "transformers (save_pretrained of the fast tokenizer writes tokenizer.json)"
            )
    return f"{folder} has no tokenizer.json; download it from where the model came from"
