import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as RawTokenizer

from deepground.errors import TrainingError
from deepground.model import Tokenizer
from deepground.train import count_pieces, extend_tokenizer, retire_words, save_tokenizer, train_tokenizer
from deepground.train.tokenizer import LEADING_SPECIALS, TRAILING_SPECIALS

TEXTS = [
    "What is 17 + 25? What is 170+250? h4t7u8+h2t5u6\nu8+6=14",
    "Reverse the word house. What is the word backwards? 這是什麼？",
    "for i in range(10):\n    print(i)",
] * 5
VOCAB = 340


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(TEXTS, VOCAB), folder, max_positions=512)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def test_layout_of_ids(tokenizer: Tokenizer) -> None:
    size = tokenizer.vocab_size
    assert 256 + 22 < size <= VOCAB
    assert [tokenizer.special_id(text) for text in LEADING_SPECIALS] == [0, 1, 2]
    assert sorted(tokenizer.token_bytes(id_) for id_ in range(3, 259)) == [bytes([byte]) for byte in range(256)]
    trailing = [tokenizer.special_id(text) for text in TRAILING_SPECIALS]
    assert trailing == list(range(size - len(TRAILING_SPECIALS), size))
    assert tokenizer.eos_ids == (1,)


def test_frequent_words_are_tokens_and_others_are_letters(tokenizer: Tokenizer) -> None:
    def pieces(text: str) -> list[str]:
        return [tokenizer.token_bytes(id_).decode() for id_ in tokenizer.encode(text)]

    assert pieces("Reverse the word") == ["Reverse", " the", " word"]
    assert pieces("Reverse the wordy") == ["Reverse", " the", " ", "w", "o", "r", "d", "y"]
    assert pieces("這是這") == ["這", "是", "這"]


def test_every_digit_is_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.token_bytes(id_).decode() for id_ in tokenizer.encode("12345 678+90=x7y 9")]
    assert [p for p in pieces if any(c.isdigit() for c in p)] == [*list("12345678907"), "9"]


def test_a_number_has_the_same_tokens_wherever_it_stands(tokenizer: Tokenizer) -> None:
    alone = tokenizer.encode("4096")
    for text in ("x=4096", "is 4096", "(4096", "\n4096"):
        assert tokenizer.encode(text)[-4:] == alone


def test_signs_never_join(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.token_bytes(id_).decode() for id_ in tokenizer.encode('a==b "x":{[]} +-')]
    signs = [p.strip() for p in pieces if not p.strip().isalnum() and p.strip()]
    assert all(len(p) == 1 for p in signs)


@pytest.mark.parametrize("text", ["", "héllo wörld", "數學 😀 \t\n x", "  two  spaces ", "\x00\x7f", "<think>"])
def test_any_text_survives(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_specials_do_not_come_from_text(tokenizer: Tokenizer) -> None:
    special = {tokenizer.special_id(text) for text in (*LEADING_SPECIALS, *TRAILING_SPECIALS)}
    for text in (*LEADING_SPECIALS, *TRAILING_SPECIALS):
        assert not special & set(tokenizer.encode(f"a{text}b"))


def test_loads_in_transformers(folder: Path, tokenizer: Tokenizer, load_reference: Callable[[Path], Any]) -> None:
    reference = load_reference(folder)
    text = "What is 170 + 25? Reverse 這 house\n    print"
    assert reference.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert (
        reference.decode(reference.encode("<｜User｜>hi</think>"), skip_special_tokens=True) == "<｜User｜>hi</think>"
    )
    assert (reference.bos_token_id, reference.eos_token_id, reference.pad_token_id) == (0, 1, 2)


@pytest.fixture
def load_reference() -> Callable[[Path], Any]:
    transformers = pytest.importorskip("transformers")
    return lambda folder: transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_only_v31_flags_are_hidden(folder: Path) -> None:
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    hidden = {token["content"] for token in added if token["special"]}
    assert hidden == {*LEADING_SPECIALS, "<|EOT|>"}


def test_same_texts_give_the_same_tokenizer() -> None:
    first, second = train_tokenizer(TEXTS, VOCAB), train_tokenizer(iter(TEXTS), VOCAB)
    assert isinstance(first, RawTokenizer)
    assert first.to_str() == second.to_str()


def test_the_size_is_a_limit() -> None:
    assert train_tokenizer(TEXTS, 290).get_vocab_size() == 290
    assert train_tokenizer(["ab cd"], 400, min_count=2).get_vocab_size() == 256 + 22
    assert train_tokenizer(["ab cd"], 400, min_count=1).get_vocab_size() == 256 + 22 + 2


def test_a_size_without_room_for_words_is_refused() -> None:
    with pytest.raises(TrainingError, match="vocab_size is 200"):
        train_tokenizer(TEXTS, 200)


def test_added_words_and_phrases_leave_the_old_ids_alone(tokenizer: Tokenizer, folder: Path) -> None:
    old = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    new = extend_tokenizer(old, ["a lantern"] * 3, VOCAB + 20, phrases=["two words"], min_count=lambda _: 3)
    raw = RawTokenizer.from_str(json.dumps(new))
    for text in ("Reverse the word house.", "17 + 25", "這是什麼？"):
        assert raw.encode(text).ids == list(tokenizer.encode(text))
    assert raw.encode("a lantern,two words").tokens == ["a", "Ġlantern", ",", "twoĠwords"]
    again = extend_tokenizer(new, [], VOCAB + 20, phrases=["two words"], min_count=lambda _: 3)
    assert again == new


def test_retired_words_are_spelled_and_the_others_keep_their_ids(tokenizer: Tokenizer, folder: Path) -> None:
    old = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    new = retire_words(old, lambda entry: entry == "Ġword" or entry.startswith("<｜"))
    raw = RawTokenizer.from_str(json.dumps(new))
    assert raw.encode("Reverse the word").tokens == ["Reverse", "Ġthe", "Ġ", "w", "o", "r", "d"]
    assert raw.encode("Reverse the").ids == list(tokenizer.encode("Reverse the"))
    assert raw.get_vocab_size() == tokenizer.vocab_size
    assert raw.token_to_id("<｜User｜>") == tokenizer.special_id("<｜User｜>")


def test_pieces_are_counted_as_a_vocabulary_writes_them(folder: Path) -> None:
    definition = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert count_pieces(definition, ["the word, the 7"]) == {"the": 1, "Ġword": 1, ",": 1, "Ġthe": 1, "Ġ": 1, "7": 1}
