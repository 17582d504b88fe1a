"""The disk tier: what was computed once is found again, by another process too, and never what was not."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from deepground.engine import Engine, EngineConfig
from deepground.engine.prefix_cache import UnitRecord
from deepground.engine.prefix_files import UnitFolder
from deepground.engine.prefix_store import CachePages, DiskStore
from deepground.errors import EngineError
from deepground.model import KVCache
from engine_fakes import FaultyDecoder, HistoryDecoder, byte_tokenizer, drain, run_alone, tiny_config
from prefix_samples import DECODERS, ask, disk_engine, family_of_prompts, greedy, history_answer, letters, sparse_config
from tiny_models import tiny_model_folder


def store_of(engine: Engine) -> DiskStore:
    assert engine._disk_store is not None
    return engine._disk_store


def files_in(root: Path) -> list[Path]:
    return sorted(root.rglob("*.unit"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["mla", "gqa", "sparse"])
def test_pages_come_back_bit_for_bit(kind: str, dtype: torch.dtype) -> None:
    config = sparse_config() if kind == "sparse" else tiny_config(kind)
    cache = KVCache(config, 10 * 16, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    for tensor in cache.tensors.values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    before = {name: tensor.clone() for name, tensor in cache.tensors.items()}
    pages = CachePages(cache, page_size=16, pages_per_unit=4)
    assert pages.unit_bytes == sum(tensor.nbytes for tensor in cache.tensors.values()) * 4 // 10
    payload = torch.empty(pages.unit_bytes, dtype=torch.uint8).numpy()
    pages.gather([7, 0, 3, 4], payload)
    for tensor in cache.tensors.values():
        tensor.zero_()
    pages.scatter(payload, [1, 8, 2, 9])
    for name, tensor in cache.tensors.items():
        moved = dict(zip([1, 8, 2, 9], [7, 0, 3, 4], strict=True))
        for page in range(10):
            got = tensor[:, page * 16 : (page + 1) * 16]
            source = moved.get(page)
            want = torch.zeros_like(got) if source is None else before[name][:, source * 16 : (source + 1) * 16]
            assert torch.equal(got, want)


@pytest.mark.parametrize("kind", DECODERS)
def test_same_tokens_after_a_restart(kind: str, tmp_path: Path) -> None:
    prompts = family_of_prompts(5, seed=3)
    plain = run_alone(DECODERS[kind](), prompts, [greedy(8)] * 5, prefix_cache=False)
    engine = disk_engine(DECODERS[kind](), tmp_path)
    assert [ask(engine, prompt, 8)[0] for prompt in prompts] == plain
    engine.close()
    restarted = disk_engine(DECODERS[kind](), tmp_path, prefill_chunk=48)
    results = [ask(restarted, prompt, 8) for prompt in prompts]
    assert [tokens for tokens, _ in results] == plain
    assert [cached for _, cached in results] == [(len(prompt) - 1) // 64 * 64 for prompt in prompts]
    assert 0 < restarted.stats.disk_units_loaded <= engine.stats.disk_units_saved


def test_a_restored_prefix_is_not_computed(tmp_path: Path) -> None:
    prompt = letters(300, 1)
    ask(disk_engine(HistoryDecoder(), tmp_path), prompt, 50)  # dropped, which saves what is to be saved
    decoder = HistoryDecoder()
    engine = disk_engine(decoder, tmp_path)
    turn = prompt + history_answer(prompt, 50) + [9]
    assert ask(engine, turn, 2) == (history_answer(turn, 2), 320)
    assert decoder.tokens_seen == len(turn) + 1 - 320


def test_a_folder_with_new_weights_finds_nothing_of_the_old(tmp_path: Path) -> None:
    """With the decoder that this machine serves folders with, the native one where there is one."""
    prompts = [[token % 256 for token in prompt] for prompt in family_of_prompts(4, seed=3)]

    def answers(seed: int, **settings: Any) -> tuple[list[list[int]], int]:
        folder = tmp_path / f"weights-{seed}"
        if not folder.exists():
            tiny_model_folder(folder, seed=seed)
        engine = Engine.from_folder(folder, EngineConfig(num_pages=200, **settings))
        tokens = [ask(engine, prompt, 6)[0] for prompt in prompts]
        engine.close()
        return tokens, engine.stats.disk_units_loaded

    plain, _ = answers(0, prefix_cache=False)
    disk = tmp_path / "cache"
    assert answers(0, prefix_disk=disk) == (plain, 0)
    again, loaded = answers(0, prefix_disk=disk)
    assert again == plain
    assert loaded > 4
    assert answers(1, prefix_disk=disk)[1] == 0


def test_what_memory_gave_up_comes_back_from_disk(tmp_path: Path) -> None:
    engine = disk_engine(HistoryDecoder(), tmp_path, num_pages=20, page_size=16)
    prompts = [letters(200, seed) for seed in range(6)]
    for prompt in prompts:
        ask(engine, prompt, 2)
        assert store_of(engine).flush(30)
    for prompt in prompts:
        assert ask(engine, prompt, 2) == (history_answer(prompt, 2), 192)
    assert engine.stats.disk_units_loaded > 0


def test_a_long_restore_takes_several_steps_and_holds_up_nobody(tmp_path: Path) -> None:
    prompt = letters(400, 2)
    ask(disk_engine(HistoryDecoder(), tmp_path), prompt, 1)
    engine = disk_engine(HistoryDecoder(), tmp_path)
    store_of(engine).units_per_load = 2
    other = engine.add([1, 2, 3], greedy(20))
    engine.step()
    restored = engine.add(prompt, greedy(3))
    steps = [{output.request_id for output in engine.step()} for _ in range(3)]
    assert steps == [{other}, {other}, {other, restored}]
    answers: dict[str, list[int]] = {other: [], restored: []}
    for output in drain(engine):
        answers[output.request_id] += output.token_ids
    assert engine.stats.disk_units_loaded == 6


@pytest.mark.parametrize("settings", [{"page_size": 16, "num_pages": 26}, {"page_size": 24, "num_pages": 24}], ids=str)
def test_random_work_with_restarts(settings: dict[str, int], tmp_path: Path) -> None:
    dice = random.Random(5)
    prompts = family_of_prompts(16, seed=6, longest=200)
    loaded = preempted = 0
    for _ in range(4):
        engine = disk_engine(HistoryDecoder(), tmp_path, max_sequences=5, prefill_chunk=50, **settings)
        store_of(engine).units_per_load = 1
        asked: dict[str, tuple[list[int], int]] = {}
        answers: dict[str, list[int]] = {}
        for _ in range(60):
            if dice.random() < 0.3:
                prompt, count = dice.choice(prompts), dice.randint(1, 90)
                name = engine.add(prompt, greedy(count))
                asked[name], answers[name] = (prompt, count), []
            for output in engine.step():
                answers[output.request_id] += output.token_ids
            engine.check_integrity()
        for output in drain(engine):
            answers[output.request_id] += output.token_ids
        for name, (prompt, count) in asked.items():
            assert answers[name] == history_answer(prompt, count)
        engine.close()
        loaded += engine.stats.disk_units_loaded
        preempted += engine.stats.preemptions
    assert loaded > 10
    assert preempted > 0


def test_tenants_and_models_find_nothing_of_each_other(tmp_path: Path) -> None:
    prompt = letters(200, 7)
    ask(disk_engine(HistoryDecoder(), tmp_path), prompt, 1, salt="ann")
    engine = disk_engine(HistoryDecoder(), tmp_path)
    for salt in (None, "bob", ""):
        assert ask(engine, prompt, 1, salt=salt)[1] == 0
    assert engine.stats.disk_units_loaded == 0
    assert ask(engine, prompt, 1, salt="ann")[1] == 192
    engine.close()
    for change in ({"fingerprint": "other weights"}, {"cache_dtype": "bfloat16"}, {"page_size": 128}):
        other = disk_engine(HistoryDecoder(), tmp_path, **change)  # type: ignore[arg-type]
        assert ask(other, prompt, 1, salt="ann")[1] == 0
        other.close()
    longer = disk_engine(HistoryDecoder(max_positions=1024), tmp_path)
    assert ask(longer, prompt, 1, salt="ann")[1] == 0


def test_damage_costs_time_and_nothing_else(tmp_path: Path) -> None:
    prompt = letters(400, 8)
    ask(disk_engine(HistoryDecoder(), tmp_path), prompt, 5)
    whole = {path: path.read_bytes() for path in files_in(tmp_path)}
    assert len(whole) == 6
    dice = random.Random(9)
    hits = set()
    for _ in range(12):
        for path, content in whole.items():
            path.write_bytes(content)
        victim = dice.choice(list(whole))
        content = bytearray(whole[victim])
        if dice.random() < 0.5:
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        else:
            del content[dice.randrange(len(content)) :]
        victim.write_bytes(content)
        engine = disk_engine(HistoryDecoder(), tmp_path)
        tokens, cached = ask(engine, prompt, 5)
        assert tokens == history_answer(prompt, 5)
        assert cached < 384
        hits.add(cached)
        engine.close()
        assert victim.read_bytes() == whole[victim], "computed and kept anew"
    assert len(hits) > 2


def test_budget_holds_under_work(tmp_path: Path) -> None:
    engine = disk_engine(HistoryDecoder(), tmp_path, num_pages=24, prefix_disk_bytes=10_000)
    for seed in range(12):
        ask(engine, letters(260, seed), 1)
        assert store_of(engine).flush(30)
        assert sum(path.stat().st_size for path in files_in(tmp_path)) <= 10_000
    assert len(files_in(tmp_path)) == 10_000 // files_in(tmp_path)[0].stat().st_size
    assert ask(engine, letters(260, 11), 1)[1] == 256


def test_overflow_leaves_nothing_on_disk(tmp_path: Path) -> None:
    prompt = letters(150, 10)
    engine = disk_engine(FaultyDecoder(poison=history_answer(prompt, 4)[3]), tmp_path)
    engine.add(prompt, greedy(9))
    assert list(drain(engine))[-1].finish_reason == "error"
    assert store_of(engine).flush(30)
    assert files_in(tmp_path) == []


def test_a_cancelled_unit_is_read_no_more(tmp_path: Path) -> None:
    cache = KVCache(tiny_config("mla"), 64 * 16, dtype=torch.float32)
    pages = CachePages(cache, page_size=16, pages_per_unit=4)
    folder = UnitFolder(tmp_path, identity=bytes(32), token_bytes=256, payload_bytes=pages.unit_bytes)
    store = DiskStore(folder, pages, limit=None)
    latents = cache.tensors["latent"]
    latents.fill_(1.0)
    records = [UnitRecord(bytes([number]) * 32, bytes(32), bytes(256)) for number in range(16)]
    for _ in range(20):
        for number, record in enumerate(records):
            store.save(record, range(4 * number, 4 * number + 4))
        for number, record in enumerate(records):
            store.cancel(record.key)
            latents[:, 64 * number : 64 * number + 64] = 2.0
        assert store.flush(30)
        for record in records:
            for payload in folder.read([record]):
                assert (payload.view("float32") == 1.0).all()
        store.discard([record.key for record in records])
        assert store.flush(30)
        latents.fill_(1.0)
    store.close()


def test_two_engines_share_a_folder(tmp_path: Path) -> None:
    engines = [disk_engine(HistoryDecoder(), tmp_path, num_pages=24, prefix_disk_bytes=20_000) for _ in range(2)]
    prompts = family_of_prompts(12, seed=11, longest=260)
    for number in range(36):
        prompt = prompts[number * 7 % 12]
        assert ask(engines[number % 2], prompt, 3)[0] == history_answer(prompt, 3)
        assert store_of(engines[number % 2]).flush(30)
    assert all(engine.stats.disk_units_loaded > 0 for engine in engines)


def test_a_disk_that_fails_is_a_warning_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "cache"
    engine = disk_engine(HistoryDecoder(), root)
    ask(engine, letters(100, 12), 1)
    assert store_of(engine).flush(30)
    (file,) = files_in(root)
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("a file where the folder was")
    for seed in range(13, 16):
        prompt = letters(200, seed)
        assert ask(engine, prompt, 2)[0] == history_answer(prompt, 2)
        assert store_of(engine).flush(30)
        assert ask(engine, prompt, 2)[1] == 192
    assert len(caplog.records) == 1
    assert str(root) in caplog.text
    assert store_of(engine).num_lost == 9
    # A minute later, and the disk is well again.
    file.parent.unlink()
    store_of(engine)._paused_until = 0.0
    ask(engine, letters(200, 19), 1)
    assert store_of(engine).flush(30)
    assert len(files_in(root)) == 3


def test_a_folder_that_was_cleared_away_is_made_again(tmp_path: Path) -> None:
    engine = disk_engine(HistoryDecoder(), tmp_path / "cache")
    for seed in (16, 17):
        ask(engine, letters(100, seed), 1)
        assert store_of(engine).flush(30)
        (file,) = files_in(tmp_path)
        file.unlink()
        file.parent.rmdir()
        file.parent.parent.rmdir()
    assert engine.stats.disk_units_saved == 2


def test_a_folder_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    engine = disk_engine(HistoryDecoder(), tmp_path / "file" / "cache")
    assert engine.prefix_folder is None
    prompt = letters(100, 18)
    for cached in (0, 64):
        assert ask(engine, prompt, 1) == (history_answer(prompt, 1), cached)
    assert caplog.text.count("memory only") == 1
    with pytest.raises(EngineError, match="fingerprint"):
        Engine(HistoryDecoder(), byte_tokenizer(), None, EngineConfig(prefix_disk=tmp_path, num_pages=10))


def test_a_unit_larger_than_the_budget(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = disk_engine(HistoryDecoder(), tmp_path, prefix_disk_bytes=100)
    ask(engine, letters(200, 19), 1)
    assert store_of(engine).flush(30)
    assert files_in(tmp_path) == []
    assert "budget" in caplog.text


def test_a_closed_engine_works_on(tmp_path: Path) -> None:
    engine = disk_engine(HistoryDecoder(), tmp_path)
    ask(engine, letters(100, 20), 1)
    engine.close()
    engine.close()
    assert len(files_in(tmp_path)) == 1
    prompt = letters(100, 21)
    assert ask(engine, prompt, 3)[0] == history_answer(prompt, 3)
    assert len(files_in(tmp_path)) == 1


SERVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from engine_fakes import HistoryDecoder
from prefix_samples import ask, disk_engine, letters
engine = disk_engine(HistoryDecoder(), Path({root!r}))
for seed in range(10**6):
    ask(engine, letters(300, seed % 50), 1)
    if seed == 12:
        assert engine._disk_store.flush(60)
    print(seed, flush=True)
"""


def test_a_killed_engine_leaves_only_what_is_right(tmp_path: Path) -> None:
    script = SERVER.format(tests=str(Path(__file__).parent.parent), root=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        while int(process.stdout.readline()) < 15:
            pass
        process.send_signal(signal.SIGKILL)
    engine = disk_engine(HistoryDecoder(), tmp_path)
    cached = 0
    for seed in range(20):
        prompt = letters(300, seed)
        tokens, hits = ask(engine, prompt, 3)
        assert tokens == history_answer(prompt, 3)
        cached += hits
    assert cached >= 13 * 256


def test_memory_does_not_grow_with_requests(tmp_path: Path) -> None:
    engine = disk_engine(HistoryDecoder(), tmp_path, num_pages=24, prefix_disk_bytes=20_000)
    store: Any = store_of(engine)
    for number in range(300):
        engine.add([number % 251] * (number % 150 + 1), greedy(1), cache_salt=str(number % 5))
        while engine.has_work:
            engine.step()
    assert store.flush(30)
    assert (len(store._queue), len(store._chores)) == (0, 0)
    assert len(files_in(tmp_path)) <= 20_000 // store._folder.file_bytes
