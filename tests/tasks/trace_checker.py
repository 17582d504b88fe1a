"""Re-computes traces from their text alone, knowing nothing of the code that wrote them."""

import itertools
import re

from deepground.tasks import Problem

ORDER = "uthkmlnacdefgijpqsvwyz"
NUMBER = rf"(?:[{ORDER}]\d)+"
SUM = re.compile(rf"(-?)({NUMBER})([-+])({NUMBER})(?:,((?:[-+]\d+)+))?")
QUOTIENT = re.compile(rf"(-?)({NUMBER})/(\d)")


class Lines:
    """The lines of a trace, from the first to the last."""

    def __init__(self, trace: str) -> None:
        self._lines = trace.split("\n")

    def __bool__(self) -> bool:
        return bool(self._lines)

    def take(self) -> str:
        return self._lines.pop(0)

    def next_is(self, pattern: re.Pattern[str]) -> bool:
        return bool(self._lines) and pattern.fullmatch(self._lines[0]) is not None


def value_of(text: str) -> int:
    """The number that place-lettered digits spell: `t4u2` is 42, and so is `d4c2`; places must follow each other."""
    letters, digits = text.lstrip("-")[::2], text.lstrip("-")[1::2]
    for high, low in itertools.pairwise(letters):
        assert (ORDER.index(low) + 1) % len(ORDER) == ORDER.index(high), text
    return int(digits) * (-1 if text.startswith("-") else 1)


def place_of(letter: str, number: str) -> int:
    """Which place of a number a letter stands for: 0 for the units."""
    return (ORDER.index(letter) - ORDER.index(number[-2])) % len(ORDER)


def digit_of(value: int, place: int) -> int:
    return value // 10**place % 10


def check_trace(problem: Problem) -> None:
    """Raises AssertionError at the first step that does not hold, or if the trace does not lead to the answer."""
    checker = {
        "number_sorting": _check_sorting,
        "list_extreme": _check_extreme,
        "comparison": _check_two_numbers,
        "number_sequence": _check_sequence,
        "base_conversion": _check_base,
        "countdown": _check_countdown,
        "spell_backward": _check_backward,
        "letter_counting": _check_counting,
        "time_intervals": _check_plain_steps,
        "gcd": _check_steps,
        "repeat": _check_repeat,
        "multiplication": _check_product,
        "division": _check_division,
    }.get(problem.task, _check_chain)
    checker(problem)


def _letters(line: str) -> str:
    """The word that numbered letters spell; the numbers go up by one, and 0 follows 9."""
    pairs = re.findall(r"(\d)([a-z])", line)
    assert "".join(map("".join, pairs)) == line
    for (low, _), (high, _) in itertools.pairwise(pairs):
        assert (int(low) + 1) % 10 == int(high)
    return "".join(letter for _, letter in pairs)


def _check_repeat(problem: Problem) -> None:
    lines = problem.trace.split("\n")
    items = [str(value_of(line)) if re.fullmatch(NUMBER, line) else _letters(line) for line in lines]
    assert items == re.split(", | |,", problem.answer)


