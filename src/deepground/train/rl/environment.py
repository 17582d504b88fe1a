"""Where a model acts: a question, its replies, what the world answers to them, until a verdict can be given.

Most problems are one turn. With tools there are several: the model calls, the environment runs the call and answers,
and the model goes on. Anything that has these methods is an environment; `deepground train rl --environment
file.py:make` takes one of yours.
"""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from deepground.messages import Message, Tool
from deepground.train.answering import Question


class Episode(Protocol):
    """One attempt at one question."""

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation so far."""

    @property
    def tools(self) -> Sequence[Tool]:
        """What the model may call."""

    def respond(self, reply: Message) -> bool:
        """Take in the model's reply, and put the world's answer into `messages`.

        Returns:
            Whether the model goes on; False: `reply` was its last, and is graded.
        """


class Environment(Protocol):
    """Begins episodes."""

    def start(self, question: Question) -> Episode:
        """A new attempt; attempts at one question know nothing of each other."""


class SingleTurn:
    """Ask, and grade the first reply."""

    def start(self, question: Question) -> Episode:
        """See `Environment`."""
        return _SingleTurnEpisode(question)


class _SingleTurnEpisode:
    def __init__(self, question: Question) -> None:
        self.messages: Sequence[Message] = question.messages
        self.tools: Sequence[Tool] = question.tools

    def respond(self, reply: Message) -> bool:
        return False


class ToolEnvironment:
    """Runs the calls that a model makes, until it answers without one.

    Args:
        functions: by tool name; each is given the call's arguments and returns a text. What it raises is told to the
            model as the call's result.
        tools: how the functions are announced.
        max_turns: replies of one episode; the last one is graded as it stands.
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[[Mapping[str, Any]], str]],
        tools: Sequence[Tool],
        *,
        max_turns: int = 4,
    ) -> None:
        self._functions, self._tools, self._max_turns = functions, tuple(tools), max_turns

    def start(self, question: Question) -> Episode:
        """See `Environment`."""
        return _ToolEpisode(question, self._functions, self._tools, self._max_turns)


class _ToolEpisode:
    def __init__(
        self,
        question: Question,
        functions: Mapping[str, Callable[[Mapping[str, Any]], str]],
        tools: Sequence[Tool],
        max_turns: int,
    ) -> None:
        self.messages: list[Message] = list(question.messages)
        self.tools = (*tools, *question.tools)
        self._functions, self._left = functions, max_turns

    def respond(self, reply: Message) -> bool:
        self._left -= 1
        if not reply.tool_calls or self._left == 0:
            return False
        self.messages.append(reply)
        for call in reply.tool_calls:
            self.messages.append(Message.tool(call.id, self._run(call.name, call.arguments)))
        return True

    def _run(self, name: str, arguments: str) -> str:
        function = self._functions.get(name)
        if function is None:
            return f"error: there is no tool {name!r}"
        try:
            values = json.loads(arguments or "{}")
            if not isinstance(values, dict):
                return "error: the arguments must be an object"
            return str(function(values))[:4000]
        except Exception as error:  # a model's call must never end the run
            return f"error: {type(error).__name__}: {error}"[:4000]


def calculator() -> ToolEnvironment:
    """An environment with one tool that computes sums, differences, products and quotients."""
    parameters = {
        "type": "object",
        "properties": {"expression": {"type": "string", "description": "for example 12 * (3 + 4)"}},
        "required": ["expression"],
    }
    tool = Tool("calculator", "Computes an arithmetic expression.", parameters)
    return ToolEnvironment({"calculator": lambda values: _compute(str(values["expression"]))}, [tool])


_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _compute(expression: str) -> str:
    if len(expression) > 200:
        raise ValueError("the expression is too long")

    def value(node: ast.expr) -> float | int:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return number
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
                result: float | int = _OPERATIONS[type(op)](value(left), value(right))
                return result
        raise ValueError("only numbers, + - * / // % and parentheses")

    result = value(ast.parse(expression, mode="eval").body)
    return str(int(result)) if isinstance(result, float) and result.is_integer() else str(result)
