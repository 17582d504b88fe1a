from __future__ import annotations

from pathlib import Path

import pytest

from deepground.kernels.memory_limits import GroupMemory, read_group_memory

GIB = 2**30


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"memory.{name}").write_text(f"{content}\n")


def member(folder: Path, *lines: str) -> Path:
    file = folder / "membership"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def test_a_group_and_those_above_it(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    group(root / "user" / "job", max=4 * GIB, current=GIB, stat=f"anon 5\ninactive_file {GIB // 2}\nactive_file 7")
    group(root / "user", max="max", current=3 * GIB)
    group(root, max=8 * GIB, current=7 * GIB)
    found = read_group_memory(root, member(tmp_path, "0::/user/job"))
    assert found == [GroupMemory(4 * GIB, 4 * GIB - GIB // 2), GroupMemory(8 * GIB, GIB)]


def test_version_1(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    group(
        root / "memory" / "job",
        limit_in_bytes=2 * GIB,
        usage_in_bytes=GIB,
        stat=f"inactive_file 1\ntotal_inactive_file {GIB // 4}",
    )
    group(root / "memory", limit_in_bytes=9223372036854771712, usage_in_bytes=GIB)
    lines = ("9:name=systemd:/x", "5:cpu,cpuacct:/y", "4:memory:/job", "0::/")
    found = read_group_memory(root, member(tmp_path, *lines))
    assert found[0] == GroupMemory(2 * GIB, GIB + GIB // 4)
    assert found[1].limit > 2**60


def test_a_container_that_sees_the_hosts_path_finds_its_limit_at_the_root(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    group(root, max=GIB, current=2 * GIB)
    found = read_group_memory(root, member(tmp_path, "0::/docker/0123"))
    assert found == [GroupMemory(GIB, 0)]


@pytest.mark.parametrize("lines", [(), ("0::/",), ("nonsense",), ("4:memory:/../../etc",)])
def test_no_limit_is_found_where_there_is_none(tmp_path: Path, lines: tuple[str, ...]) -> None:
    assert read_group_memory(tmp_path / "none", member(tmp_path, *lines)) == []
    assert read_group_memory(tmp_path / "none", tmp_path / "missing") == []
