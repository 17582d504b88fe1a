"""Calls of functions from a list that comes with the question, and replies to what they give back.

The names of functions are drawn per problem, so that they must be read in the list. The pilot's chat format does not
think when tools are offered, so these problems have no trace; a whole conversation stands in `Problem.context` where
there is more than the question.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from deepground.messages import Message, Tool, ToolCallPart
from deepground.tasks.entities import CHINESE_SHARE, Language, Written
from deepground.tasks.functions import Function, argument_value, functions, result_value
from deepground.tasks.problem import Draft, Problem, ProceduralTask, Split, reply_text

_CALL = re.compile(r"([A-Za-z_][\w.-]*)\((\{.*\})\)")
_NO_TOOL = {"en": "None of my tools can do that.", "zh": "我的工具做不到這件事。"}
_ASK = {"en": "Please tell me the {name}.", "zh": "請告訴我 {name}。"}
_FAILED = {"en": "That did not work: {error}.", "zh": "沒有成功：{error}。"}
_ERRORS = {
    "en": ("not found", "no connection", "access denied", "the service is closed", "too many requests", "timeout"),
    "zh": ("找不到", "連線失敗", "沒有權限", "服務已關閉", "請求太多", "逾時"),
}
_JOINED = {"en": " Also: ", "zh": "，另外，"}
_UNABLE = re.compile(r"\b(none|no tool|cannot|can't|unable|not able)\b|做不到|沒有|無法", re.IGNORECASE)

Kind = Literal["call", "missing", "no_tool"]


@dataclass(frozen=True)
class Request:
    """One wish for one function."""

    function: Function
    name: str
    """Under which the function is offered."""
    text: str
    arguments: Mapping[str, Any]

    def call(self, number: int) -> ToolCallPart:
        """The call that fulfils it."""
        return ToolCallPart(f"call_{number}", self.name, json.dumps(dict(self.arguments), ensure_ascii=False))


@dataclass(frozen=True)
class Offer:
    """The functions on offer, and the language spoken."""

    language: Language
    split: Split
    chosen: tuple[tuple[Function, str], ...]
    described: bool

    def tools(self) -> tuple[Tool, ...]:
        """As they are offered."""
        return tuple(function.tool(name, described=self.described) for function, name in self.chosen)


def draw_offer(rng: Random, split: Split, count: int) -> Offer:
    """`count` different functions, each under one of its names."""
    language: Language = "zh" if rng.random() < CHINESE_SHARE else "en"
    picked = rng.sample(functions(), count)
    return Offer(language, split, tuple((f, rng.choice(f.names)) for f in picked), rng.random() < 0.25)


def draw_request(rng: Random, offer: Offer, function: Function, name: str) -> Request:
    """A wish that names every argument; in the test split with names, and half of the time words, never trained on."""
    words: Split = "test" if offer.split == "test" and rng.random() < 0.5 else "train"
    values = _values(rng, function, offer)
    text = rng.choice(function.requests(offer.language, words)).format(**{k: v.text for k, v in values.items()})
    return Request(function, name, text, {key: value.value for key, value in values.items()})


def _values(rng: Random, function: Function, offer: Offer) -> dict[str, Written]:
    while True:
        values = {k: argument_value(rng, kind, offer.split, offer.language) for k, kind in function.arguments.items()}
        if len({value.text for value in values.values()}) == len(values):
            return values


def calls_in(reply: str) -> list[tuple[str, Any]] | None:
    """The calls of a reply as `reply_text` writes them; None if one has arguments that are not a JSON object."""
    found = []
    for line in reply.strip().split("\n"):
        if match := _CALL.fullmatch(line.strip()):
            try:
                found.append((match[1], json.loads(match[2])))
            except ValueError:
                return None
    return found


def same_calls(problem: Problem, reply: str) -> bool:
    """Whether a reply makes exactly the expected calls, in any order."""
    found = calls_in(reply)
    if found is None:
        return False
    wanted = [(call.name, json.loads(call.arguments)) for call in problem.calls]
    return sorted(map(_key, found)) == sorted(map(_key, wanted))


def _key(call: tuple[str, Any]) -> str:
    return json.dumps(call, sort_keys=True, ensure_ascii=False)


class _CallTask(ProceduralTask):
    """Common part: operands are whole drafts, made for one split, since names and wordings decide it."""

    def draw(self, rng: Random, level: int) -> Draft:
        """A problem of the training split."""
        return self.compose(rng, "train", level)

    @abstractmethod
    def compose(self, rng: Random, split: Split, level: int) -> Draft:
        """The whole problem."""

    def canonical(self, operands: Draft) -> str:
        """The question."""
        return operands.question

    def build(self, operands: Draft, rng: Random) -> Draft:
        """As drawn."""
        return operands

    def _draw_from_split(self, rng: Random, split: Split, level: int) -> Draft:
        return self.compose(rng, split, level)


class FunctionCall(_CallTask):
    """One call, or a question for what is missing, or a refusal where no function fits."""

    name = "function_call"
    description = (
        "one of 1 to 5 functions called with arguments from the text; asks if one is missing, says if none fits"
    )

    def compose(self, rng: Random, split: Split, level: int) -> Draft:
        """One more function on offer with each level; from level 2, a third of the requests cannot be called."""
        offer = draw_offer(rng, split, level + rng.randint(0, 1))
        kind: Kind = rng.choices(("call", "missing", "no_tool"), (1, 0, 0) if level == 1 else (4, 1, 1))[0]
        function, name = rng.choice(offer.chosen)
        if kind == "missing":
            return self._missing(rng, offer, function)
        if kind == "no_tool":
            others = [f for f in functions() if all(f is not chosen for chosen, _ in offer.chosen)]
            request = draw_request(rng, offer, rng.choice(others), "")
            return Draft(request.text, _NO_TOOL[offer.language], (), {"kind": kind}, offer.tools())
        request = draw_request(rng, offer, function, name)
        calls = (request.call(0),)
        return Draft(request.text, reply_text("", calls), (), {"kind": kind}, offer.tools(), (), calls)

    def grade(self, problem: Problem, reply: str) -> float:
        """Calls by value; a question by the argument that it names; a refusal by its words."""
        kind = problem.meta["kind"]
        if kind == "call":
            return float(same_calls(problem, reply))
        if calls_in(reply) != []:
            return 0.0
        if kind == "no_tool":
            return float(_UNABLE.search(reply) is not None)
        words = set(re.findall(r"[a-z_]+", reply.lower()))
        offered = {argument for tool in problem.tools for argument in tool.parameters["properties"]}
        return float(words & offered == {problem.meta["argument"]})

    def _missing(self, rng: Random, offer: Offer, function: Function) -> Draft:
        argument = rng.choice(list(function.missing))
        texts = [t for t in function.missing[argument] if t.isascii() == (offer.language == "en")]
        language: Language = offer.language if texts else "en"
        text = rng.choice(texts or list(function.missing[argument]))
        spoken = Offer(language, offer.split, offer.chosen, offer.described)
        text = text.format(**{key: value.text for key, value in _values(rng, function, spoken).items()})
        answer = _ASK[language].format(name=argument)
        return Draft(text, answer, (), {"kind": "missing", "argument": argument}, offer.tools())


class ParallelCalls(_CallTask):
    """Two or three wishes at once."""

    name = "parallel_calls"
    description = "two or three calls in one reply, of one function or of several"
    levels = (1, 2, 3)

    def compose(self, rng: Random, split: Split, level: int) -> Draft:
        """Level 1: one function twice; 2: two functions; 3: two or three wishes for functions of three."""
        offer = draw_offer(rng, split, (1, 2, 3, 4)[level - 1])
        count = 3 if level > 3 or (level == 3 and rng.random() < 0.5) else 2
        picked = [rng.choice(offer.chosen) for _ in range(count)] if level != 2 else list(offer.chosen)
        requests: list[Request] = []
        for function, name in picked:
            request = draw_request(rng, offer, function, name)
            if all((r.name, r.arguments) != (request.name, request.arguments) for r in requests):
                requests.append(request)
        calls = tuple(request.call(i) for i, request in enumerate(requests))
        text = _JOINED[offer.language].join(request.text for request in requests)
        return Draft(text, reply_text("", calls), (), {"kind": "call"}, offer.tools(), (), calls)

    def grade(self, problem: Problem, reply: str) -> float:
        """Every call and no other, in any order."""
        return float(same_calls(problem, reply))


class ToolResults(_CallTask):
    """What to say to what a function gave back."""

    name = "tool_results"
    description = "a reply from what one to three calls gave back, errors included"
    levels = (1, 2, 3)

    def compose(self, rng: Random, split: Split, level: int) -> Draft:
        """Level 1: one result; from 2 some are errors; from 3 there are two or three results, beyond it four."""
        offer = draw_offer(rng, split, min(level + 1, 3))
        count = 4 if level > 3 else rng.randint(2, 3) if level == 3 else 1
        requests = [draw_request(rng, offer, *rng.choice(offer.chosen)) for _ in range(count)]
        answers, needed, results = [], [], []
        for request in requests:
            content, answer, values = self._result(rng, offer, request, may_fail=level > 1)
            results.append(content)
            answers.append(answer)
            needed += values
        calls = tuple(request.call(i) for i, request in enumerate(requests))
        text = _JOINED[offer.language].join(request.text for request in requests)
        context = (
            Message.user(text),
            Message.assistant(tool_calls=calls),
            *(Message.tool(call.id, result) for call, result in zip(calls, results, strict=True)),
        )
        joined = ("" if offer.language == "zh" else " ").join(answers)
        return Draft(text, joined, (), {"kind": "answer", "needed": tuple(needed)}, offer.tools(), context)

    def grade(self, problem: Problem, reply: str) -> float:
        """Every value that the results hold, and no further number nor call."""
        if calls_in(reply) != []:
            return 0.0
        needed: Sequence[str] = problem.meta["needed"]
        rest = reply.lower()
        for value in sorted(needed, key=len, reverse=True):
            if value.lower() not in rest:
                return 0.0
            rest = rest.replace(value.lower(), " ", 1)
        return float(re.search(r"\d", rest) is None)

    @staticmethod
    def _result(rng: Random, offer: Offer, request: Request, *, may_fail: bool) -> tuple[str, str, list[str]]:
        language = offer.language
        if may_fail and rng.random() < 0.2:
            error = rng.choice(_ERRORS[language])
            return json.dumps({"error": error}, ensure_ascii=False), _FAILED[language].format(error=error), [error]
        function = request.function
        values = {key: result_value(rng, kind, offer.split, language) for key, kind in function.result.items()}
        template = function.reply_chinese if language == "zh" else function.reply_english
        return json.dumps(values, ensure_ascii=False), template.format(**values), [str(v) for v in values.values()]
