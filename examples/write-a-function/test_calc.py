from calc import compute


def test_above() -> None:
    assert compute([2, 9, 5, 7]) == 2


def test_at_the_limit() -> None:
    assert compute([5, 5]) == 0
