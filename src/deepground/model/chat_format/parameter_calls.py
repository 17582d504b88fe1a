"""Calls whose arguments are written one by one, as DeepSeek V3.2 and GLM-4.5 do; JSON comes out."""

from __future__ import annotations

from deepground.model.chat_format.base import to_json
from deepground.model.chat_format.streaming import ReasoningParser


class ParameterCallParser(ReasoningParser):
    """Builds the JSON object of the arguments as the parameters come in."""

    def __init__(self, *, in_reasoning: bool) -> None:
        super().__init__(in_reasoning=in_reasoning)
        self._num_parameters = 0
        self._in_stray = False

    def _open_call(self, name: str) -> None:
        self._held = ""
        self._start_call(name)
        self._num_parameters = 0
        self._emit_arguments("{")

    def _open_parameter(self, key: str) -> None:
        separator = ", " if self._num_parameters else ""
        self._num_parameters += 1
        self._emit_arguments(f"{separator}{to_json(key)}: ")

    def _close_call(self) -> None:
        self._emit_arguments("}")
        self._end_call()

    def _emit_stray(self, text: str, *, is_last: bool) -> None:
        """Text where only tags belong: leading white space is the format's own, the rest is content.

        Args:
            text: more of it.
            is_last: a tag follows.
        """
        if not self._in_stray:
            text = text.lstrip()
        self._in_stray = (self._in_stray or bool(text)) and not is_last
        self._emit_text(text)
