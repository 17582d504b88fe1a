"""From files of conversations to the tokens that are trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepground.engine import PILOT_FOLDER
from deepground.errors import TrainingError
from deepground.model import CHAT_FORMATS, Tokenizer
from deepground.train.sft import encode_set, read_conversations, shuffled_mix, split_off
from deepground.train.sft.samples import EncodedSet


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(PILOT_FOLDER)


def encoded(path: Path, tokenizer: Tokenizer, **settings: Any) -> EncodedSet:
    return encode_set(
        read_conversations(path), tokenizer, CHAT_FORMATS["deepseek-v3.1"], **{"max_length": 200, **settings}
    )


def texts(found: EncodedSet, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [(tokenizer.decode(ids[:prompt]), tokenizer.decode(ids[prompt:])) for ids, prompt in found.samples]


TURNS = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello", "reasoning_content": "greet"},
    {"role": "user", "content": "bye"},
    {"role": "assistant", "content": "<think>part</think>\n\nfarewell"},
]


def test_only_the_assistants_words_are_learnt_with_the_end_of_turn(tmp_path: Path, tokenizer: Tokenizer) -> None:
    found = encoded(write(tmp_path / "a.jsonl", [{"messages": TURNS}]), tokenizer)
    ((prompt, reply),) = texts(found, tokenizer)
    assert reply == "part</think>farewell<｜end▁of▁sentence｜>"
    assert prompt.endswith("<｜User｜>bye<｜Assistant｜><think>")
    assert "greet" not in prompt  # The format drops earlier thinking, so training does too.


def test_every_reply_can_be_learnt(tmp_path: Path, tokenizer: Tokenizer) -> None:
    found = encoded(write(tmp_path / "a.jsonl", [{"messages": TURNS}]), tokenizer, turns="all")
    assert [reply for _, reply in texts(found, tokenizer)] == [
        "greet</think>hello<｜end▁of▁sentence｜>",
        "part</think>farewell<｜end▁of▁sentence｜>",
    ]


@pytest.mark.parametrize(
    ("mode", "end_of_prompt", "reply"),
    [
        ("auto", "</think>", "fine<｜end▁of▁sentence｜>"),
        ("on", "<think>", "</think>fine<｜end▁of▁sentence｜>"),
        ("off", "</think>", "fine<｜end▁of▁sentence｜>"),
    ],
)
def test_modes_of_thinking(tmp_path: Path, tokenizer: Tokenizer, mode: str, end_of_prompt: str, reply: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "how are you", "completion": "fine"}])
    ((prompt, said),) = texts(encoded(path, tokenizer, thinking=mode), tokenizer)
    assert prompt.endswith(end_of_prompt)
    assert said == reply


def test_files_of_other_tools(tmp_path: Path) -> None:
    rows = [
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "<think>t</think>a"}]},
        {"instruction": "q", "input": "with", "output": "a", "system": "s"},
        {"question": "q", "answer": "a", "reasoning": "t"},
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        {
            "messages": [
                *TURNS[:1],
                {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]},
            ]
        },
    ]
    found = read_conversations(write(tmp_path / "a.jsonl", rows))
    assert [c.messages[-1].text for c in found] == ["a", "a", "a", "a", ""]
    assert [c.messages[-1].reasoning for c in found] == ["t", "", "t", "", ""]
    assert found[1].messages[0].role == "system"
    assert found[1].messages[1].text == "q\n\nwith"
    assert found[4].messages[-1].tool_calls[0].name == "f"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "row 1 has neither messages nor a pair"),
        ({"messages": TURNS[:1]}, "must end with the assistant's message"),
        ({"question": "x", "answer": " "}, "last message is empty"),
        ({"messages": [{"role": "user", "content": 5}]}, r"messages\[0\]\.content must be text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        read_conversations(write(tmp_path / "a.jsonl", [row]))


def test_a_conversation_that_the_format_cannot_write_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [{"messages": [TURNS[1], TURNS[1]]}])
    with pytest.raises(TrainingError, match="conversation 1 cannot be written for this model"):
        encoded(path, tokenizer)


def test_long_samples_are_left_out_and_counted(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [{"question": "x", "answer": "y " * n} for n in (5, 500)]
    found = encoded(write(tmp_path / "a.jsonl", rows), tokenizer)
    assert (len(found), found.too_long) == (1, 1)


def test_validation_shares_no_prompt_with_training(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [{"question": f"number {n % 10}", "answer": str(n)} for n in range(40)]
    training, validation = split_off(encoded(write(tmp_path / "a.jsonl", rows), tokenizer), 0.2, seed=1)
    assert (len(training), len(validation)) == (32, 8)
    prompts = [{bytes(ids[:p]) for ids, p in part.samples} for part in (training, validation)]
    assert not prompts[0] & prompts[1]
    with pytest.raises(TrainingError, match="must be from 0"):
        split_off(training, 1.0, seed=1)


def test_the_mix_is_even_seeded_and_complete(tmp_path: Path, tokenizer: Tokenizer) -> None:
    main = encoded(write(tmp_path / "a.jsonl", [{"question": "m", "answer": str(n)} for n in range(8)]), tokenizer)
    general = encoded(write(tmp_path / "b.jsonl", [{"question": "g", "answer": str(n)} for n in range(3)]), tokenizer)
    mix = shuffled_mix(main, general, 0.2, seed=0)
    drawn = [tokenizer.decode(mix(i).token_ids) for i in range(20)]
    assert ["<｜User｜>g" in text for text in drawn] == [i % 5 == 4 for i in range(20)]
    assert len(set(drawn[:10])) == 10  # All eight once, and two of the others.
    assert drawn == [tokenizer.decode(mix(i).token_ids) for i in range(20)]
    assert drawn != [tokenizer.decode(shuffled_mix(main, general, 0.2, seed=1)(i).token_ids) for i in range(20)]
    with pytest.raises(TrainingError, match="there is none"):
        shuffled_mix(main, None, 0.2, seed=0)


@pytest.mark.parametrize("header", ["Prompt,Completion,Reasoning", "問題,答案,reasoning", "Question,ANSWER,Thinking"])
def test_tables_of_worked_answers(tmp_path: Path, header: str) -> None:
    (tmp_path / "set.csv").write_text(f"{header}\n1+1?,2,one more\n", encoding="utf-8")
    (conversation,) = read_conversations(tmp_path / "set.csv")
    question, reply = conversation.messages
    assert (question.text, reply.text, reply.reasoning) == ("1+1?", "2", "one more")
