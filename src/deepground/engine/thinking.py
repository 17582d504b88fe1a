"""Where the thinking of a reply begins and ends, in tokens: the markers of a chat format in one tokenizer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from deepground.engine.bitmask import Bitmask, pack
from deepground.model import ChatFormat, Tokenizer
from deepground.model.prompt import Prompt


@dataclass(frozen=True, kw_only=True)
class ThinkingMarkers:
    """How a model's thinking is opened and closed."""

    open_id: int | None
    """Opens the thinking; None: no single token does."""
    close_text: bytes
    """Closes it."""
    close_id: int | None
    """The same as a token; None: it is spelled in ordinary ones."""
    close_ids: tuple[int, ...]
    """What is written to close the thinking for the model."""


def thinking_markers(chat_format: ChatFormat, tokenizer: Tokenizer) -> ThinkingMarkers | None:
    """The markers; None if the format has no thinking."""
    if not chat_format.supports_thinking:
        return None
    close = chat_format.thinking_close[-1].text
    return ThinkingMarkers(
        open_id=tokenizer.special_id(chat_format.thinking_open),
        close_text=close.encode(),
        close_id=tokenizer.special_id(close),
        close_ids=tuple(tokenizer.encode_prompt(Prompt(chat_format.thinking_close))),
    )


class Alphabet:
    """Which tokens a reply may use where no grammar says so: text, but no markers out of place.

    Args:
        tokenizer: of the model.
        end_ids: tokens that end the model's turn.
        markers: of the thinking, if the format has any.
    """

    def __init__(self, tokenizer: Tokenizer, end_ids: Collection[int], markers: ThinkingMarkers | None) -> None:
        self._tokenizer = tokenizer
        self._end_ids = frozenset(end_ids)
        controls = {
            id_
            for text in tokenizer.special_tokens
            if (id_ := tokenizer.special_id(text)) is not None and not is_plain(text)
        }
        size = tokenizer.vocab_size
        self._texts = [
            id_
            for id_ in range(size)
            if tokenizer.token_bytes(id_) and id_ not in controls and id_ not in self._end_ids
        ]
        ends = [id_ for id_ in self._end_ids if id_ < size]
        self.answer_W: Bitmask = pack([*self._texts, *ends], size)
        """An answer without a grammar."""
        self.thinking_W: Bitmask = self.answer_W
        """Thinking, its end included, but not the end of the reply."""
        self.end_W: Bitmask = pack(ends, size)
        """The end of the reply."""
        self.opening_W: Bitmask = self.answer_W
        """The beginning of a reply that may open its thinking itself."""
        self.thinking_opener_W: Bitmask = pack([], size)
        """What opens the thinking, and line breaks that a model writes before it."""
        self._late: dict[int, Bitmask] = {}
        self._close = markers.close_text if markers is not None else b""
        if markers is not None:
            closing = [] if markers.close_id is None else [markers.close_id]
            self.thinking_W = pack([*self._texts, *closing], size)
            if markers.open_id is not None:
                self.opening_W = pack([*self._texts, *ends, markers.open_id], size)
                self.thinking_opener_W = pack([markers.open_id, *_line_breaks(tokenizer)], size)
            if markers.close_id is None:
                self._late = self._overshoots(size)

    def thinking(self, tail: bytes) -> Bitmask:
        """The tokens that may come in the thinking after `tail`.

        A closing marker that is spelled in ordinary tokens must end together with one: what follows it has rules of
        its own. Line breaks may come along.
        """
        if not self._late:
            return self.thinking_W
        return self._late[overlap(tail, self._close)]

    def _overshoots(self, size: int) -> dict[int, Bitmask]:
        """Masks by how much of the closing marker stands there already."""
        late: dict[int, list[int]] = {begun: [] for begun in range(len(self._close))}
        for id_ in self._texts:
            token = self._tokenizer.token_bytes(id_)
            if self._close[-1:] not in token:
                continue
            for begun in late:
                rest = rest_after(self._close[:begun] + token, self._close)
                if rest is not None and rest.strip(b"\n"):
                    late[begun].append(id_)
        return {begun: self.thinking_W & ~pack(barred, size) for begun, barred in late.items()}


def _line_breaks(tokenizer: Tokenizer) -> list[int]:
    return [ids[0] for text in ("\n", "\n\n") if len(ids := tokenizer.encode(text)) == 1]


def is_plain(text: str) -> bool:
    """An added token that is no marker but text that was worth a token, as runs of spaces are in some tokenizers."""
    return not text.strip() or text.strip().isalnum()


def rest_after(text: bytes, marker: bytes) -> bytes | None:
    """What follows the first `marker` in `text`; None if there is none."""
    at = text.find(marker)
    return None if at < 0 else text[at + len(marker) :]


def overlap(tail: bytes, marker: bytes) -> int:
    """Length of the longest end of `tail` that is a beginning of `marker`."""
    return next((n for n in range(min(len(tail), len(marker) - 1), 0, -1) if tail.endswith(marker[:n])), 0)


def is_complete(tail: bytes) -> bool:
    """The text does not end within a character."""
    for back in range(1, min(4, len(tail)) + 1):
        byte = tail[-back]
        if byte < 0x80:
            return True
        if byte >= 0xC0:
            return back >= (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
    return True
