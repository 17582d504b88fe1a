"""Written arithmetic, digit by digit: the steps that all number tasks share.

Digits carry the letter of their place, so that a step finds its digits by name and not by counting. The letters follow
a fixed order, of which a problem uses any stretch: here from `u` for the units on, in the next problem from `k` on. So
every letter is seen in every role, and numbers longer than those of training need no letter that is new (random
starts of index hints: arXiv 2310.16028). A step is one digit operation, with the carry or borrow of the step
before it:

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
from random import Random
from typing import Literal

ORDER = "uthkmlnacdefgijpqsvwyz"
"""Letters of places, each the next higher place of the one before it; after the last comes the first. Without `b`,
`r` and `x`, which steps use as marks."""
PLACES = ORDER[:12]
"""The letters from the units up, where a text always uses the same."""
Operator = Literal["+", "-"]


def draw_places(rng: Random) -> str:
    """Letters for the places of one problem, units first."""
    start = rng.randrange(len(ORDER))
    return (ORDER[start:] + ORDER[:start])[: len(PLACES)]


def labelled(value: int, width: int = 0, places: str = PLACES) -> str:
    """The digits of a number, highest first, each after its place letter; zeros fill up to `width` digits."""
    digits = str(abs(value)).zfill(width)
    top = len(digits) - 1
    sign = "-" if value < 0 else ""
    return sign + "".join(places[top - i] + digit for i, digit in enumerate(digits))


def comparison(first: int, second: int, width: int, places: str = PLACES) -> str:
    """Digit pairs from the highest place down, up to the first that differ: `h4=4t7>5`."""
    steps = []
    for place in range(width - 1, -1, -1):
        x, y = _digit(first, place), _digit(second, place)
        steps.append(f"{places[place]}{x}{'=' if x == y else '<' if x < y else '>'}{y}")
        if x != y:
            break
    return "".join(steps)


def chain(terms: Sequence[tuple[Operator, int]], lines: list[str], places: str = PLACES) -> tuple[int, int]:
    """Adds and subtracts the terms from left to right.

    What is still to do stands behind the operation, `h1t2u3-t4u5,+6-78`, so that a long chain is a short one after
    every step.

    Args:
        terms: operator and magnitude; a first term with `-` is negative.
        lines: receives the steps, without the final result.
        places: letters of the places, units first.

    Returns:
        The result and the number of digits in which it is written (leading zeros included).
    """
    operator, magnitude = terms[0]
    total = -magnitude if operator == "-" else magnitude
    width = len(str(magnitude))
    for number, (operator, magnitude) in enumerate(terms[1:], 1):
        width = max(width, len(str(magnitude)))
        rest = "".join(f"{later}{value}" for later, value in terms[number + 1 :])
        step = f"{labelled(total, width, places)}{operator}{labelled(magnitude, width, places)}"
        lines.append(f"{step},{rest}" if rest else step)
        if (total < 0) == (operator == "-"):
            _add(abs(total), magnitude, width, lines, places)
        else:
            _subtract(abs(total), magnitude, width, lines, places)
        total = total + magnitude if operator == "+" else total - magnitude
        width = max(width, len(str(abs(total))))
    return total, width


def difference(first: int, second: int, lines: list[str], places: str, *, columns_from: int) -> None:
    """`52-17=35`, in columns before it where the first number, which is the larger, is at least `columns_from`."""
    if first >= columns_from:
        chain([("+", first), ("-", second)], lines, places)
    lines.append(f"{first}-{second}={first - second}")


def product(first: int, second: int, lines: list[str], places: str = PLACES) -> tuple[int, int]:
    """Multiplies by one digit of `second` after the other and adds each product to what there is.

    With several digits, a step ends in the letter of the place where its last digit belongs, `t9*8=72+4=76h`; in the
    first step this is the letter of the digit that multiplies.

    Returns:
        The result and the number of digits in which it is written, as `chain`.
    """
    lines.append(f"{labelled(first, places=places)}*{labelled(second, places=places)}")
    total, width = 0, 0
    for shift, digit in enumerate(reversed(str(second))):
        if len(str(second)) > 1:
            lines.append(f"*{places[shift]}{digit}")
        carry = 0
        for place, x in enumerate(reversed(str(first))):
            value = int(x) * int(digit)
            step = f"{places[place]}{x}*{digit}={value}"
            if carry:
                step += f"+{carry}={value + carry}"
            lines.append(step + (places[shift + place] if len(str(second)) > 1 else ""))
            carry = (value + carry) // 10
        partial = first * int(digit) * 10**shift
        if shift:
            total, width = chain([("+", total), ("+", partial)], lines, places)
        else:
            total, width = partial, max(len(str(first)), len(str(partial)))
        if shift < len(str(second)) - 1:
            lines.append(labelled(total, width, places))
    return total, width


def quotient(dividend: int, width: int, divisor: int, lines: list[str], places: str = PLACES) -> tuple[int, int]:
    """Divides by one digit from the highest place down; each step takes the remainder and the next digit.

    `t14/4=3r2` then `u20/4=5r0`: the 2 of the second step is the first one's remainder.

    Args:
        dividend: the magnitude is divided; a sign is kept in the first line.
        width: digits in which the dividend is written.
        divisor: 1 to 9.
        lines: receives the steps.
        places: letters of the places, units first.

    Returns:
        Quotient and remainder of the magnitudes.
    """
    lines.append(f"{labelled(dividend, width, places)}/{divisor}")
    rest = 0
    for place in range(width - 1, -1, -1):
        digit = _digit(abs(dividend), place)
        share, left = divmod(10 * rest + digit, divisor)
        lines.append(f"{places[place]}{rest}{digit}/{divisor}={share}r{left}")
        rest = left
    return abs(dividend) // divisor, rest


def _digit(value: int, place: int) -> int:
    return value // int(10**place) % 10


def _add(first: int, second: int, width: int, lines: list[str], places: str) -> None:
    carry = 0
    for place in range(width):
        x, y = _digit(first, place), _digit(second, place)
        lines.append(f"{places[place]}{x}+{y}{'+1' if carry else ''}={x + y + carry}")
        carry = (x + y + carry) // 10


def _subtract(first: int, second: int, width: int, lines: list[str], places: str) -> None:
    lines.append(comparison(first, second, width, places))
    if first == second:
        return
    larger, smaller = max(first, second), min(first, second)
    borrow = 0
    for place in range(width):
        x, y = _digit(larger, place), _digit(smaller, place)
        left = x - y - borrow
        lines.append(f"{places[place]}{x}-{y}{'-1' if borrow else ''}={left % 10}{'b' if left < 0 else ''}")
        borrow = int(left < 0)
