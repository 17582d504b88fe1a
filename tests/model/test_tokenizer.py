"""Text and ids: no text becomes a special token, every character survives, bad files are named."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as LibraryTokenizer

from chat_samples import ALL_MARKERS, FORMAT_NAMES, FORMATS, TOOLS, call, can_call, tiny_tokenizer
from deepground.errors import TokenizerError
from deepground.messages import Message, Tool
from deepground.model.chat_format import ChatFormat
from deepground.model.prompt import Prompt, Special, Text, merge_text
from deepground.model.tokenizer import StreamDecoder, Tokenizer

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
TINY = tiny_tokenizer()
TEXTS = [
    "",
    "a",
    "Hello, world!\n",
    "  spaces  ",
    "naïve 日本語 😀👩‍👩‍👧",
    "\x00\x7f",
    "tab\tand\r\n",
    "▁ Ġ Ċ",
    "<think",
]


def first_special_id() -> int:
    return min(entry["id"] for entry in TINY["added_tokens"])


def write(folder: Path, definition: object, **files: object) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("marker", ALL_MARKERS)
def test_no_marker_in_text_becomes_its_token(marker: str, special: bool) -> None:
    tokenizer = Tokenizer(tiny_tokenizer(special=special))
    for text in (marker, f"say {marker} loud", marker * 3, f"\n{marker}\n"):
        ids = tokenizer.encode(text)
        assert max(ids) < first_special_id()
        assert tokenizer.decode(ids) == text
    # The library itself would have matched it.
    library = LibraryTokenizer.from_str(json.dumps(TINY))
    assert library.encode(marker, add_special_tokens=False).ids == [tokenizer.special_id(marker)]


def test_a_vocabulary_that_holds_markers_as_words() -> None:
    """Merges or whole-word matching may lead to the very id of an added token; the word is cut then."""
    definition = json.loads(json.dumps(TINY))
    word = "<think>"
    definition["model"]["ignore_merges"] = True
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, to_bytes]}
    id_ = next(entry["id"] for entry in definition["added_tokens"] if entry["content"] == word)
    definition["model"]["vocab"][word] = id_
    library = LibraryTokenizer.from_str(json.dumps({**definition, "added_tokens": []}))
    assert library.encode(word).ids == [id_]
    tokenizer = Tokenizer(definition)
    for text in (word, f"{word} {word}", f"a {word}", " ".join([word] * 5000)):
        ids = tokenizer.encode(text)
        assert id_ not in ids
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("chat_format", FORMATS, ids=FORMAT_NAMES)
def test_prompts_hold_exactly_the_templates_own_markers(chat_format: ChatFormat) -> None:
    tokenizer = Tokenizer(TINY)
    harmless = _special_ids(tokenizer, chat_format, "harmless")
    assert _special_ids(tokenizer, chat_format, "".join(ALL_MARKERS)) == harmless
    assert len(harmless) >= 2


def _special_ids(tokenizer: Tokenizer, chat_format: ChatFormat, word: str) -> list[int]:
    """Special tokens of a prompt in which users, tools and the model all say `word`."""
    messages = [Message.system(word), Message.user(word), Message.assistant(word), Message.user(word)]
    tools: tuple[Tool, ...] = ()
    if can_call(chat_format):
        messages += [Message.assistant(tool_calls=(call("add", {"note": word}, "a"),)), Message.tool("a", word)]
        tools = (*TOOLS, Tool("other", word, {"type": "object", "description": word}))
    ids = tokenizer.encode_prompt(chat_format.render(messages, tools=tools, thinking=False))
    return [id_ for id_ in ids if id_ >= first_special_id()]


def test_text_round_trips_and_streams() -> None:
    tokenizer = Tokenizer(TINY)
    rng = random.Random(0)
    alphabet = "ab <>é日😀\n｜"
    texts = [*TEXTS, *("".join(rng.choices(alphabet, k=30)) for _ in range(50))]
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert b"".join(tokenizer.token_bytes(id_) for id_ in ids) == text.encode()
        decoder = StreamDecoder(tokenizer)
        pieces = [decoder.feed(id_) for id_ in ids]
        assert "".join(pieces) + decoder.finish() == text
        assert all("\ufffd" not in piece for piece in pieces)


def test_stream_decoder_holds_back_half_characters() -> None:
    tokenizer = Tokenizer(TINY)
    ids = tokenizer.encode("😀")
    assert len(ids) == 4
    decoder = StreamDecoder(tokenizer)
    assert [decoder.feed(id_) for id_ in ids] == ["", "", "", "😀"]
    assert decoder.feed(ids[0]) == ""
    assert decoder.finish() == "\ufffd"
    assert decoder.finish() == ""
    # A character that is broken off by another one shows as U+FFFD at once.
    assert decoder.feed(ids[0]) == ""
    assert decoder.feed(tokenizer.encode("a")[0]) == "\ufffda"


def test_decoding_agrees_with_the_library() -> None:
    tokenizer, library = Tokenizer(TINY), LibraryTokenizer.from_str(json.dumps(TINY))
    rng = random.Random(1)
    for _ in range(100):
        ids = rng.choices(range(tokenizer.vocab_size), k=12)
        assert tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=False)


def test_encoding_agrees_with_the_library_on_plain_text() -> None:
    tokenizer, library = Tokenizer(TINY), LibraryTokenizer.from_str(json.dumps(TINY))
    for text in TEXTS:
        assert tokenizer.encode(text) == library.encode(text, add_special_tokens=False).ids


def test_halves_of_surrogate_pairs() -> None:
    tokenizer = Tokenizer(TINY)
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude00")) == "😀"


def test_prompt_segments() -> None:
    tokenizer = Tokenizer(TINY)
    prompt = Prompt((Special(BOS), Text("th"), Text(""), Text("e qui"), Text("ck"), Special("<think>")))
    assert tokenizer.encode_prompt(prompt) == [
        tokenizer.special_id(BOS),
        *tokenizer.encode("the quick"),
        tokenizer.special_id("<think>"),
    ]
    assert prompt.text == f"{BOS}the quick<think>"
    assert merge_text([Text(""), Text("")]) == ()


def test_missing_markers() -> None:
    tokenizer = Tokenizer(tiny_tokenizer([BOS, EOS]))
    assert tokenizer.special_id("<think>") is None
    plain = Prompt((Text("a <"), Special("｜DSML｜", required=False), Text("x>")))
    assert tokenizer.encode_prompt(plain) == tokenizer.encode("a <｜DSML｜x>")
    with pytest.raises(TokenizerError, match="no token '<think>'"):
        tokenizer.encode_prompt(Prompt((Special("<think>"),)))


def test_sizes_and_unused_ids() -> None:
    tokenizer = Tokenizer(TINY)
    assert tokenizer.vocab_size == first_special_id() + len(ALL_MARKERS)
    assert set(tokenizer.special_tokens) == set(ALL_MARKERS)
    assert tokenizer.token_bytes(tokenizer.vocab_size + 5) == b""
    assert tokenizer.decode([tokenizer.vocab_size + 5]) == ""
    tokenizer.check_vocab_size(tokenizer.vocab_size)
    tokenizer.check_vocab_size(tokenizer.vocab_size + 100)
    with pytest.raises(TokenizerError, match=f"vocab_size in config.json is {tokenizer.vocab_size - 1}"):
        tokenizer.check_vocab_size(tokenizer.vocab_size - 1)


def test_from_folder_gathers_end_tokens(tmp_path: Path) -> None:
    eos, other = (next(e["id"] for e in TINY["added_tokens"] if e["content"] == text) for text in (EOS, "<|eot_id|>"))
    write(
        tmp_path,
        TINY,
        generation_config={"eos_token_id": [other, eos]},
        config={"eos_token_id": eos},
        tokenizer_config={"bos_token": {"content": BOS}, "eos_token": EOS, "add_bos_token": True},
    )
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.eos_ids == tuple(sorted((eos, other)))
    assert tokenizer.bos_id == tokenizer.special_id(BOS)
    assert tokenizer.adds_bos


def test_special_tokens_map_fills_in(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(write(tmp_path, TINY, special_tokens_map={"bos_token": BOS, "eos_token": EOS}))
    assert tokenizer.eos_ids == (tokenizer.special_id(EOS),)
    assert tokenizer.bos_id == tokenizer.special_id(BOS)
    assert not tokenizer.adds_bos


def test_the_post_processor_may_add_bos(tmp_path: Path) -> None:
    bos_id = next(entry["id"] for entry in TINY["added_tokens"] if entry["content"] == BOS)
    processor = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {BOS: {"id": BOS, "ids": [bos_id], "tokens": [BOS]}},
    }
    folder = write(tmp_path, {**TINY, "post_processor": processor}, tokenizer_config={"bos_token": BOS})
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.adds_bos
    assert tokenizer.encode("the") == Tokenizer(TINY).encode("the")


def test_byte_fallback_tokenizers() -> None:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}}
    for piece in ("▁", "a", "b", "▁a"):
        vocab[piece] = len(vocab)
    definition: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": text, "special": True, "normalized": False}
            | dict.fromkeys(("lstrip", "rstrip", "single_word"), False)
            for number, text in enumerate(("<unk>", "<s>", "</s>"))
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": ["▁ a"],
            "unk_token": "<unk>",
            "byte_fallback": True,
            "fuse_unk": True,
        },
    }
    tokenizer = Tokenizer(definition)
    for text in ("a b", " a", "日</s>", "<s>"):
        ids = tokenizer.encode(text)
        assert not {1, 2} & set(ids)
        assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes(3 + 0xE6) == b"\xe6"
    assert tokenizer.token_bytes(2) == b"</s>"


def break_added_tokens(definition: dict[str, Any]) -> None:
    del definition["added_tokens"][0]["id"]


def break_model(definition: dict[str, Any]) -> None:
    definition["model"]["type"] = "Magic"


def break_decoder(definition: dict[str, Any]) -> None:
    definition["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (break_added_tokens, "added_tokens needs a content and an id"),
        (break_model, "not a valid tokenizer definition"),
        (break_decoder, "not supported"),
    ],
)
def test_damaged_definitions(tmp_path: Path, damage: Any, says: str) -> None:
    definition = json.loads(json.dumps(TINY))
    damage(definition)
    with pytest.raises(TokenizerError, match=says):
        Tokenizer.from_folder(write(tmp_path, definition))


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="is not a folder"):
        Tokenizer.from_folder(tmp_path / "nowhere")
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(TokenizerError, match="convert it once"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(TokenizerError, match="cannot be read as JSON"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(TokenizerError, match="must hold a JSON object"):
        Tokenizer.from_folder(write(tmp_path, [1]))
    with pytest.raises(TokenizerError, match="eos_token_id must be a token id"):
        Tokenizer.from_folder(write(tmp_path, TINY, config={"eos_token_id": "</s>"}))