def _take_sum(lines: Lines) -> tuple[int, int, str]:
    """Checks the steps of a sum or difference of two numbers: the first, the result, and what is still to do."""
    match = SUM.fullmatch(lines.take())
    assert match
    sign, left, operator, right, rest = match.groups()
    first, second = value_of(sign + left), value_of(right)
    assert left[-2] == right[-2]
    assert len(left) == len(right)
    larger, smaller = max(abs(first), second), min(abs(first), second)
    subtracts = (first < 0) != (operator == "-")
    if subtracts:
        _check_places(lines.take(), abs(first), second, left)
    carry = 0
    for place in range(0 if subtracts and larger == smaller else len(left) // 2):
        line = lines.take()
        step = re.fullmatch(r"([a-z])(\d)([-+])(\d)(?:([-+])1)?=(\d+)(b?)", line)
        assert step, line
        assert place_of(step[1], left) == place
        assert step[3] == ("-" if subtracts else "+")
        assert step[5] in (None, step[3])
        assert (step[5] is not None) == bool(carry)
        x, y = (larger, smaller) if subtracts else (abs(first), second)
        assert (int(step[2]), int(step[4])) == (digit_of(x, place), digit_of(y, place))
        if subtracts:
            value = int(step[2]) - int(step[4]) - carry
            assert (int(step[6]), step[7]) == (value % 10, "b" if value < 0 else "")
            carry = int(value < 0)
        else:
            assert int(step[6]) == int(step[2]) + int(step[4]) + carry
            carry = int(step[6]) // 10
    return first, first + second if operator == "+" else first - second, rest or ""


def _take_quotient(lines: Lines) -> tuple[int, int, int]:
    """Checks a division by one digit: dividend, quotient and remainder, the latter two without sign."""
    match = QUOTIENT.fullmatch(lines.take())
    assert match
    dividend, divisor, rest = value_of(match[2]), int(match[3]), 0
    for place in reversed(range(len(match[2]) // 2)):
        line = lines.take()
        step = re.fullmatch(r"([a-z])(\d)(\d)/(\d)=(\d)r(\d)", line)
        assert step, line
        assert place_of(step[1], match[2]) == place
        assert (int(step[2]), int(step[3]), int(step[4])) == (rest, digit_of(dividend, place), divisor)
        assert (int(step[5]), int(step[6])) == divmod(10 * rest + digit_of(dividend, place), divisor)
        rest = int(step[6])
    return value_of(match[1] + match[2]), *divmod(dividend, divisor)


def _check_places(line: str, first: int, second: int, number: str) -> None:
    """Digit pairs from the highest place down, up to the first that differ."""
    pairs = re.findall(r"([a-z])(\d)([<=>])(\d)", line)
    assert "".join(map("".join, pairs)) == line
    width = len(number) // 2
    assert [place_of(letter, number) for letter, *_ in pairs] == list(range(width - 1, width - 1 - len(pairs), -1))
    for letter, x, relation, y in pairs:
        assert _holds(int(x), relation, int(y))
        assert [digit_of(n, place_of(letter, number)) for n in (first, second)] == [int(x), int(y)]
    assert all(relation == "=" for _, _, relation, _ in pairs[:-1])
    assert (pairs[-1][2] == "=") == (first == second)


def _check_chain(problem: Problem) -> None:
    """Sums and differences, one after the other, and for an equation at last a quotient."""
    lines = Lines(problem.trace)
    if problem.task == "simple_equations":
        assert re.match(r"\d*[a-z]=", lines.take())
    expected: int | None = None
    while lines.next_is(SUM):
        first, result, rest = _take_sum(lines)
        assert expected in (None, first)
        expected = result
        if problem.task == "chain_sum":
            assert eval(f"{result}{rest}") == int(problem.answer)  # noqa: S307  (digits and signs)
        else:
            assert not rest
    if lines.next_is(QUOTIENT):
        dividend, share, rest_of_division = _take_quotient(lines)
        assert expected in (None, dividend)
        assert not rest_of_division
        expected = share if dividend > 0 else -share
    assert value_of(lines.take()) == int(problem.answer)
    assert expected in (None, int(problem.answer))
    assert not lines


def _check_product(problem: Problem) -> None:
    """Digit by digit of the second number; each product is added to those before it."""
    lines = Lines(problem.trace)
    header = re.fullmatch(rf"({NUMBER})\*({NUMBER})", lines.take())
    assert header
    first, second = value_of(header[1]), value_of(header[2])
    several, total = len(header[2]) > 2, 0
    for shift in range(len(header[2]) // 2):
        digit = digit_of(second, shift)
        if several:
            mark = re.fullmatch(r"\*([a-z])(\d)", lines.take())
            assert mark
            assert (place_of(mark[1], header[2]), int(mark[2])) == (shift, digit)
        carry = 0
        for place in range(len(header[1]) // 2):
            step = re.fullmatch(r"([a-z])(\d)\*(\d)=(\d+)(?:\+(\d)=(\d+))?([a-z]?)", lines.take())
            assert step
            assert place_of(step[1], header[1]) == place
            assert (int(step[2]), int(step[3])) == (digit_of(first, place), digit)
            assert (int(step[4]), int(step[5] or 0)) == (int(step[2]) * digit, carry)
            assert int(step[6] or step[4]) == int(step[4]) + carry
            assert (place_of(step[7], header[1]) == shift + place) if several else not step[7]
            carry = (int(step[4]) + carry) // 10
        partial = first * digit * 10**shift
        if shift:
            taken, result, _ = _take_sum(lines)
            assert (taken, result) == (total, total + partial)
        total += partial
        if shift < len(header[2]) // 2 - 1:
            assert value_of(lines.take()) == total
    assert value_of(lines.take()) == total == int(problem.answer)
    assert not lines


def _check_division(problem: Problem) -> None:
    lines = Lines(problem.trace)
    dividend, share, rest = _take_quotient(lines)
    assert dividend == problem.meta["operands"][0]
    if problem.meta["asked"] == "remainder":
        assert problem.answer == str(rest)
    else:
        assert value_of(lines.take()) == share
        assert problem.answer == (f"{share} remainder {rest}" if rest else str(share))
    assert not lines


def _check_steps(problem: Problem) -> None:
    """gcd: differences, in columns where they are long, or divisions digit by digit; the last divisor is the answer."""
    lines = Lines(problem.trace)
    larger, smaller = max(problem.meta["operands"]), min(problem.meta["operands"])
    while smaller:
        if lines.next_is(QUOTIENT):
            dividend, _, rest = _take_quotient(lines)
            assert dividend == larger
            larger, smaller = smaller, rest
        else:
            difference = _take_difference(lines, larger, smaller)
            larger, smaller = max(difference, smaller), min(difference, smaller)
    assert str(larger) == problem.answer
    assert not lines


def _take_difference(lines: Lines, first: int, second: int) -> int:
    """`152-67=85`, which columns lead to if the first number is long."""
    if lines.next_is(SUM):
        assert _take_sum(lines)[:2] == (first, first - second)
    assert lines.take() == f"{first}-{second}={first - second}"
    return first - second


def _check_plain_steps(problem: Problem) -> None:
    for line in problem.trace.split("\n"):
        if relation := re.fullmatch(r"(\d+)<(\d+)", line):
            assert int(relation[1]) < int(relation[2])
            continue
        match = re.fullmatch(r"(\d+)([-+*])(\d+)=(\d+)", line)
        assert match, line
        x, y, result = int(match[1]), int(match[3]), int(match[4])
        assert {"+": x + y, "-": x - y, "*": x * y}[match[2]] == result
    span = (problem.meta["end"] - problem.meta["start"]) % 1440
    in_minutes = problem.meta["in_minutes"]
    assert problem.answer == (str(span) if in_minutes else f"{span // 60:02d}:{span % 60:02d}")


def _check_sorting(problem: Problem) -> None:
    ascending, numbers = problem.meta["ascending"], problem.meta["numbers"]
    header, *lines = problem.trace.split("\n")
    names = _names(header, numbers)
    placed: list[int] = []
    for name, number, line in zip(names, numbers, lines, strict=True):
        inserted, compared, after = line.split("|")
        assert (inserted[0], int(inserted[1:])) == (name, number)
        passed = re.findall(r"(\d+)([<=>])", compared)
        assert [int(other) for other, _ in passed] == placed[: len(passed)]
        stops = [not _holds(int(o), s, number) or (s == ">" if ascending else s == "<") for o, s in passed]
        assert not any(stops[:-1])
        assert len(passed) == len(placed) or stops[-1]
        placed = sorted([*placed, number], reverse=not ascending)
        assert [int(n) for n in after.split(",")] == placed
        assert len({len(n) for n in after.split(",")}) == 1
    assert problem.answer == ", ".join(map(str, placed))


def _names(header: str, numbers: list[int]) -> list[str]:
    """The letters of a list's numbers, which follow each other as places do, the lowest first."""
    pairs = re.findall(r"([a-z])(\d+)", header)
    assert [int(number) for _, number in pairs] == list(numbers)
    for (low, _), (high, _) in itertools.pairwise(pairs):
        assert (ORDER.index(low) + 1) % len(ORDER) == ORDER.index(high)
    return [name for name, _ in pairs]


def _holds(first: int, relation: str, second: int) -> bool:
    return {"<": first < second, "=": first == second, ">": first > second}[relation]


def _check_extreme(problem: Problem) -> None:
    best, *others = problem.meta["numbers"]
    header, *lines, last = problem.trace.split("\n")
    for name, number, line in zip(_names(header, problem.meta["numbers"])[1:], others, lines, strict=True):
        match = re.fullmatch(r"([a-z])(\d+)([<=>])(\d+)", line)
        assert match
        assert (match[1], int(match[2]), int(match[4])) == (name, best, number)
        assert _holds(best, match[3], number)
        best = max(best, number) if problem.meta["largest"] else min(best, number)
    assert int(last.removeprefix("=")) == best == int(problem.answer)


def _check_two_numbers(problem: Problem) -> None:
    first, second = problem.meta["operands"]
    header, places, relation, ranks = problem.trace.split("\n")
    assert tuple(map(value_of, header.split(","))) == (first, second)
    _check_places(places, first, second, header.split(",")[0])
    assert relation == f"{first}{'<' if first < second else '>'}{second}"
    assert ranks == f"max{max(first, second)}min{min(first, second)}"
    assert problem.answer == str(max(first, second) if problem.meta["larger"] else min(first, second))


def _check_sequence(problem: Problem) -> None:
    """The differences, theirs if they are not equal, and the sum that gives the next number."""
    lines, numbers = Lines(problem.trace), problem.meta["numbers"]
    steps = [_take_difference(lines, b, a) for a, b in itertools.pairwise(numbers)]
    growth = steps[1] - steps[0]
    assert {b - a for a, b in itertools.pairwise(steps)} == {growth}
    if growth:
        assert lines.take() == f"{steps[1]}-{steps[0]}={growth}"
        assert lines.take() == f"{steps[-1]}+{growth}={steps[-1] + growth}"
    result = numbers[-1] + steps[-1] + growth
    if lines.next_is(SUM):
        assert _take_sum(lines)[:2] == (numbers[-1], result)
    assert lines.take() == f"{numbers[-1]}+{steps[-1] + growth}={result}"
    assert result == int(problem.answer)
    assert not lines


def _check_base(problem: Problem) -> None:
    lines, digits = Lines(problem.trace), ""
    value, base = problem.meta["value"], problem.meta["base"]
    while value:
        share, rest = divmod(value, base)
        if lines.next_is(QUOTIENT):
            assert _take_quotient(lines) == (value, share, rest)
        assert lines.take() == f"{value}/{base}={share}r{rest}"
        value, digits = share, f"{rest}{digits}"
    assert problem.answer == digits
    assert int(digits, base) == problem.meta["value"]
    assert not lines


def _check_countdown(problem: Problem) -> None:
    *searched, solution = problem.trace.split("\n")
    for position, line in enumerate(searched):
        left, made, back = line.split("|")
        assert int(left) == problem.meta["numbers"][position]
        results = [_value(step) for step in made.split(",")]
        reached = [_value(step.removesuffix("!")) in results for step in back.split(",")]
        assert [step.endswith("!") for step in back.split(",")] == reached
        assert any(reached) == (line is searched[-1])
    first, last = solution.split(",")
    assert _value(first) is not None
    assert _value(last) == problem.meta["target"]
    assert sorted(map(int, re.findall(r"\d+", problem.answer))) == sorted(problem.meta["numbers"])
    assert eval(problem.answer) == problem.meta["target"]  # noqa: S307  (our own answer, digits and signs)


def _value(step: str) -> int:
    match = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", step)
    assert match, step
    x, y, result = int(match[1]), int(match[3]), int(match[4])
    assert {"+": x + y, "-": x - y, "*": x * y, "/": x / y if y else None}[match[2]] == result
    return result


def _check_backward(problem: Problem) -> None:
    forward, backward = problem.trace.split("\n")
    assert _letters(forward) == problem.meta["word"]
    pairs = re.findall(r"\d[a-z]", forward)
    assert backward == "".join(reversed(pairs))
    assert problem.answer == "".join(pair[1] for pair in reversed(pairs))


def _check_counting(problem: Problem) -> None:
    letter, _, steps = problem.trace.partition(":")
    count = 0
    word = ""
    for current, shown in re.findall(r"([a-z])(\d)", steps):
        count += current == letter
        word += current
        assert int(shown) == count
    assert word == problem.meta["word"]
    assert problem.answer == str(count)
