"""Whole prompts as text files, one for a plain conversation and one with tools, for every format.

A file is the exact prompt, without a newline at its end unless the prompt has one. After a deliberate
change, look at the difference and write the file anew.
"""

from pathlib import Path

import pytest

from chat_samples import FORMAT_NAMES, FORMATS, TOOLS, can_call, plain_conversation, tool_conversation
from deepground.model.chat_format import CHAT_FORMATS, ChatFormat

GOLDEN = Path(__file__).parents[2] / "golden" / "chat"


@pytest.mark.parametrize("chat_format", FORMATS, ids=FORMAT_NAMES)
def test_plain_conversation(chat_format: ChatFormat) -> None:
    expected = (GOLDEN / f"{chat_format.name}.plain.txt").read_text(encoding="utf-8")
    assert chat_format.render(plain_conversation()).text == expected


@pytest.mark.parametrize("chat_format", [f for f in FORMATS if can_call(f)], ids=lambda f: f.name)
def test_conversation_with_tools(chat_format: ChatFormat) -> None:
    expected = (GOLDEN / f"{chat_format.name}.tools.txt").read_text(encoding="utf-8")
    messages = tool_conversation(last_reasoning="Look it up.")
    assert chat_format.render(messages, tools=TOOLS).text == expected


def test_every_golden_file_is_read() -> None:
    names = {f"{f.name}.{kind}.txt" for f in FORMATS for kind in ("plain", "tools") if kind == "plain" or can_call(f)}
    assert {path.name for path in GOLDEN.glob("*.txt")} == names
    assert len(CHAT_FORMATS) == len(FORMATS)
