from __future__ import annotations

import os
from pathlib import Path

from deepground.kernels.placement import numa_nodes, place_threads


def machine(folder: Path, *, nodes: list[str], siblings: dict[int, str]) -> Path:
    """A description of hardware as Linux gives it, for the processors that this process may use."""
    for index, cpus in enumerate(nodes):
        (folder / "node" / f"node{index}").mkdir(parents=True)
        (folder / "node" / f"node{index}" / "cpulist").write_text(cpus + "\n")
    for cpu, group in siblings.items():
        topology = folder / "cpu" / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(group + "\n")
    return folder


def test_lists_of_the_kernel_are_read(tmp_path: Path) -> None:
    system = machine(tmp_path, nodes=["0-3,8-9", "4-7", ""], siblings={})
    assert numa_nodes(system) == [[0, 1, 2, 3, 8, 9], [4, 5, 6, 7]]


def test_one_thread_per_core_first(tmp_path: Path) -> None:
    first, second = sorted(os.sched_getaffinity(0))[:2]
    system = machine(
        tmp_path, nodes=[f"{first},{second}"], siblings={first: f"{first},{second}", second: f"{first},{second}"}
    )
    allowed = sorted(os.sched_getaffinity(0))
    assert second not in place_threads(system=system)
    assert place_threads(len(allowed), system=system) == [first, *allowed[2:], second]


def test_nodes_in_order(tmp_path: Path) -> None:
    """The second processor stands on the first node."""
    first, second = sorted(os.sched_getaffinity(0))[:2]
    system = machine(tmp_path, nodes=[str(second), str(first)], siblings={})
    order = place_threads(2, system=system)
    assert order.index(second) < order.index(first)


def test_more_threads_than_processors_start_over() -> None:
    allowed = len(os.sched_getaffinity(0))
    placed = place_threads(2 * allowed + 1)
    assert len(placed) == 2 * allowed + 1
    assert set(placed) <= os.sched_getaffinity(0)


def test_a_container_with_less_time_gets_fewer_threads() -> None:
    assert len(place_threads(cores=1)) == 1
