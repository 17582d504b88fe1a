"""The interface for scripts: results in order, one or many, ids or text."""

import json
from pathlib import Path

import pytest
import torch

import deepground
from deepground.engine import LLM, PILOT_FOLDER, EngineConfig
from deepground.errors import ContextLengthError, ModelFolderError, RequestError
from deepground.messages import Message, SamplingParams, Tool
from deepground.model import save_model
from engine_fakes import (
    ASSISTANT,
    BOS,
    SPECIALS,
    FaultyDecoder,
    HistoryDecoder,
    ReplyDecoder,
    byte_tokenizer,
    byte_tokenizer_definition,
    make_engine,
    run_alone,
    tiny_decoder,
)

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


def llm_of(decoder: object) -> LLM:
    return LLM.from_engine(make_engine(decoder, max_sequences=2))


def test_usage_tells_what_was_cached() -> None:
    llm = llm_of(HistoryDecoder())
    prompt = "the same beginning " * 10
    usages = [llm.generate(prompt, GREEDY)[0].usage for _ in range(2)]
    assert [usage.prompt_cache_hit_tokens for usage in usages] == [0, 128]
    assert [usage.prompt_cache_miss_tokens for usage in usages] == [len(prompt), len(prompt) - 128]


def test_results_come_in_the_order_of_the_prompts() -> None:
    prompts = [[n + 1, n] for n in range(5)]
    params = [SamplingParams(temperature=0, max_tokens=12 - 2 * n) for n in range(5)]
    outputs = llm_of(HistoryDecoder()).generate(prompts, params)
    assert [list(output.token_ids) for output in outputs] == run_alone(HistoryDecoder(), prompts, params)
    assert [output.usage.completion_tokens for output in outputs] == [12, 10, 8, 6, 4]
    assert {output.finish_reason for output in outputs} == {"length"}
    assert outputs[0].text == bytes(outputs[0].token_ids).decode()


def test_one_prompt_or_many_as_text_or_ids() -> None:
    llm = llm_of(HistoryDecoder())
    text = llm.generate("ab", GREEDY)
    assert len(text) == 1
    assert text == llm.generate(["ab"], GREEDY) == llm.generate([97, 98], GREEDY) == llm.generate([[97, 98]], GREEDY)
    assert llm.generate([], GREEDY) == []
    assert len(llm.generate(("a", "b"), [GREEDY, GREEDY])) == 2


def test_user_text_never_becomes_a_special_token() -> None:
    assert BOS not in byte_tokenizer().encode("<｜begin▁of▁sentence｜>")
    (output,) = llm_of(HistoryDecoder()).generate("<｜Assistant｜>", GREEDY)
    assert output.usage.prompt_tokens == len("<｜Assistant｜>".encode())


def test_logprobs_are_joined() -> None:
    (output,) = llm_of(HistoryDecoder()).generate([1], SamplingParams(temperature=0, max_tokens=4, logprobs=1))
    assert output.logprobs is not None
    assert tuple(entry.token_id for entry in output.logprobs) == output.token_ids


def test_bad_prompts_are_refused_before_anything_runs() -> None:
    llm = llm_of(HistoryDecoder(max_positions=32))
    with pytest.raises(ContextLengthError):
        llm.generate([[1], [1] * 40], GREEDY)
    with pytest.raises(RequestError, match="empty"):
        llm.generate(["fine", ""], GREEDY)
    with pytest.raises(RequestError, match="integer"):
        llm.generate([[1.5]], GREEDY)  # type: ignore[list-item]
    with pytest.raises(RequestError, match="2 prompts but 1 params"):
        llm.generate(["a", "b"], [GREEDY])
    assert llm.engine.stats.prompt_tokens == 0
    assert not llm.engine.has_work


def test_one_failure_leaves_the_others() -> None:
    spared, doomed = run_alone(HistoryDecoder(), [[1], [4]], [GREEDY] * 2)
    poison = next(token for token in doomed if token not in spared)
    good, bad = llm_of(FaultyDecoder(poison=poison)).generate([[1], [4]], GREEDY)
    assert (good.finish_reason, good.error) == ("length", None)
    assert bad.finish_reason == "error"
    assert "overflowed" in str(bad.error)
    assert list(bad.token_ids) == doomed[: doomed.index(poison)]


