from calc import total


def test_total() -> None:
    assert total([3, 1, 4]) == 8


def test_one() -> None:
    assert total([7]) == 7


def test_nothing() -> None:
    assert total([]) == 0
