"""A file is used if every byte of it is right, and otherwise it is not there."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from deepground.engine.prefix_budget import DiskBudget
from deepground.engine.prefix_cache import UnitRecord
from deepground.engine.prefix_files import UnitFolder
from deepground.errors import EngineError

PAYLOAD = 3000
TOKENS = 256


def folder_at(root: Path, identity: bytes = b"\1" * 32) -> UnitFolder:
    return UnitFolder(root, identity=identity, token_bytes=TOKENS, payload_bytes=PAYLOAD)


def unit(number: int) -> tuple[UnitRecord, np.ndarray]:
    """A record and the payload that belongs to it."""
    key = sha256(str(number).encode()).digest()
    tokens = np.random.default_rng(number).integers(0, 256, TOKENS, dtype=np.uint8).tobytes()
    payload = np.random.default_rng(number + 1000).integers(0, 256, PAYLOAD, dtype=np.uint8)
    return UnitRecord(key, sha256(key).digest(), tokens), payload


def read(folder: UnitFolder, *records: UnitRecord) -> list[bytes]:
    return [payload.tobytes() for payload in folder.read(records)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "a" / "b")
    records, payloads = zip(*(unit(number) for number in range(5)), strict=True)
    for number in (0, 1, 3):
        folder.write(records[number], payloads[number])
    assert read(folder, *records) == [payloads[0].tobytes(), payloads[1].tobytes()]
    assert read(folder_at(tmp_path / "a" / "b"), records[3]) == [payloads[3].tobytes()]
    assert read(folder, records[4]) == []
    assert read(folder_at(tmp_path / "a" / "b", b"\2" * 32), records[0]) == []


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        folder = folder_at(tmp_path / "new")
        record, payload = unit(0)
        folder.write(record, payload)
    finally:
        os.umask(old)
    modes = [path.stat().st_mode & 0o777 for path in (folder.root, folder.path, folder.file_of(record.key))]
    assert modes == [0o700, 0o700, 0o600]
    folder.path.chmod(0o755)
    assert folder_at(tmp_path / "new").path.stat().st_mode & 0o777 == 0o700
    folder.path.chmod(0o777)
    with pytest.raises(EngineError, match="others may write"):
        folder_at(tmp_path / "new")
    folder.path.chmod(0o700)
    folder.root.chmod(0o777)
    with pytest.raises(EngineError, match="everybody"):
        folder_at(tmp_path / "new")


def flipped(position: int) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        index = position % len(content)
        return content[:index] + bytes([content[index] ^ 0x10]) + content[index + 1 :]

    return damage


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    **{f"bit flipped at {position}": flipped(position) for position in (0, 9, 20, 50, 100, 130, 300, 390, 500, -1)},
    **{f"first {size} bytes": lambda content, size=size: content[:size] for size in (0, 1, 200, 400, 1000)},
    "one byte short": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\0",
    "a hole of zeros": lambda content: content[:1000] + bytes(512) + content[1512:],
    "zeros": lambda content: bytes(len(content)),
    "twice": lambda content: content * 2,
}


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    record, payload = unit(6)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, usual[1]))
    try:
        with pytest.raises(OSError, match="large"):
            folder.write(record, payload)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_deleted_and_never_used(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = folder_at(tmp_path)
    (first, payload), (second, other) = unit(1), unit(2)
    folder.write(first, payload)
    folder.write(second, other)
    path = folder.file_of(second.key)
    path.write_bytes(damage(path.read_bytes()))
    assert read(folder, first, second) == [payload.tobytes()]
    assert not path.exists()
    folder.write(second, other)
    assert read(folder, first, second) == [payload.tobytes(), other.tobytes()]


def test_every_single_byte_counts(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    record, payload = unit(3)
    folder.write(record, payload)
    path = folder.file_of(record.key)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(flipped(position)(whole))
        assert read(folder, record) == [], position


def test_a_file_of_another_place_is_not_used(tmp_path: Path) -> None:
    ours, theirs = folder_at(tmp_path), folder_at(tmp_path, b"\2" * 32)
    record, payload = unit(4)
    theirs.write(record, payload)
    target = ours.file_of(record.key)
    target.write_bytes(theirs.file_of(record.key).read_bytes())
    assert read(ours, record) == []
    target.symlink_to(theirs.file_of(record.key))
    assert read(ours, record) == []
    target.unlink()
    target.mkdir()
    assert read(ours, record) == []
    target.rmdir()
    other, content = unit(5)
    ours.write(other, content)
    ours.file_of(other.key).rename(target)
    assert read(ours, record) == []
    tokens = UnitRecord(record.key, record.parent, bytes(TOKENS))
    ours.write(record, payload)
    assert read(ours, tokens) == []
    ours.write(record, payload)
    assert read(ours, UnitRecord(record.key, bytes(32), record.tokens)) == []


def test_budget_keeps_what_was_used_last(tmp_path: Path) -> None:
    folder, others = folder_at(tmp_path), folder_at(tmp_path, b"\2" * 32)
    budget = DiskBudget(tmp_path, 4 * folder.file_bytes)
    units = [unit(number) for number in range(8)]

    def keep(number: int, where: UnitFolder = folder) -> None:
        assert budget.make_room(where.file_bytes)
        where.write(*units[number])
        budget.add(where.file_of(units[number][0].key), where.file_bytes)

    def there() -> set[int]:
        return {n for n, (record, _) in enumerate(units) for f in (folder, others) if f.file_of(record.key).exists()}

    keep(0, others)
    for number in (1, 2, 3):
        keep(number)
    budget.touch([folder.file_of(units[number][0].key) for number in (2, 1)])
    keep(4)
    assert there() == {1, 2, 3, 4}
    assert not others.path.exists(), "nothing of that model is left"
    keep(5)
    assert there() == {1, 2, 4, 5}
    assert budget.used == 4 * folder.file_bytes
    # The order survives a restart.
    budget = DiskBudget(tmp_path, 3 * folder.file_bytes)
    assert budget.used == 4 * folder.file_bytes
    assert budget.make_room(folder.file_bytes)
    assert there() == {4, 5}
    assert not budget.make_room(5 * folder.file_bytes)


def test_what_another_process_used_stays(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    units = [unit(number) for number in range(4)]
    for record, payload in units[:3]:
        folder.write(record, payload)
        time.sleep(0.005)  # The kernel's clock for files moves in steps.
    ours = DiskBudget(tmp_path, 3 * folder.file_bytes)
    DiskBudget(tmp_path, None).touch([folder.file_of(units[0][0].key)])
    assert ours.make_room(folder.file_bytes)
    assert [folder.file_of(record.key).exists() for record, _ in units[:3]] == [True, False, True]
    for record, _ in units[:3]:
        folder.delete(record.key)
    assert ours.make_room(3 * folder.file_bytes), "files that are gone take no room"


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    mine = [tmp_path / "notes.txt", tmp_path / "data" / f"{'a' * 64}.unit", folder.path / "thesis.tmp"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("precious")
        os.utime(path, (0, 0))
    budget = DiskBudget(tmp_path, 1)
    assert budget.used == 0
    budget.make_room(1)
    assert all(path.read_text() == "precious" for path in mine)


WRITER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_prefix_files import folder_at, unit
units = [unit(number) for number in range(40)]
for _ in range({rounds}):
    child = os.fork()
    if child == 0:
        folder = folder_at(Path({root!r}))
        while True:
            for record, payload in units:
                folder.write(record, payload)
                folder.delete(units[0][0].key)
    time.sleep(0.03)
    os.kill(child, 9)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""


def test_killed_writers_leave_no_torn_unit(tmp_path: Path) -> None:
    script = WRITER.format(tests=str(Path(__file__).parent), root=str(tmp_path), rounds=15)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        folder = folder_at(tmp_path)
        assert process.stdout
        whole = 0
        for line in process.stdout:
            assert line == "killed\n"
            for record, payload in map(unit, range(40)):
                got = read(folder, record)
                assert got in ([], [payload.tobytes()])
                whole += len(got)
        assert whole > 50
    assert process.returncode == 0
    assert all(path.stat().st_size == folder.file_bytes for path in folder.path.glob("*.unit"))
    DiskBudget(tmp_path, None)
    assert list(folder.path.glob("*.tmp")) == []


def test_a_temporary_file_of_a_living_writer_stays(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    living = folder.path / f"{'b' * 64}.{os.getpid()}-7.tmp"
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    dead = folder.path / f"{'b' * 64}.{process.pid}-7.tmp"
    old = folder.path / f"{'c' * 64}.{os.getpid()}-8.tmp"
    for path in (living, dead, old):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    DiskBudget(tmp_path, None)
    assert [path.exists() for path in (living, dead, old)] == [True, False, False]


def test_default_budget_is_a_tenth_of_what_is_free(tmp_path: Path) -> None:
    budget = DiskBudget(tmp_path, None)
    status = os.statvfs(tmp_path)
    assert 0 < budget.limit <= 8 * 2**30
    assert budget.limit <= status.f_bavail * status.f_frsize // 10 + 2**28
