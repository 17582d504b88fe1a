"""Text out of tokens, as it comes, up to the first stop string.

Text that could be the beginning of a stop string is held back until it is known not to be one, so a
stop string never leaks, not even half of it, wherever the tokens are cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepground.model import StreamDecoder, Tokenizer


class Detokenizer:
    """The growing text of one request.

    Args:
        tokenizer: of the model that writes the text.
        stop: strings before the first of which the text ends.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._stop = tuple(stop)
        self._held = ""
        self.stop_string: str | None = None
        """The stop string that has come; the text is complete."""

    @property
    def stopped(self) -> bool:
        """A stop string has come."""
        return self.stop_string is not None

    def feed(self, token_id: int) -> str:
        """The text that this token lets go; after a stop string, nothing."""
        return "" if self.stopped else self._release(self._decoder.feed(token_id))

    def finish(self) -> str:
        """What was held back, now that no token follows."""
        if self.stopped:
            return ""
        released = self._release(self._decoder.finish())
        held, self._held = self._held, ""
        return released + held

    def _release(self, text: str) -> str:
        if not self._stop:
            return text
        text = self._held + text
        self._held = ""
        # The match that is complete first, not the one that begins first: with one character per token the model
        # would have stopped there, and the result must not depend on how text is cut into tokens.
        matches = [(at + len(stop), at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if matches:
            _, at, self.stop_string = min(matches)
            return text[:at]
        end = len(text) - max(_overlap(text, stop) for stop in self._stop)
        self._held = text[end:]
        return text[:end]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
