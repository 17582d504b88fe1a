"""Which processors the kernels' threads run on: one per physical core, node by node.

Source: Linux, Documentation/admin-guide/cputopology.rst (`thread_siblings_list`) and
Documentation/ABI/stable/sysfs-devices-node (`cpulist`).

Weights are packed by the thread that later reads them, in the same split; on Linux a page lives on the node of the
thread that first writes it. With threads pinned in node order, each node reads its own share of every matrix.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_SYSTEM = Path("/sys/devices/system")


def place_threads(threads: int | None = None, *, cores: int | None = None, system: Path = _SYSTEM) -> list[int]:
    """The logical processor of each thread.

    Args:
        threads: how many; None: one per physical core that this process may use.
        cores: most threads to choose by oneself, where a container grants less time than processors.
        system: the root of the kernel's description of the hardware.

    Returns:
        Processor numbers, one per thread. More threads than cores take sibling threads, then start over.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    nodes = numa_nodes(system)
    node_of = {cpu: index for index, node in enumerate(nodes) for cpu in node}
    first, siblings, seen = list[int](), list[int](), set[int]()
    for cpu in allowed:
        group = _read_list(system / "cpu" / f"cpu{cpu}" / "topology" / "thread_siblings_list") or [cpu]
        (siblings if seen.intersection(group) else first).append(cpu)
        seen.add(cpu)
    first.sort(key=lambda cpu: (node_of.get(cpu, 0), cpu))
    if threads is None:
        threads = len(first) if cores is None else max(1, min(len(first), cores))
    if threads < len(first) and len(nodes) > 1:
        first = _spread(first, node_of, threads)
    order = first + siblings
    return [order[index % len(order)] for index in range(threads)]


def numa_nodes(system: Path = _SYSTEM) -> list[list[int]]:
    """Processors of each memory node, nodes without processors left out."""
    folders = sorted(system.glob("node/node[0-9]*"), key=lambda folder: int(folder.name.removeprefix("node")))
    return [cpus for folder in folders if (cpus := _read_list(folder / "cpulist"))]


def _spread(cores: list[int], node_of: dict[int, int], threads: int) -> list[int]:
    """Equal shares from every node, so that all memory channels are used, still node by node."""
    by_node: dict[int, list[int]] = {}
    for cpu in cores:
        by_node.setdefault(node_of.get(cpu, 0), []).append(cpu)
    chosen: list[int] = []
    while len(chosen) < threads:
        for node in by_node.values():
            if node and len(chosen) < threads:
                chosen.append(node.pop(0))
    return sorted(chosen, key=lambda cpu: (node_of.get(cpu, 0), cpu))


def _read_list(path: Path) -> list[int]:
    """Numbers of the kernel's list format, such as 0-3,8."""
    try:
        return list(_parse_list(path.read_text().strip().split(",")))
    except (OSError, ValueError):
        return []


def _parse_list(parts: Iterable[str]) -> Iterable[int]:
    for part in parts:
        first, _, last = part.partition("-")
        if part:
            yield from range(int(first), int(last or first) + 1)
