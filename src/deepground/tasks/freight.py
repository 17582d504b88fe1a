"""Freight quotations: a company's own problem, which no other task touches and the bundled model has never seen.

Besides the short worked way that every task has, there is the way in which a talkative teacher would put it, mistakes
included: `teacher_trace`. The experiment on the number of samples compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from deepground.tasks.columns import Operator, chain, labelled, product
from deepground.tasks.grading import only_number
from deepground.tasks.problem import Draft, Problem, ProceduralTask, Split
from deepground.tasks.tariff import (
    CITY_ZH,
    DISCOUNT,
    SERVICES,
    ZONE_OF,
    ZONES,
    Shipment,
    chargeable,
    per_kg,
    quotation,
)

_QUESTIONS = {
    "en": (
        "Quote {w} to {city}{extras}.",
        "What does it cost to ship {w} to {city}{extras}?",
        "Freight to {city}: {w}{extras}",
        "Please quote air freight to {city}, {w}{extras}.",
    ),
    "zh": ("空運{w}到{city}多少錢{extras}？", "請報價：{city}，{w}{extras}", "{city}，{w}{extras}，請報價。"),
}
_UNSEEN_QUESTIONS = {
    "en": ("How much would you charge for {w}, destination {city}{extras}?", "We need to send {w} to {city}{extras}."),
    "zh": ("寄{w}去{city}運費是多少{extras}？",),
}
WRONG_SHARE = 0.12
"""Of a teacher's traces: those that end with a wrong sum."""


class Freight(ProceduralTask):
    """Air freight by the tariff of `tariff.py`."""

    name = "freight"
    description = "freight quotations by a company's tariff"
    levels = (1, 2, 3, 4)

    def draw(self, rng: Random, level: int) -> tuple[Shipment, bool, bool]:
        """Level 1: weight and place. 2: volume weight and minimum. 3: a service. 4: two and a contract. 5: pieces.

        Beside the shipment: whether the question is in Chinese, and whether its wording is one that training lacks.
        """
        return (_shipment(rng, level), rng.random() < 0.4, False)

    def _draw_from_split(self, rng: Random, split: Split, level: int) -> tuple[Shipment, bool, bool]:
        """Half of the test questions are worded in ways that training never shows."""
        shipment, chinese, _ = super()._draw_from_split(rng, split, level)
        return (shipment, chinese, split == "test" and rng.random() < 0.5)

    def canonical(self, operands: tuple[Shipment, bool, bool]) -> str:
        """The shipment."""
        return repr(operands[0])

    def build(self, operands: tuple[Shipment, bool, bool], rng: Random) -> Draft:
        """Question, worked way and sum."""
        shipment, chinese, unseen = operands
        question = question_of(shipment, rng, chinese=chinese, unseen=unseen)
        meta = {"shipment": shipment, "zone": ZONE_OF[shipment.city]}
        return Draft(question, str(quotation(shipment)), worked(shipment), meta)

    def grade(self, problem: Problem, reply: str) -> float:
        """The sum, with or without its currency and commas."""
        said = reply.replace(",", "").replace("NT$", " ").replace("TWD", " ").replace("元", " ")
        return float(only_number(said, problem.question) == problem.answer)


