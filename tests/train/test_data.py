from pathlib import Path
from random import Random

import pytest
import torch

import tiny_models
from deepground.errors import TrainingError
from deepground.messages import Message
from deepground.model import CHAT_FORMATS, Decoder, RowBatch, Tokenizer, load_config
from deepground.train import PackedStream, Sample, encode_conversation, mixture_samples, pack_rows, sample_seed
from deepground.train.data import DataPosition
from deepground.train.loss import IGNORED

FORMAT = CHAT_FORMATS["deepseek-v3.1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def random_sample(index: int) -> Sample:
    rng = Random(index)
    length = rng.randint(4, 40)
    return Sample([rng.randrange(3, 300) for _ in range(length)], rng.randint(1, length - 1))


@pytest.mark.parametrize(
    ("thinking", "reply", "prompt_end", "trained"),
    [
        (True, Message.assistant("42", reasoning="u7+5=12"), "<think>", "u7+5=12</think>42"),
        (False, Message.assistant("42"), "</think>", "42"),
    ],
)
def test_only_what_the_model_writes_is_trained(
    tokenizer: Tokenizer, thinking: bool, reply: Message, prompt_end: str, trained: str
) -> None:
    messages = [Message.user("17+25"), reply]
    sample = encode_conversation(messages, tokenizer, FORMAT, thinking=thinking)
    prompt, rest = sample.token_ids[: sample.prompt_length], sample.token_ids[sample.prompt_length :]
    assert tokenizer.decode(prompt) == f"<｜begin▁of▁sentence｜><｜User｜>17+25<｜Assistant｜>{prompt_end}"
    assert tokenizer.decode(rest) == f"{trained}<｜end▁of▁sentence｜>"
    assert rest[-1] == 1
    assert prompt == tokenizer.encode_prompt(FORMAT.render(messages[:1], thinking=thinking))


def test_a_conversation_must_end_with_the_assistant(tokenizer: Tokenizer) -> None:
    with pytest.raises(TrainingError, match="role user"):
        encode_conversation([Message.user("hi")], tokenizer, FORMAT, thinking=False)


def test_targets_are_the_next_tokens_of_replies() -> None:
    samples = [Sample([5, 6, 7, 8], 2), Sample([9, 10, 11], 1)]
    batch = pack_rows([samples], 9, pad_id=2)
    assert batch.rows.token_ids_T.tolist() == [5, 6, 7, 8, 9, 10, 11, 2, 2]
    assert batch.targets_T.tolist() == [IGNORED, 7, 8, IGNORED, 10, 11, IGNORED, IGNORED, IGNORED]
    assert batch.rows.positions_T.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1]
    assert batch.rows.segment_ids_BS.tolist() == [[0, 0, 0, 0, 1, 1, 1, 2, 2]]
    assert (batch.num_tokens, batch.num_samples, batch.num_trained) == (7, 2, 4)


def test_packed_samples_do_not_see_each_other(folder: Path) -> None:
    decoder = Decoder(load_config(folder))
    decoder.init_weights(3)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter *= 4  # far from the flat start, so that a leak would show
        samples = [random_sample(i) for i in range(6)]
        batch = pack_rows([samples[:3], samples[3:]], 128, pad_id=2)
        packed_TV = decoder.logits(decoder(batch.rows))
        for b, row in enumerate((samples[:3], samples[3:])):
            start = b * 128
            for sample in row:
                alone_TV = decoder.logits(decoder(RowBatch.single(torch.tensor(sample.token_ids))))
                end = start + len(sample.token_ids)
                torch.testing.assert_close(packed_TV[start:end], alone_TV, atol=1e-5, rtol=1e-5)
                start = end


def test_splitting_keeps_every_row() -> None:
    stream = PackedStream(random_sample, num_rows=5, row_length=64, pad_id=2)
    batch = stream.next_batch()
    parts = list(batch.split(2))
    assert [rows.num_rows for rows, _ in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([rows.token_ids_T for rows, _ in parts]), batch.rows.token_ids_T)
    assert torch.equal(torch.cat([targets for _, targets in parts]), batch.targets_T)


def test_rows_are_well_filled_and_each_sample_is_used_once() -> None:
    stream = PackedStream(random_sample, num_rows=8, row_length=64, pad_id=2)
    batches = [stream.next_batch() for _ in range(10)]
    filled = sum(b.num_tokens for b in batches) / (10 * 8 * 64)
    assert filled > 0.93
    drawn = stream.position.next_index
    assert sum(b.num_samples for b in batches) == drawn - len(stream.position.waiting)


def test_stream_goes_on_where_it_was() -> None:
    stream = PackedStream(random_sample, num_rows=4, row_length=64, pad_id=2)
    for _ in range(3):
        stream.next_batch()
    saved = stream.position.to_json()
    expected = [stream.next_batch() for _ in range(3)]
    resumed = PackedStream(random_sample, num_rows=4, row_length=64, pad_id=2, position=DataPosition(**saved))
    for batch in expected:
        again = resumed.next_batch()
        assert torch.equal(again.rows.token_ids_T, batch.rows.token_ids_T)
        assert torch.equal(again.targets_T, batch.targets_T)


def test_long_samples_are_left_out_and_counted() -> None:
    def make_sample(index: int) -> Sample:
        return Sample([7] * (50 if index % 3 == 0 else 10), 2)

    stream = PackedStream(make_sample, num_rows=2, row_length=32, pad_id=2)
    batch = stream.next_batch()
    assert batch.num_tokens == 60
    assert stream.position.dropped == len(range(0, stream.position.next_index, 3))


def test_rows_that_fit_nothing_are_an_error() -> None:
    stream = PackedStream(lambda index: Sample([7] * 50, 2), num_rows=2, row_length=32, pad_id=2)
    with pytest.raises(TrainingError, match="raise row_length"):
        stream.next_batch()


def test_seeds_are_fixed_and_differ() -> None:
    seeds = {sample_seed(seed, index) for seed in range(20) for index in range(200)}
    assert len(seeds) == 4000
    assert sample_seed(7, 0) == sample_seed(7, 0)


def test_mixture_is_a_function_of_the_index(tokenizer: Tokenizer) -> None:
    first = mixture_samples(tokenizer, FORMAT, seed=1, easy_samples=100)
    second = mixture_samples(tokenizer, FORMAT, seed=1, easy_samples=100)
    assert [first(i) for i in (0, 50, 500)] == [second(i) for i in (0, 50, 500)]
    assert first(0) != mixture_samples(tokenizer, FORMAT, seed=2, easy_samples=100)(0)
    with pytest.raises(TrainingError, match="easy_samples"):
        mixture_samples(tokenizer, FORMAT, seed=1, easy_samples=-1)
