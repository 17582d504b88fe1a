"""Metrics, logs, the audit log, fairness, and how a server stops taking on work."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from pathlib import Path

import httpx
import pytest
from starlette.exceptions import HTTPException
from typer.testing import CliRunner

from deepground.cli import app
from deepground.errors import AuditError
from deepground.server import AuditLog, ServerLimits, verify_audit
from deepground.server.gate import Gate
from deepground.server.logs import configure_logging
from server_fakes import ScriptedService, running_server, wait_until

CHAT = "/v1/chat/completions"
SECRET = "a secret of mine"


def ask(text: str = f"echo {SECRET}", **fields: object) -> dict[str, object]:
    return {"model": "scripted", "messages": [{"role": "user", "content": text}], **fields}


def figure(text: str, start: str) -> float:
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return float(line.rpartition(" ")[2])


def test_metrics_count_what_happened() -> None:
    with running_server(ScriptedService()) as url:
        for stream in (False, True):
            httpx.post(url + CHAT, json=ask(stream=stream)).raise_for_status()
        httpx.post(url + CHAT, json={})
        text = httpx.get(f"{url}/metrics").text
    assert figure(text, 'deepground_requests_total{finish="stop",key="local",route="chat"}') == 2
    assert figure(text, 'deepground_tokens_total{key="local",kind="computed_prompt"}') == 8
    assert figure(text, 'deepground_tokens_total{key="local",kind="reasoning"}') == 4
    assert figure(text, 'deepground_http_responses_total{route="/v1/chat/completions",status="400"}') == 1
    assert figure(text, "deepground_time_to_first_token_seconds_count") == 2
    assert figure(text, "deepground_inter_token_seconds_count") > 2
    assert figure(text, "deepground_requests_under_way") == 0
    assert figure(text, "deepground_up") == 1
    assert SECRET not in text


def test_logs_and_audit_tell_how_much_and_never_what(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "logs" / "audit.jsonl"
    audit = AuditLog(path)
    with caplog.at_level(logging.INFO), running_server(ScriptedService(), audit=audit) as url:
        httpx.post(url + CHAT, json=ask(user="ann")).raise_for_status()
        httpx.post(url + CHAT, json=ask("fail"))
        httpx.post(url + CHAT, json=ask(f"forbidden {SECRET}", temperature=9))
    audit.close()
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(e["user"], e["key"], e["route"], e["finish"]) for e in entries] == [
        ("ann", "local", "chat", "stop"),
        (None, "local", "chat", "error"),
    ]
    assert entries[0]["completion_tokens"] == 6
    assert entries[0]["time"] > 1.7e9
    everything = path.read_text() + caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert SECRET not in everything
    assert path.stat().st_mode & 0o077 == 0


def test_the_audit_log_shows_tampering(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(2):  # it is gone on with after a restart
        audit = AuditLog(path)
        for number in range(3):
            audit.write({"number": number})
        with pytest.raises(AuditError, match="in use"):
            AuditLog(path)
        audit.close()
    assert verify_audit(path) == 6
    lines = path.read_text().splitlines(keepends=True)
    for damaged in (
        lines[:2] + lines[3:],
        [*lines[:2], lines[2].replace("2", "7", 1), *lines[3:]],
        [*lines[:3], lines[1], *lines[3:]],
        [*lines, '{"number": 9}\n'],
        [*lines, "nonsense"],
    ):
        path.write_text("".join(damaged))
        with pytest.raises(AuditError, match="line"):
            verify_audit(path)
    path.write_text("".join(lines))
    assert "6 entries" in CliRunner().invoke(app, ["keys", "check-log", str(path)]).stdout


def test_a_torn_last_line_does_not_stop_the_server(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"time": 1, "prev')
    audit = AuditLog(path)
    audit.write({"after": True})
    audit.close()
    assert json.loads(path.read_text().splitlines()[1])["after"]
    with pytest.raises(AuditError, match="line 1"):
        verify_audit(path)


def test_json_logs(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers.clear()
    try:
        configure_logging(as_json=True)
        logging.getLogger("deepground.server").info("request", extra={"fields": {"finish": "stop"}})
        entry = json.loads(capsys.readouterr().err)
    finally:
        root.handlers[:], level = before
        root.setLevel(level)
    assert (entry["message"], entry["finish"], entry["level"]) == ("request", "stop", "info")


def test_keys_take_turns() -> None:
    async def run() -> list[str]:
        gate = Gate(max_running=1, max_requests=99, max_wait_s=5)
        order: list[str] = []

        async def one(key: str) -> None:
            async with gate.place(key):
                order.append(key)
                await asyncio.sleep(0)

        greedy = [asyncio.create_task(one("greedy")) for _ in range(5)]
        await asyncio.sleep(0)
        modest = asyncio.create_task(one("modest"))
        await asyncio.gather(*greedy, modest)
        assert (gate.running, gate.waiting) == (0, 0)
        return order

    assert asyncio.run(run()).index("modest") <= 3


def test_places_are_not_lost_when_waiting_ends_early() -> None:
    async def run() -> None:
        gate = Gate(max_running=1, max_requests=99, max_wait_s=0.05)
        async with gate.place("a"):
            with pytest.raises(HTTPException, match="503"):
                async with gate.place("b"):
                    raise AssertionError
            waiting = asyncio.create_task(gate.place("c").__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with gate.place("d"):
            assert (gate.running, gate.waiting) == (1, 0)

    asyncio.run(run())


def test_more_requests_than_places_wait_their_turn() -> None:
    service = ScriptedService()
    with running_server(service, limits=ServerLimits(max_running=2, keep_alive_s=0.05)) as url:
        texts: list[str] = []

        def one() -> None:
            texts.append(httpx.post(url + CHAT, json=ask("slow 0.05"), timeout=20).text)

        threads = [threading.Thread(target=one) for _ in range(8)]
        for thread in threads:
            thread.start()
        most = 0
        while any(thread.is_alive() for thread in threads):
            most = max(most, service.running)
        assert most == 2
    assert [json.loads(text)["choices"][0]["finish_reason"] for text in texts] == ["stop"] * 8
    assert any(text.startswith("\n") for text in texts), "whole replies send empty lines while they wait"


def test_a_stopping_server_takes_nothing_on_and_ends_what_runs() -> None:
    service = ScriptedService()
    with running_server(service, grace_s=5) as url, httpx.Client(base_url=url, timeout=20) as client:
        client.get("/health").raise_for_status()
        done: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: done.append(httpx.post(url + CHAT, json=ask("slow 0.3"), timeout=20)))
        thread.start()
        wait_until(lambda: service.running == 1)
    thread.join()
    assert done[0].json()["choices"][0]["finish_reason"] == "stop"
    assert service.aborted == 0


def test_browsers_of_other_origins_are_not_served_unless_they_are_named() -> None:
    headers = {"origin": "https://chat.example", "access-control-request-method": "POST"}
    with running_server(ScriptedService()) as url:
        assert "access-control-allow-origin" not in httpx.options(url + CHAT, headers=headers).headers
    with running_server(ScriptedService(), cors_origins=["https://chat.example"]) as url:
        allowed = httpx.options(url + CHAT, headers=headers)
        assert allowed.headers["access-control-allow-origin"] == "https://chat.example"
        other = httpx.options(url + CHAT, headers={**headers, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_the_dashboard_draws_figures_that_exist() -> None:
    dashboard = json.loads((Path(__file__).parents[2] / "deploy" / "grafana-dashboard.json").read_text())
    drawn = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"deepground_\w+", target["expr"])
    }
    with running_server(ScriptedService()) as url:
        httpx.post(url + CHAT, json=ask()).raise_for_status()
        text = httpx.get(f"{url}/metrics").text
    told = set(re.findall(r"^(deepground_\w+)", text, re.MULTILINE))
    assert len(drawn) > 12
    assert drawn <= told
