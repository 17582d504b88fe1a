"""Many clients at once for a minute, good, slow and bad ones: what they get, and what the server keeps of them.

    python benchmarks/load.py                       # the bundled pilot, 200 streams, 60 seconds
    python benchmarks/load.py --model FOLDER --streams 50 --seconds 1800

Starts `deepground serve` and keeps a number of streams open against it; a stream that ends is followed by another.
Of ten streams seven read to the end, one leaves on the way, one reads slowly, and one sends a wrong request. Reported:
time to the first token and between tokens, tokens per second, how evenly clients were served, errors that
were not asked for, and the server's memory, file handles, threads and cache pages before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

BAD_BODIES: tuple[bytes, ...] = (
    b"{",
    b"[]",
    b'{"model": "nobody", "messages": [{"role": "user", "content": "x"}]}',
    b'{"model": "deepseek-chat", "messages": [{"role": "user", "content": "x"}], "temperature": 99}',
    b'{"model": "deepseek-chat", "messages": []}',
)
SLOW_READ_S = 0.05
"""Pause of a slow client after every frame."""


@dataclass
class Tally:
    """What all clients saw."""

    first_token_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    tokens: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    """Errors that were not asked for."""
    replies: Counter[int] = field(default_factory=Counter)
    """Finished replies by client."""


@dataclass(frozen=True)
class State:
    """What the server's process holds."""

    memory_mib: float
    files: int
    threads: int
    pages_used: int
    under_way: int


