"""Readers of requests are sure only of what is so."""

from __future__ import annotations

import datetime as dt
from random import Random
from typing import Any

import pytest

from deepground.agent.travel.request_facts import contradictions, read_facts, spelled_as_asked, unsaid
from deepground.agent.travel.world import World
from deepground.tasks.trips import TripAgent

CHECKED = (
    "origin", "destinations", "days", "travellers", "children", "budget", "currency", "start", "transport",
    "avoid_transport",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("Plan a 3-day trip from Taipei to Tainan for two under NT$12,000.",
         {"origin": "Taipei", "destinations": ("Tainan",), "days": 3, "travellers": 2, "budget": 12000,
          "currency": "TWD"}),
        ("請安排從台北到台南的三天行程，兩個人，預算NT$12,000。",
         {"origin": "台北", "destinations": ("台南",), "days": 3, "travellers": 2, "budget": 12000, "currency": "TWD"}),
        ("Four days in Kyoto and Nara from Osaka, 2 adults and 1 child, at most 90,000 yen, from May 3, 2026",
         {"origin": "Osaka", "destinations": ("Kyoto", "Nara"), "days": 4, "travellers": 3, "children": 1,
          "budget": 90000, "currency": "JPY", "start": dt.date(2026, 5, 3)}),
        ("臺中出發，2026年5月3日，花蓮2天，2大1小",
         {"origin": "臺中", "destinations": ("花蓮",), "days": 2, "travellers": 3, "children": 1,
          "start": dt.date(2026, 5, 3)}),
        ("A weekend in Tainan from Taipei by train",
         {"origin": "Taipei", "destinations": ("Tainan",), "days": 2, "transport": ("train",)}),
        ("從台北到台南3天，不搭高鐵",
         {"origin": "台北", "destinations": ("台南",), "days": 3, "avoid_transport": ("hsr",)}),
    ],
)  # fmt: skip
def test_what_is_said_is_read(world: World, text: str, fields: dict[str, Any]) -> None:
    facts = read_facts(text, world)
    assert {name: value for name in CHECKED if (value := getattr(facts, name)) is not None} == fields


@pytest.mark.parametrize(
    "text",
    [
        "Plan a trip to Tainan.",  # no origin that is sure
        "3 days or 4 days, under 10,000 or under 12,000",
        "We visit the Taipei Museum on May 3",
        "我想去日光玩",
        "",
    ],
)
def test_what_is_not_sure_is_not_said(world: World, text: str) -> None:
    facts = read_facts(text, world)
    assert all(getattr(facts, name) is None for name in CHECKED)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_right_arguments_are_never_contradicted(world: World, language: Any) -> None:
    for seed in range(300):
        rng = Random(seed)
        _, arguments, text = TripAgent().request(rng, ("train", "test")[seed % 2], 1 + seed % 4, language)  # type: ignore[arg-type]
        assert contradictions(arguments, read_facts(text, world), world) == {}, text
        assert unsaid(arguments, read_facts(text, world)) == [], text


@pytest.mark.parametrize(
    ("text", "arguments", "fields"),
    [
        ("3 days in Tainan from Taipei", {"travellers": 4, "budget": 9000, "min_stars": 3, "start": "2026-10-01"},
         ["travellers", "budget", "start", "min_stars"]),
        ("3 days in Tainan from Taipei", {"travellers": 1, "days": 3, "transport": ["bus"]}, ["transport"]),
        ("從台北去台南3天", {"travellers": 2, "children": 1}, ["travellers", "children"]),
        ("Organize a 3-day tour of Kyoto from Hakone.", {"travellers": 4}, ["travellers"]),
        ("從台北去台南3天，我們夫妻兩人", {"travellers": 2}, []),
        ("3 days in Tainan from Taipei this weekend for my wife and me, good hotels",
         {"travellers": 2, "start": "2026-10-03", "min_stars": 4}, []),
        ("和太太從台北去台南3天", {"travellers": 2}, []),
        ("3 days in Tainan from Taipei with my family, next week, by car, cheap",
         {"travellers": 4, "children": 2, "budget": 900, "start": "2026-10-01", "transport": ["bus"]}, []),
    ],
)  # fmt: skip
def test_what_is_not_said_is_named(world: World, text: str, arguments: dict[str, Any], fields: list[str]) -> None:
    assert unsaid(arguments, read_facts(text, world)) == fields


@pytest.mark.parametrize(
    ("change", "field", "right"),
    [
        ({"days": 4}, "days", 3), ({"budget": 1200}, "budget", 12000), ({"budget": None}, "budget", 12000),
        ({"travellers": None}, "travellers", 2), ({"origin": "Tainan"}, "origin", "Taipei"),
        ({"destinations": ["Taichung"]}, "destinations", ["Tainan"]), ({"currency": "JPY"}, "currency", "TWD"),
        ({"destinations": []}, "destinations", ["Tainan"]), ({"diet": ["vegan"]}, "diet", []),
        ({"destinations": ["Tainan", "Kyoto"]}, "destinations", ["Tainan"]),
    ],
)  # fmt: skip
def test_what_differs_is_named_with_what_the_request_says(
    world: World, change: dict[str, Any], field: str, right: Any
) -> None:
    facts = read_facts("Plan a 3-day trip from Taipei to Tainan for two under NT$12,000.", world)
    arguments = {
        "origin": "台北",
        "destinations": ["tainan"],
        "days": 3,
        "travellers": 2,
        "budget": 12000,
        "currency": "TWD",
    }
    changed = {name: value for name, value in {**arguments, **change}.items() if value is not None}
    assert contradictions(changed, facts, world) == {field: right}


@pytest.mark.parametrize(
    ("written", "read"),
    [("奈良鍵", "奈良"), ("奈良", "奈良"), ("Nara", "Nara"), ("大阪鍵", "大阪鍵"), ("名古屋x", "名古屋"), (3, 3)],
)
def test_a_slip_behind_a_city_of_the_request_is_passed_over(world: World, written: Any, read: Any) -> None:
    facts = read_facts("想去名古屋8天，從奈良走", world)
    given = {"origin": written, "destinations": [written], "days": 8}
    assert spelled_as_asked(given, facts, world) == {"origin": read, "destinations": [read], "days": 8}
