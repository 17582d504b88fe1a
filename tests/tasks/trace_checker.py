"""Re-computes traces from their text alone, knowing nothing of the code that wrote them."""

import itertools
import re

from deepground.tasks import Problem

PLACES = "uthkmln"
LABELLED = re.compile(r"(?:[uthkmln]\d)+")


def value_of(text: str) -> int:
    """The number that place-lettered digits spell: `t4u2` is 42."""
    sign = -1 if text.startswith("-") else 1
    return sign * sum(int(d) * 10 ** PLACES.index(p) for p, d in re.findall(r"([uthkmln])(\d)", text))


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
    }.get(problem.task, _check_columns)
    checker(problem)


def _check_repeat(problem: Problem) -> None:
    items = []
    for line in problem.trace.split("\n"):
        if LABELLED.fullmatch(line):
            items.append(str(value_of(line)))
        else:
            pairs = re.findall(r"(\d)([a-z])", line)
            assert [int(position) for position, _ in pairs] == list(range(1, len(pairs) + 1))
            items.append("".join(letter for _, letter in pairs))
    assert items == re.split(", | |,", problem.answer)


def _check_step(line: str, carry: int) -> int:
    """Checks one digit step and returns the carry or borrow that the next one must take."""
    step = line[1:]
    if "/" in step:
        dividend, divisor, share, rest = map(int, re.fullmatch(r"(\d\d)/(\d)=(\d+)r(\d)", step).groups())  # type: ignore[union-attr]
        assert dividend == divisor * share + rest
        assert rest < divisor
        assert dividend // 10 == carry
        return rest
    if "*" in step:
        match = re.fullmatch(r"(\d)\*(\d)=(\d+)(?:\+(\d)=(\d+))?", step)
        assert match, step
        x, y, product = (int(match[i]) for i in (1, 2, 3))
        assert x * y == product
        assert int(match[4] or 0) == carry
        total = int(match[5] or product)
        assert total == product + carry
        return total // 10
    match = re.fullmatch(r"(\d)([+-])(\d)(?:([+-])1)?=(\d+)(b?)", step)
    assert match, step
    x, y, result = int(match[1]), int(match[3]), int(match[5])
    assert (match[4] is not None) == bool(carry)
    if match[2] == "+":
        assert x + y + carry == result
        return result // 10
    assert x - y - carry == result - (10 if match[6] else 0)
    assert 0 <= result <= 9
    return int(bool(match[6]))


def _check_comparison(line: str, first: int, second: int) -> None:
    for place, x, relation, y in re.findall(r"([uthkmln])(\d)([<=>])(\d)", line):
        assert {"<": x < y, "=": x == y, ">": x > y}[relation]
        assert first // 10 ** PLACES.index(place) % 10 == int(x)
        assert second // 10 ** PLACES.index(place) % 10 == int(y)
    last = line[-2]
    assert last == ("<" if first < second else ">" if first > second else "=")


def _check_columns(problem: Problem) -> None:
    """Headers such as `h4t7u8+h2t5u6` open a block; its digit steps and its result must follow from it."""
    expected: int | None = None
    carry = 0
    steps = 0
    lines = problem.trace.split("\n")
    if problem.task == "simple_equations":
        name = re.match(r"\d*([a-z])=", lines[0])
        assert name
        lines = lines[1:]
    for line in lines:
        header = re.fullmatch(r"(-?(?:[uthkmln]\d)+)([-+*/,])((?:[uthkmln]\d)+|\d)", line)
        if header:
            first, operator, text = value_of(header[1]), header[2], header[3]
            if expected is not None and operator != "+":
                assert expected == first, f"{line} does not take over {expected}"
            second = int(text) if text.isdigit() else value_of(text)
            expected = _expected(first, operator, second)
            operands, carry, steps = (first, second), 0, 0
            seen: list[str] = []
        elif re.search("[<>]", line) or re.fullmatch(r"(?:[uthkmln]\d=\d)+", line):
            if problem.task == "comparison" or "=" not in line[:1]:
                _check_comparison(line, abs(operands[0]), abs(operands[1]))
        elif LABELLED.fullmatch(line.lstrip("-")):
            if problem.task == "multiplication" and len(lines) > 6 and line != lines[-1]:
                assert value_of(line) % operands[0] == 0
                carry = 0
            elif len(lines) == 1 or line == lines[-1]:
                assert expected is None or value_of(line) == expected
                expected = value_of(line)
        else:
            if steps and line[0] == seen[0][0] and problem.task == "multiplication":
                carry = 0
            carry = _check_step(line, carry)
            steps += 1
            seen.append(line)
    assert expected is not None
    if problem.task == "comparison":
        larger = max(operands) if problem.meta["larger"] else min(operands)
        assert str(larger) == problem.answer
    elif problem.task == "division":
        share, rest = divmod(*operands)
        asked_rest = problem.meta["asked"] == "remainder"
        assert problem.answer == (str(rest) if asked_rest else f"{share} remainder {rest}" if rest else str(share))
    else:
        assert str(expected) == problem.answer