async def main() -> None:
    """Run, and print a page of Markdown."""
    arguments = parse()
    command = [sys.executable, "-m", "deepground", "serve", "--port", "0", "--max-requests", str(2 * arguments.streams)]
    command += ["--log-format", "json", *([str(arguments.model)] if arguments.model else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            url = await asyncio.to_thread(wait_for_address, process)
            page = await measure(url, process.pid, arguments)
        finally:
            process.terminate()
            process.communicate(timeout=60)
    page += f"| exit code of the server | {process.returncode} |\n"
    print(page)
    if arguments.output:
        arguments.output.write_text(page)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="model folder; without it the bundled pilot")
    parser.add_argument("--streams", type=int, default=200, help="clients at one time")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--output", type=Path, help="also write the page here")
    return parser.parse_args()


def wait_for_address(process: subprocess.Popen[str]) -> str:
    """The address that the server prints; then until it answers."""
    assert process.stdout
    for line in process.stdout:
        if found := re.search(r"http://\S+:\d+", line):
            for _ in range(100):
                try:
                    httpx.get(f"{found[0]}/health").raise_for_status()
                except httpx.HTTPError:
                    time.sleep(0.1)
                else:
                    return found[0]
    raise SystemExit("the server did not start")


async def measure(url: str, pid: int, arguments: argparse.Namespace) -> str:
    """All clients for the given time; then what is left of them."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=arguments.streams)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        await warm_up(http)
        before = await state(http, pid)
        tally, start = Tally(), time.perf_counter()
        end = start + arguments.seconds
        clients = [client(http, number, end, tally) for number in range(arguments.streams)]
        await asyncio.gather(*clients)
        seconds = time.perf_counter() - start
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        for _ in range(100):
            after = await state(http, pid)
            if after.under_way == 0 and after.pages_used == 0:
                break
            await asyncio.sleep(0.1)
    return report(tally, seconds, before, after, arguments)


async def warm_up(http: httpx.AsyncClient) -> None:
    """As many requests as make the server reach its usual size."""
    body = {"model": "deepseek-chat", "messages": [{"role": "user", "content": "What is 1 + 1?"}], "max_tokens": 20}
    await asyncio.gather(*(http.post("/v1/chat/completions", json=body) for _ in range(40)))


async def client(http: httpx.AsyncClient, number: int, end: float, tally: Tally) -> None:
    """One client, which asks again and again."""
    chance = random.Random(number)
    while time.perf_counter() < end:
        kind = ("good", "good", "good", "good", "good", "good", "good", "leaves", "slow", "bad")[chance.randrange(10)]
        try:
            if kind == "bad":
                await ask_wrongly(http, chance, tally)
            else:
                await ask(http, number, kind, chance, tally)
        except (httpx.HTTPError, ValueError) as error:
            tally.faults[f"{kind}: {type(error).__name__}"] += 1


async def ask_wrongly(http: httpx.AsyncClient, chance: random.Random, tally: Tally) -> None:
    """A request that must be refused."""
    body = chance.choice(BAD_BODIES)
    response = await http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    tally.ends["refused" if response.status_code == 400 else f"wrongly {response.status_code}"] += 1


async def ask(http: httpx.AsyncClient, number: int, kind: str, chance: random.Random, tally: Tally) -> None:
    """A stream, read to its end, to some place, or slowly."""
    first, second = chance.randrange(100, 9999), chance.randrange(100, 9999)
    body = {
        "model": "deepseek-reasoner",
        "messages": [{"role": "user", "content": f"What is {first} + {second}?"}],
        "stream": True,
        "max_tokens": 200,
    }
    leave_after = chance.randrange(1, 15) if kind == "leaves" else None
    start = last = time.perf_counter()
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            tally.faults[f"{kind}: status {response.status_code}"] += 1
            return
        count = 0
        async for chunk in chunks(response):
            if "error" in chunk:
                tally.faults[f"{kind}: {chunk['error']['code']}"] += 1
                return
            now = time.perf_counter()
            delta = chunk["choices"][0]["delta"]
            if delta.get("reasoning_content") or delta.get("content"):
                (tally.gaps_s if count else tally.first_token_s).append(now - (last if count else start))
                count += 1
                last = now
            if chunk.get("usage"):
                tally.tokens += chunk["usage"]["completion_tokens"]
            if leave_after is not None and count >= leave_after:
                tally.ends["left"] += 1
                return
            if kind == "slow":
                await asyncio.sleep(SLOW_READ_S)
    tally.ends[f"read to the end, {kind}"] += 1
    if kind == "good":
        tally.replies[number] += 1


async def chunks(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of a stream's frames."""
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


async def state(http: httpx.AsyncClient, pid: int) -> State:
    """What the server holds now."""
    text = (await http.get("/metrics")).text

    def figure(name: str) -> int:
        found = re.search(rf"^deepground_{name} (\S+)$", text, re.MULTILINE)
        assert found
        return int(float(found[1]))

    process = psutil.Process(pid)
    return State(
        process.memory_info().rss / 2**20,
        process.num_fds(),
        process.num_threads(),
        figure("cache_pages_used"),
        figure("requests_under_way"),
    )


def report(tally: Tally, seconds: float, before: State, after: State, arguments: argparse.Namespace) -> str:
    """A page of Markdown."""
    replies = [tally.replies[number] for number in range(arguments.streams)]
    spread = f"{min(replies)} / {statistics.median(replies):.0f} / {max(replies)}"
    rows = [
        ("streams, seconds", f"{arguments.streams}, {seconds:.0f}"),
        ("replies", ", ".join(f"{count} {name}" for name, count in sorted(tally.ends.items()))),
        ("errors that were not asked for", ", ".join(f"{n} {name}" for name, n in tally.faults.items()) or "none"),
        ("tokens per second", f"{tally.tokens / seconds:,.0f}"),
        ("time to first token, s: median / p95 / p99", quantiles(tally.first_token_s)),
        ("between pieces of text, ms: median / p95 / p99", quantiles(tally.gaps_s, 1000)),
        ("finished replies by client: fewest / median / most", spread),
        ("memory before / after, MiB", f"{before.memory_mib:.0f} / {after.memory_mib:.0f}"),
        ("open files before / after", f"{before.files} / {after.files}"),
        ("threads before / after", f"{before.threads} / {after.threads}"),
        ("cache pages in use before / after", f"{before.pages_used} / {after.pages_used}"),
    ]
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def quantiles(values: Sequence[float], scale: float = 1.0) -> str:
    """Median, 95th and 99th percentile."""
    if len(values) < 2:
        return "too few"
    cuts = statistics.quantiles(values, n=100)
    return " / ".join(f"{cuts[n - 1] * scale:.2f}" for n in (50, 95, 99))


if __name__ == "__main__":
    asyncio.run(main())
