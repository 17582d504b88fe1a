"""Written arithmetic, digit by digit: the steps that all number tasks share.

Digits carry the letter of their place, so that a step finds its digits by name and not by counting:
u units, t tens, h hundreds, k thousands, m ten thousands, l hundred thousands, n millions. A step is one digit
operation, with the carry or borrow of the step before it:

    h4t7u8+h2t5u6     both numbers, the shorter one filled up with zeros
    u8+6=14
    t7+5+1=13         +1: the carry of the line above
    h4+2+1=7
    h7t3u4            the result, read off the last digits from the bottom up

    t2u5-t7u8         a subtraction first looks for the larger number, from the highest place down,
    t2<7
    u8-5=3            and takes the smaller from the larger; `b` after a digit marks a borrow
    t7-2=5
    -t5u3
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

PLACES = "uthkmln"
Operator = Literal["+", "-"]


def labelled(value: int, width: int = 0) -> str:
    """The digits of a number, highest first, each after its place letter; zeros fill up to `width` digits."""
    digits = str(abs(value)).zfill(width)
    top = len(digits) - 1
    sign = "-" if value < 0 else ""
    return sign + "".join(PLACES[top - i] + digit for i, digit in enumerate(digits))


def comparison(first: int, second: int, width: int) -> str:
    """Digit pairs from the highest place down, up to the first that differ: `h4=4t7>5`."""
    steps = []
    for place in range(width - 1, -1, -1):
        x, y = _digit(first, place), _digit(second, place)
        steps.append(f"{PLACES[place]}{x}{'=' if x == y else '<' if x < y else '>'}{y}")
        if x != y:
            break
    return "".join(steps)


def chain(terms: Sequence[tuple[Operator, int]], lines: list[str]) -> tuple[int, int]:
    """Adds and subtracts the terms from left to right.

    Args:
        terms: operator and magnitude; a first term with `-` is negative.
        lines: receives the steps, without the final result.

    Returns:
        The result and the number of digits in which it is written (leading zeros included).
    """
    operator, magnitude = terms[0]
    total = -magnitude if operator == "-" else magnitude
    width = len(str(magnitude))
    for operator, magnitude in terms[1:]:
        width = max(width, len(str(magnitude)))
        lines.append(f"{labelled(total, width)}{operator}{labelled(magnitude, width)}")
        if (total < 0) == (operator == "-"):
            _add(abs(total), magnitude, width, lines)
        else:
            _subtract(abs(total), magnitude, width, lines)
        total = total + magnitude if operator == "+" else total - magnitude
        width = max(width, len(str(abs(total))))
    return total, width


def product(first: int, second: int, lines: list[str]) -> tuple[int, int]:
    """Multiplies by partial products, one per digit of `second`, then adds these.

    Returns:
        The result and the number of digits in which it is written, as `chain`.
    """
    lines.append(f"{labelled(first)}*{labelled(second)}")
    partials: list[int] = []
    for shift, digit in enumerate(reversed(str(second))):
        carry = 0
        for place, x in enumerate(reversed(str(first))):
            value = int(x) * int(digit)
            step = f"{PLACES[place]}{x}*{digit}={value}"
            if carry:
                step += f"+{carry}={value + carry}"
            lines.append(step)
            carry = (value + carry) // 10
        partials.append(first * int(digit) * 10**shift)
        if len(str(second)) > 1:
            lines.append(labelled(partials[-1], len(str(first)) + shift))
    if len(partials) == 1:
        return partials[0], max(len(str(first)), len(str(partials[0])))
    return chain([("+", partial) for partial in partials], lines)


def quotient(dividend: int, width: int, divisor: int, lines: list[str]) -> tuple[int, int]:
    """Divides by one digit from the highest place down; each step takes the remainder and the next digit.

    `t14/4=3r2` then `u20/4=5r0`: the 2 of the second step is the first one's remainder.

    Args:
        dividend: the magnitude is divided; a sign is kept in the first line.
        width: digits in which the dividend is written.
        divisor: 1 to 9.
        lines: receives the steps.

    Returns:
        Quotient and remainder of the magnitudes.
    """
    lines.append(f"{labelled(dividend, width)}/{divisor}")
    rest = 0
    for place in range(width - 1, -1, -1):
        digit = _digit(abs(dividend), place)
        share, left = divmod(10 * rest + digit, divisor)
        lines.append(f"{PLACES[place]}{rest}{digit}/{divisor}={share}r{left}")
        rest = left
    return abs(dividend) // divisor, rest


def _digit(value: int, place: int) -> int:
    return value // int(10**place) % 10


def _add(first: int, second: int, width: int, lines: list[str]) -> None:
    carry = 0
    for place in range(width):
        x, y = _digit(first, place), _digit(second, place)
        lines.append(f"{PLACES[place]}{x}+{y}{'+1' if carry else ''}={x + y + carry}")
        carry = (x + y + carry) // 10


def _subtract(first: int, second: int, width: int, lines: list[str]) -> None:
    lines.append(comparison(first, second, width))
    if first == second:
        return
    larger, smaller = max(first, second), min(first, second)
    borrow = 0
    for place in range(width):
        x, y = _digit(larger, place), _digit(smaller, place)
        left = x - y - borrow
        lines.append(f"{PLACES[place]}{x}-{y}{'-1' if borrow else ''}={left % 10}{'b' if left < 0 else ''}")
        borrow = int(left < 0)