def _expected(first: int, operator: str, second: int) -> int:
    if operator == "+":
        return first + second
    if operator == "-":
        return first - second
    if operator == "*":
        return first * second
    if operator == "/":
        return (abs(first) // second) * (-1 if first < 0 else 1)
    return max(first, second)


def _check_steps(problem: Problem) -> None:
    """gcd: whole subtractions, or divisions digit by digit; the last divisor is the answer."""
    divisor = min(problem.meta["operands"])
    carry = 0
    for line in problem.trace.split("\n"):
        if whole := re.fullmatch(r"(\d+)-(\d+)=(\d+)", line):
            first, second, result = map(int, whole.groups())
            assert first - second == result
            assert first >= second
            divisor = second
        elif header := re.fullmatch(r"((?:[uthkmln]\d)+)/(\d)", line):
            divisor, carry = int(header[2]), 0
        else:
            carry = _check_step(line, carry)
    assert str(divisor) == problem.answer


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
    ascending = problem.meta["ascending"]
    placed: list[int] = []
    for number, line in zip(problem.meta["numbers"], problem.trace.split("\n"), strict=True):
        if placed:
            inserted, compared, after = line.split("|")
            assert int(inserted) == number
            passed = re.findall(r"(\d+)([<=>])", compared)
            assert [int(other) for other, _ in passed] == placed[: len(passed)]
            stops = [not _holds(int(o), s, number) or (s == ">" if ascending else s == "<") for o, s in passed]
            assert not any(stops[:-1])
            assert stops[-1] or len(passed) == len(placed)
        else:
            after = line
        placed = sorted([*placed, number], reverse=not ascending)
        assert [int(n) for n in after.split(",")] == placed
        assert len({len(n) for n in after.split(",")}) == 1
    assert problem.answer == ", ".join(map(str, placed))


def _holds(first: int, relation: str, second: int) -> bool:
    return {"<": first < second, "=": first == second, ">": first > second}[relation]


def _check_extreme(problem: Problem) -> None:
    best, *others = problem.meta["numbers"]
    *lines, last = problem.trace.split("\n")
    for number, line in zip(others, lines, strict=True):
        match = re.fullmatch(r"(\d+)([<=>])(\d+)", line)
        assert match
        assert (int(match[1]), int(match[3])) == (best, number)
        assert _holds(best, match[2], number)
        best = max(best, number) if problem.meta["largest"] else min(best, number)
    assert int(last.removeprefix("=")) == best == int(problem.answer)


def _check_two_numbers(problem: Problem) -> None:
    first, second = problem.meta["operands"]
    header, places, relation, ranks = problem.trace.split("\n")
    assert tuple(map(value_of, header.split(","))) == (first, second)
    digits = re.findall(r"([uthkmln])(\d)([<=>])(\d)", places)
    assert "".join(map("".join, digits)) == places
    for place, x, shown, y in digits:
        assert _holds(int(x), shown, int(y))
        assert [n // 10 ** PLACES.index(place) % 10 for n in (first, second)] == [int(x), int(y)]
    assert all(shown == "=" for _, _, shown, _ in digits[:-1])
    assert relation == f"{first}{'<' if first < second else '>'}{second}"
    assert ranks == f"max{max(first, second)}min{min(first, second)}"
    assert problem.answer == str(max(first, second) if problem.meta["larger"] else min(first, second))


def _check_sequence(problem: Problem) -> None:
    """Each line is a sum or difference that holds; the last one adds to the last number shown."""
    result = None
    for line in problem.trace.split("\n"):
        match = re.fullmatch(r"(\d+)([+-])(-?\d+)=(-?\d+)", line)
        assert match, line
        first, second, result = int(match[1]), int(match[3]), int(match[4])
        assert (first + second if match[2] == "+" else first - second) == result
    numbers = problem.meta["numbers"]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    growth = steps[1] - steps[0]
    assert {b - a for a, b in itertools.pairwise(steps)} == {growth}
    assert numbers[-1] + steps[-1] + growth == result == int(problem.answer)


def _check_base(problem: Problem) -> None:
    value, digits = problem.meta["value"], ""
    for line in problem.trace.split("\n"):
        dividend, base, share, rest = map(int, re.fullmatch(r"(\d+)/(\d+)=(\d+)r(\d+)", line).groups())  # type: ignore[union-attr]
        assert (dividend, base) == (value, problem.meta["base"])
        assert divmod(value, base) == (share, rest)
        value, digits = share, f"{rest}{digits}"
    assert value == 0
    assert problem.answer == digits
    assert int(digits, problem.meta["base"]) == problem.meta["value"]


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
    forward, backward = (re.findall(r"(\d)([a-z])", line) for line in problem.trace.split("\n"))
    assert "".join(letter for _, letter in forward) == problem.meta["word"]
    assert [int(i) for i, _ in forward] == list(range(1, len(forward) + 1))
    assert backward == forward[::-1]
    assert problem.answer == "".join(letter for _, letter in backward)


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
