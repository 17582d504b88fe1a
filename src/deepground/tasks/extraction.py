"""JSON from short texts: orders, invoices, appointments and requests for a trip.

The question names the keys; the reply is one JSON object with these keys in this order. Values are copied, save
that dates become `YYYY-MM-DD`, times `HH:MM`, amounts and counts numbers, and that what a text does not say is null.
The trace writes these changes, one a line, and nothing that is only copied.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from deepground.tasks import entities
from deepground.tasks.entities import CHINESE_SHARE, Language, Written
from deepground.tasks.problem import Draft, Problem, ProceduralTask, Split

_FENCE = re.compile(r"^```(?:json)?\s*(.*?)\s*```$", re.DOTALL)
_INSTRUCTIONS = {
    "en": (
        "Extract {keys} as JSON: {text}",
        "Extract {keys} from this text as JSON.\n{text}",
        "Return a JSON object with {keys}.\n{text}",
        "{text}\nGive me {keys} as JSON.",
        "Read the text and answer in JSON with the keys {keys}: {text}",
        "{text}\nJSON with {keys}",
        "{keys} as JSON, please: {text}",
        "What does this say? Reply with a JSON object that has {keys}: {text}",
        "I need {keys} from the following as JSON:\n{text}",
        "{text} Write {keys} as one JSON object.",
        "Find {keys} here and give JSON only. {text}",
        "From this message, take {keys} (JSON): {text}",
    ),
    "zh": (
        "請擷取 {keys}，以 JSON 回答：{text}",
        "從下文取出 {keys}，用 JSON 表示。\n{text}",
        "{text}\n請以 JSON 給我 {keys}。",
        "請讀下文，輸出含 {keys} 的 JSON：{text}",
        "我要 {keys}，請用 JSON 整理：{text}",
        "{text}\n整理成 JSON：{keys}",
        "找出{keys}，只要 JSON：{text}",
        "{keys}（JSON）：{text}",
        "這段話的 {keys} 是什麼？用 JSON 回答。\n{text}",
        "{text}請寫出有{keys}的 JSON。",
        "以 JSON 列出 {keys}。內容：{text}",
        "看完這段文字，給我 JSON，鍵是 {keys}：{text}",
    ),
}
_UNSEEN_INSTRUCTIONS = {
    "en": ("Turn this into JSON with {keys}: {text}", "{text}\nPlease answer with the keys {keys} in JSON."),
    "zh": ("把下文轉成 JSON，需要 {keys}：{text}",),
}


@dataclass(frozen=True)
class Record:
    """A text and what it says."""

    text: str
    values: Mapping[str, Any]
    """By key, as JSON has them; None: the text does not say."""
    written: Mapping[str, str]
    """How the text writes the values that JSON writes otherwise, by key."""


@dataclass(frozen=True)
class Extraction:
    """The operands of one problem."""

    language: Language
    record: Record
    keys: tuple[str, ...]
    instruction: str
    unseen_instruction: bool


def parse_object(reply: str) -> dict[str, Any] | None:
    """The one JSON object that a reply is, in a code fence or not; None if it is anything else."""
    text = reply.strip()
    if fenced := _FENCE.match(text):
        text = fenced[1]
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def fields_right(problem: Problem, reply: str) -> tuple[int, int]:
    """How many of the asked fields a reply has right, and how many were asked; for reports, not a reward."""
    expected: Mapping[str, Any] = problem.meta["values"]
    found = parse_object(reply) or {}
    return sum(key in found and _same(found[key], value) for key, value in expected.items()), len(expected)


def _same(found: Any, expected: Any) -> bool:
    return type(found) is type(expected) and bool(found == expected)


class ExtractionTask(ProceduralTask):
    """Common part: the choice of keys and wording, the answer and the grader."""

    @abstractmethod
    def record(self, rng: Random, level: int, split: Split, language: Language) -> Record:
        """A text with values; more of them with the level."""

    def draw(self, rng: Random, level: int) -> Extraction:
        """A problem of the training split."""
        return self._draw_from_split(rng, "train", level)

    def canonical(self, operands: Extraction) -> str:
        """The text. Its names decide the split, see `entities`."""
        return operands.record.text

    def build(self, operands: Extraction, rng: Random) -> Draft:
        """The question with the text, and one JSON object."""
        record, keys = operands.record, operands.keys
        between, last = ("、", "和") if operands.language == "zh" else (", ", " and ")
        if len(keys) == 1 or rng.random() < 0.4:
            listed = between.join(keys)
        else:
            listed = between.join(keys[:-1]) + last + keys[-1]
        values = {key: record.values[key] for key in keys}
        lines = [f"{key}: {record.written[key]}={_plain(values[key])}" for key in keys if key in record.written]
        lines += [f"{key}: null" for key in keys if values[key] is None]
        return Draft(
            operands.instruction.format(keys=listed, text=record.text),
            json.dumps(values, ensure_ascii=False),
            lines or ["copy"],
            {"values": values, "unseen_instruction": operands.unseen_instruction},
        )

    def grade(self, problem: Problem, reply: str) -> float:
        """1.0 if the reply is one JSON object with exactly the values asked for."""
        found, expected = parse_object(reply), problem.meta["values"]
        right = found is not None and found.keys() == expected.keys()
        return float(right and all(_same(found[key], value) for key, value in expected.items()))  # type: ignore[index]

    def _draw_from_split(self, rng: Random, split: Split, level: int) -> Extraction:
        language: Language = "zh" if rng.random() < CHINESE_SHARE else "en"
        record = self.record(rng, level, split, language)
        keys = list(record.values)
        rng.shuffle(keys)
        keys = keys[: min(len(keys), level + 1 if level < 4 else len(keys))]
        if rng.random() < 0.5:
            keys.sort(key=list(record.values).index)
        unseen = split == "test" and rng.random() < 0.5
        instruction = rng.choice((_UNSEEN_INSTRUCTIONS if unseen else _INSTRUCTIONS)[language])
        return Extraction(language, record, tuple(keys), instruction, unseen)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _record(text: str, values: Mapping[str, Any], used: Sequence[str] | None = None) -> Record:
    plain: dict[str, Any] = {}
    written: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Written):
            plain[key] = value.value
            if value.text != str(value.value):
                written[key] = value.text
        else:
            plain[key] = value
    return Record(text, plain, written)


def _join(language: Language, parts: Sequence[str]) -> str:
    return ("" if language == "zh" else " ").join(part for part in parts if part)


class OrderExtraction(ExtractionTask):
    """Who ordered what, how many, at which price, for which day."""

    name = "order_extraction"
    description = "JSON from an order: customer, item, quantity, price, delivery date"
    _OPENINGS: ClassVar = {
        "en": (
            "{customer} ordered {line}.",
            "Order from {customer}: {line}.",
            "Hi, this is {customer}. I would like to order {line}.",
            "Please send {line} to {customer}.",
            "{customer} needs {line}.",
            "{customer} would like {line}.",
            "New order: {line}, for {customer}.",
        ),
        "zh": (
            "{customer}訂購{line}。",
            "訂單：{customer}，{line}。",
            "我是{customer}，想訂{line}。",
            "請送{line}給{customer}。",
            "{customer}要{line}。",
            "這是{customer}的訂單：{line}。",
        ),
    }
    _LINES: ClassVar = {
        "en": ("{quantity} x {item}", "{quantity} pieces of {item}", "{item}, quantity {quantity}"),
        "zh": ("{item}{quantity}個", "{quantity}個{item}", "{item} x {quantity}"),
    }
    _PRICES: ClassVar = {
        "en": (" at {price} each", " for {price} each", ", unit price {price}"),
        "zh": ("，每個{price}", "，單價{price}"),
    }
    _DATES: ClassVar = {
        "en": ("Deliver by {date}.", "Delivery on {date}.", "We need it on {date}."),
        "zh": ("{date}前送達。", "送貨日{date}。", "需要在{date}收到。"),
    }

    def record(self, rng: Random, level: int, split: Split, language: Language) -> Record:
        """Level 1: customer, item and quantity; the price from 2, the date from 3; at 4 one of these is missing."""
        values: dict[str, Any] = {
            "customer": entities.person(rng, split, language),
            "item": entities.item(rng, split, language),
            "quantity": entities.count(rng, language, 1, 30 if level < 5 else 200),
        }
        line = rng.choice(self._LINES[language])
        ending = ""
        if level > 1:
            values["price"] = entities.money(rng, language, digits=(2, 4))
        if level > 2:
            values["date"] = entities.date(rng, language)
        if level > 3:
            missing = rng.choice(("price", "date", ""))
            values |= {missing: None} if missing else {}
        if values.get("price") is not None:
            line += rng.choice(self._PRICES[language])
        if values.get("date") is not None:
            ending = rng.choice(self._DATES[language])
        texts = {key: value.text if isinstance(value, Written) else value for key, value in values.items()}
        opening = rng.choice(self._OPENINGS[language]).replace("{line}", line)
        return _record(_join(language, (opening, ending)).format(**texts), values)


class InvoiceExtraction(ExtractionTask):
    """Who bills how much, under which number, until when."""

    name = "invoice_extraction"
    description = "JSON from an invoice: number, vendor, date, total, due date"
    _PARTS: ClassVar[Mapping[Language, Mapping[str, Sequence[str]]]] = {
        "en": {
            "number": ("Invoice {number}", "Invoice no. {number}", "INVOICE #{number}"),
            "vendor": ("from {vendor}.", "issued by {vendor}.", "by {vendor}."),
            "total": ("Total: {total}.", "Amount due: {total}.", "The total is {total}."),
            "date": ("Date: {date}.", "Invoice date: {date}.", "Issued on {date}."),
            "due": ("Due on {due}.", "Pay by {due}.", "Payment due: {due}."),
        },
        "zh": {
            "number": ("發票號碼{number}，", "發票{number}，"),
            "vendor": ("賣方{vendor}。", "由{vendor}開立。"),
            "total": ("總計{total}。", "應付金額{total}。", "總金額為{total}。"),
            "date": ("日期{date}。", "開立日期：{date}。"),
            "due": ("請於{due}前付款。", "付款期限{due}。"),
        },
    }

    def record(self, rng: Random, level: int, split: Split, language: Language) -> Record:
        """Level 1: number, vendor and total; the date from 2, the due date from 3; at 4 one of these is missing."""
        letters = "".join(rng.choice("ABCDEFGHKLMNPRSTW") for _ in range(2))
        values: dict[str, Any] = {
            "number": f"{letters}-{rng.randrange(10**3, 10**5)}",
            "vendor": entities.company(rng, split, language),
            "total": entities.money(rng, language),
        }
        if level > 1:
            values["date"] = entities.date(rng, language)
        if level > 2:
            values["due"] = entities.date(rng, language)
        if level > 3:
            missing = rng.choice(("date", "due", ""))
            values |= {missing: None} if missing else {}
        parts = self._PARTS[language]
        rest = [key for key in values if key not in ("number", "vendor") and values[key] is not None]
        rng.shuffle(rest)
        texts = {key: value.text if isinstance(value, Written) else value for key, value in values.items()}
        text = _join(language, [rng.choice(parts[key]) for key in ("number", "vendor", *rest)])
        return _record(text.format(**texts), values)


class AppointmentExtraction(ExtractionTask):
    """Whom to meet, when and where."""

    name = "appointment_extraction"
    description = "JSON from an appointment: name, date, time, place"
    _TEXTS: ClassVar = {
        "en": (
            "{name} has an appointment on {date} at {time}{place}.",
            "Meeting with {name} on {date}, {time}{place}.",
            "Please book {name} for {date} at {time}{place}.",
            "On {date} at {time}, meet {name}{place}.",
            "Reminder: {name} comes at {time} on {date}{place}.",
            "{name} is expected on {date}, {time}{place}.",
            "Your next visit, {name}, is on {date} at {time}{place}.",
        ),
        "zh": (
            "{name}預約{date} {time}{place}。",
            "{date} {time}與{name}開會{place}。",
            "請幫{name}安排{date} {time}{place}。",
            "提醒：{date} {time}，{name}來訪{place}。",
            "{name}的約會是{date} {time}{place}。",
            "{date} {time}見{name}{place}。",
        ),
    }

    def record(self, rng: Random, level: int, split: Split, language: Language) -> Record:
        """Name, date and time; the place from level 3; at 4 it is missing in one case of three."""
        values: dict[str, Any] = {
            "name": entities.person(rng, split, language),
            "date": entities.date(rng, language),
            "time": entities.clock(rng, language),
        }
        where = ""
        if level > 2:
            values["place"] = entities.place(rng, split, language)
            where = f"，地點在{values['place']}" if language == "zh" else f" at {values['place']}"
        if level > 3 and rng.random() < 0.34:
            values["place"], where = None, ""
        texts = {key: value.text if isinstance(value, Written) else value for key, value in values.items()}
        text = rng.choice(self._TEXTS[language]).format(**{**texts, "place": where})
        return _record(text, values)


class TripRequest(ExtractionTask):
    """What somebody who asks for a trip wants."""

    name = "trip_request"
    description = "JSON from a request for a trip: origin, destination, days, people, budget, date"
    _OPENINGS: ClassVar = {
        "en": (
            "Plan a {days}-day trip from {origin} to {destination}",
            "I want to travel from {origin} to {destination} for {days} days",
            "Please plan {days} days in {destination}, starting from {origin}",
            "We would like to go to {destination} from {origin} for {days} days",
            "We leave {origin} for {destination} and stay {days} days",
            "{days} days in {destination} from {origin}",
        ),
        "zh": (
            "請安排從{origin}到{destination}的{days}天行程",
            "我想從{origin}去{destination}玩{days}天",
            "幫我規劃{destination}{days}日遊，從{origin}出發",
            "{origin}到{destination}，{days}天",
            "我們{days}天要去{destination}，由{origin}出發",
        ),
    }
    _PEOPLE: ClassVar = {
        "en": (" for {people} people", ", {people} people", " for {people}"),
        "zh": ("，{people}個人", "，共{people}人"),
    }
    _BUDGET: ClassVar = {
        "en": (" under {budget}", ", budget {budget}", " with a budget of {budget}", " for less than {budget}"),
        "zh": ("，預算{budget}", "，不超過{budget}", "，{budget}以內"),
    }
    _DATES: ClassVar = {"en": (", leaving on {date}", ", starting on {date}"), "zh": ("，{date}出發", "，從{date}開始")}

    def record(self, rng: Random, level: int, split: Split, language: Language) -> Record:
        """Level 1: places and days; people from 2, the budget from 3, the date from 4, where one may be missing."""
        origin = entities.city(rng, split, language)
        while (destination := entities.city(rng, split, language)) == origin:
            pass
        values: dict[str, Any] = {
            "origin": origin,
            "destination": destination,
            "days": entities.count(rng, language, 2, 9),
        }
        text = rng.choice(self._OPENINGS[language])
        extras = (
            ("people", entities.count(rng, language, 2, 8), self._PEOPLE),
            ("budget", entities.money(rng, language, digits=(4, 5)), self._BUDGET),
            ("date", entities.date(rng, language), self._DATES),
        )
        chosen = extras[: level - 1]
        missing = rng.choice((*(key for key, _, _ in chosen), "")) if level > 3 else ""
        for key, value, forms in chosen:
            values[key] = None if key == missing else value
            text += "" if key == missing else rng.choice(forms[language])
        texts = {key: value.text if isinstance(value, Written) else value for key, value in values.items()}
        return _record((text + ("。" if language == "zh" else ".")).format(**texts), values)