def _shipment(rng: Random, level: int) -> Shipment:
    city = rng.choice(list(CITY_ZH))
    pieces = 2 if level == 5 else 1
    gross = tuple(rng.randint(5, 99 // pieces) for _ in range(pieces))
    volume = None
    if level >= 2 and rng.random() < 0.7:
        volume = max(1, min(99, sum(gross) + rng.randint(-20, 30)))
    count = {3: 1, 4: 2, 5: 2}.get(level, 0)
    return Shipment(city, gross, volume, tuple(rng.sample(list(SERVICES), count)), level >= 4 and rng.random() < 0.5)


def question_of(shipment: Shipment, rng: Random, *, chinese: bool, unseen: bool) -> str:
    """What a customer writes."""
    language = "zh" if chinese else "en"
    weights = "+".join(map(str, shipment.gross))
    if chinese:
        weight = f"{weights}公斤" + (f"（材積重{shipment.volume}公斤）" if shipment.volume else "")
        extras = "".join(f"，{SERVICES[name][0]}" for name in shipment.services)
        extras += "，合約客戶" if shipment.contract else ""
    else:
        weight = f"{weights} kg" + (f" (volume weight {shipment.volume} kg)" if shipment.volume else "")
        extras = "".join(f", {name}" for name in shipment.services)
        extras += ", contract customer" if shipment.contract else ""
    template = rng.choice((_UNSEEN_QUESTIONS if unseen else _QUESTIONS)[language])
    return template.format(w=weight, city=CITY_ZH[shipment.city] if chinese else shipment.city, extras=extras)


def worked(shipment: Shipment) -> list[str]:
    """The steps, in the same signs as the other number tasks."""
    zone, weight = ZONE_OF[shipment.city], chargeable(shipment)
    lines = [f"{shipment.city} {zone}"]
    if len(shipment.gross) > 1:
        total, width = chain([("+", piece) for piece in shipment.gross], lines)
        lines.append(labelled(total, width))
    if shipment.volume:
        lines.append(f"max {sum(shipment.gross)} {shipment.volume}={weight}")
    rate, fuel = per_kg(shipment.city, weight)
    lines.append(f"{weight}{'<' if rate == ZONES[zone].rate else '>='}45 {rate}+{fuel}={rate + fuel}")
    carried, width = product(rate + fuel, weight, lines)
    lines.append(labelled(carried, width))
    if carried < ZONES[zone].minimum:
        carried = ZONES[zone].minimum
        lines.append(f"min {zone} {carried}")
    terms: list[tuple[Operator, int]] = [("+", carried)]
    terms += [("+", SERVICES[name][1]) for name in shipment.services]
    terms += [("-", DISCOUNT)] if shipment.contract else []
    if len(terms) > 1:
        total, width = chain(terms, lines)
        lines.append(labelled(total, width))
    return lines


_OPENERS = (
    "Okay, let me see what the customer wants.", "Let me think about this step by step.", "So, we have to quote this.",
    "Right. First I look at the destination.", "Hmm, an air freight quotation.",
)  # fmt: skip
_ASIDES = (
    "Wait, is that right? Yes, I think so.", "Let me double-check that.", "I should be careful with the rates here.",
    "That seems plausible.", "Hmm, no, that is fine.",
)  # fmt: skip


def teacher_trace(problem: Problem, rng: Random) -> tuple[str, str]:
    """How a talkative teacher would think about a problem, and what it would answer: sometimes wrongly.

    Args:
        problem: of this task.
        rng: source of the wording and of the mistakes.
    """
    shipment: Shipment = problem.meta["shipment"]
    zone, weight = ZONE_OF[shipment.city], chargeable(shipment)
    rate, fuel = per_kg(shipment.city, weight)
    said = [rng.choice(_OPENERS), f"The destination is {shipment.city}, which is in zone {zone}."]
    if len(shipment.gross) > 1:
        said.append(f"The pieces weigh {' plus '.join(map(str, shipment.gross))}, so {sum(shipment.gross)} kg.")
    if shipment.volume:
        said.append(f"Between {sum(shipment.gross)} and {shipment.volume} kg the larger one counts, so {weight} kg.")
    said.append(f"At {weight} kg the rate is {rate}, and with fuel {fuel} that makes {rate + fuel} per kg.")
    tens, units = weight // 10 * 10, weight % 10
    each = rate + fuel
    slip = rng.choice((-100, -10, 10, 100)) if rng.random() < WRONG_SHARE else 0
    carried = each * weight + slip
    said.append(f"{each} times {tens} is {each * tens}, {each} times {units} is {each * units}, together {carried}.")
    if rng.random() < 0.4:
        said.append(rng.choice(_ASIDES))
    if carried < ZONES[zone].minimum:
        carried = ZONES[zone].minimum
        said.append(f"That is below the minimum of zone {zone}, so {carried}.")
    total = carried
    for name in shipment.services:
        total += SERVICES[name][1]
        said.append(f"There is {name}, {SERVICES[name][1]} more, which gives {total}.")
    if shipment.contract:
        total -= DISCOUNT
        said.append(f"The customer has a contract, so {DISCOUNT} off: {total}.")
    if rng.random() < 0.3:
        said.append(rng.choice(_ASIDES))
    said.append(f"So the quotation is {total}.")
    return " ".join(_joined(said, rng)), str(total)


def _joined(said: Sequence[str], rng: Random) -> list[str]:
    """Sentences, now and then said twice, as unedited thinking has them."""
    repeated: list[str] = []
    for sentence in said:
        repeated.append(sentence)
        if rng.random() < 0.06:
            repeated.append(f"Again: {sentence[0].lower()}{sentence[1:]}")
    return repeated