def test_a_fault_leaves_nothing_behind() -> None:
    decoder = FaultyDecoder()
    llm = llm_of(decoder)
    decoder.armed = True
    with pytest.raises(RuntimeError, match="on fire"):
        llm.generate([[1], [2], [3]], GREEDY)
    assert not llm.engine.has_work
    decoder.armed = False
    assert len(llm.generate([1], GREEDY)[0].token_ids) == 6


def test_chat_takes_one_conversation_or_many() -> None:
    llm = llm_of(ReplyDecoder(b"yes", skip=1))
    message = Message.user("really?")
    plain = {"role": "user", "content": "really?"}
    (one,) = llm.chat([message], GREEDY, thinking=False)
    assert one.text == "yes"
    assert one == llm.chat([plain], GREEDY, thinking=False)[0]
    assert [output.text for output in llm.chat([[message], [plain]], GREEDY, thinking=False)] == ["yes", "yes"]
    assert llm.chat([message], GREEDY)[0].reasoning == "yes"


@pytest.mark.parametrize(
    "message", [{"role": "tool", "content": "x"}, {"role": "user"}, {"role": "user", "content": "x", "name": "y"}]
)
def test_unclear_messages_are_refused(message: dict[str, str]) -> None:
    with pytest.raises(RequestError) as caught:
        llm_of(HistoryDecoder()).chat([message], GREEDY)
    assert caught.value.field == "messages"


def test_chat_refuses_what_is_not_messages() -> None:
    with pytest.raises(RequestError, match="list of messages"):
        llm_of(HistoryDecoder()).chat(["hello"], GREEDY)  # type: ignore[list-item]


def test_chat_with_tools_renders_them() -> None:
    llm = llm_of(ReplyDecoder(b"ok", skip=1))
    bare, offered = (
        llm.chat([Message.user("hi")], GREEDY, tools=tools, thinking=False)[0] for tools in ((), (Tool("look"),))
    )
    assert offered.usage.prompt_tokens > bare.usage.prompt_tokens


@pytest.mark.parametrize("kind", ["mla", "gqa"])
def test_logits_agree_with_generation(kind: str) -> None:
    llm = llm_of(tiny_decoder(kind))
    prompt = [5, 6, 7]
    (output,) = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=0))
    ids = [*prompt, *output.token_ids]
    logits = llm.logits(ids)
    assert logits.shape == (len(ids), llm.engine.decoder.config.vocab_size)
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    assert logits[2:-1].argmax(-1).tolist() == list(output.token_ids)
    assert output.logprobs is not None
    for row, entry in zip(logits[2:-1].log_softmax(-1), output.logprobs, strict=True):
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-4)
    logits += 1  # an ordinary tensor, not one that inference mode has locked


def test_logits_check_their_input() -> None:
    llm = llm_of(tiny_decoder("gqa"))
    for ids in ([], [0] * 600, [-1], [10**6]):
        with pytest.raises(RequestError):
            llm.logits(ids)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["mla", "gqa"])
def test_a_saved_folder_answers_as_the_model_in_memory(kind: str, dtype: str, tmp_path: Path) -> None:
    decoder = tiny_decoder(kind)
    tokenizer_config = {"bos_token": SPECIALS[0], "eos_token": SPECIALS[1], "add_bos_token": True}
    save_model(decoder, tmp_path / "model", weight_format="float32")
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(byte_tokenizer_definition()))
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    config = EngineConfig(num_pages=64, num_threads=1)
    llm = LLM(tmp_path / "model", dtype=dtype, config=config, chat_format="deepseek-v3.1")  # type: ignore[arg-type]
    (output,) = llm.generate("hello", GREEDY)
    assert output.usage.prompt_tokens == 1 + len("hello")
    in_memory = llm_of(decoder if dtype == "float32" else decoder.to(torch.bfloat16))
    assert output.token_ids == in_memory.generate([BOS, *b"hello"], GREEDY)[0].token_ids
    (reply,) = llm.chat([Message.user("hi")], GREEDY)
    assert reply.usage.completion_tokens == 6
    assert reply.usage.prompt_tokens == BOS_USER_HI_ASSISTANT_THINK


BOS_USER_HI_ASSISTANT_THINK = 6


def test_missing_folder_and_missing_pilot(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError):
        LLM(tmp_path / "nothing")
    assert Path(deepground.__file__).parent / "pilot" == PILOT_FOLDER


def test_public_names_come_from_the_package() -> None:
    assert deepground.LLM is LLM
    assert ASSISTANT != BOS
