"""Plans that follow the measured costs, and estimates that follow what happened."""

import pytest

from deepground.engine.draft_pace import (
    ASSUMED_SLOPE,
    BEYOND_COLD,
    REFRESH_STEPS,
    STALE_STEPS,
    Acceptance,
    Bid,
    Curve,
    StepCosts,
    plan,
)


def costs(per_draft: float, *, sequences: int = 1, per_round: float | None = None) -> StepCosts:
    """A machine on which a plain step takes 10 ms, and each draft per sequence a share of that more."""
    known = StepCosts()
    known.learn_step(sequences, 0, 0.01)
    for count in range(1, 17):
        known.learn_step(sequences, count * sequences, 0.01 * (1 + per_draft * count))
        if per_round is not None:
            known.learn_rounds(sequences, count, 0.01 * per_round * count)
    return known


def test_no_drafts_where_they_cost_more_than_they_bring() -> None:
    assert plan(1, [Bid([0.3] * 16, False)], costs(0.5)) == [0]
    assert plan(1, [Bid([0.9] * 16, False)], costs(1.0)) == [0]
    assert plan(4, [Bid([0.2] * 16, False)] * 4, costs(0.3, sequences=4)) == [0] * 4


def test_as_many_drafts_as_pay() -> None:
    planned = [plan(1, [Bid([chance] * 16, False)], costs(0.1))[0] for chance in (0.3, 0.6, 0.9, 0.98)]
    assert planned == sorted(planned)
    assert 0 < planned[0] < planned[2] < planned[3] == 16
    for chance, count in zip((0.3, 0.6, 0.9), planned, strict=False):
        rates = [sum(chance**n for n in range(total + 1)) / (1 + 0.1 * total) for total in range(17)]
        assert rates.index(max(rates)) == count


def test_in_a_batch_the_likelier_drafts_go_first() -> None:
    sure, doubtful, hopeless = plan(
        3, [Bid([0.95] * 16, False), Bid([0.5] * 16, False), Bid([0.05] * 16, False)], costs(0.1, sequences=3)
    )
    assert sure > doubtful > hopeless == 0


def test_drafting_itself_has_its_price() -> None:
    def bid(in_rounds: bool) -> list[Bid]:
        return [Bid([0.8] * 8, in_rounds)]

    assert plan(1, bid(True), costs(0.1, per_round=0.05))[0] < plan(1, bid(False), costs(0.1))[0]
    assert plan(1, bid(True), costs(0.1, per_round=0.8)) == [0]


def test_never_more_drafts_than_there_are() -> None:
    assert plan(2, [Bid([0.98] * 3, False), Bid([0.98] * 1, False)], costs(0.01, sequences=2)) == [3, 1]
    assert plan(2, [], costs(0.1)) == []


def test_drafts_of_unequal_chances() -> None:
    known = costs(0.1, per_round=0.2)
    assert plan(1, [Bid([0.95, 0.25, 0.9], True)], known) == [1]
    assert plan(1, [Bid([0.9, 0.85, 0.8], True)], known) == [3]


def test_unknown_costs_are_assumed_low() -> None:
    known = StepCosts()
    assert known.wants_plain(1)
    known.learn_step(1, 0, 0.01)
    assert not known.wants_plain(1)
    assert known.wants_plain(2)
    assert plan(1, [Bid([0.7] * 16, False)], known)[0] >= 4
    known.learn_step(1, 8, 0.03)
    assert plan(1, [Bid([0.7] * 16, False)], known)[0] < 4


def test_cold_steps_say_little() -> None:
    known = StepCosts()
    known.learn_step(1, 0, 3.0, cold=True)
    assert known.wants_plain(1)
    known.learn_step(1, 0, 0.01)
    known.learn_step(1, 2, 0.02, cold=True)
    assert known.step_curve(1)(16) == pytest.approx(1 + 2 * ASSUMED_SLOPE)
    known.learn_step(1, 16, 0.01 * (1 + 16 * ASSUMED_SLOPE) * BEYOND_COLD * 1.1, cold=True)
    assert known.step_curve(1)(128) == pytest.approx((1 + 16 * ASSUMED_SLOPE) * BEYOND_COLD * 1.1)


def test_a_hiccup_does_not_last() -> None:
    known = costs(0.1)
    for _ in range(3):
        known.learn_step(1, 0, 0.01)
    known.learn_step(1, 0, 5.0)
    known.learn_step(1, 4, 5.0)
    for _ in range(30):
        known.learn_step(1, 0, 0.01)
        known.learn_step(1, 4, 0.014)
    assert known.step_curve(1)(32) == pytest.approx(1.4, rel=0.05)


def test_what_was_far_too_slow_is_replaced() -> None:
    known = StepCosts()
    known.learn_step(1, 0, 3.0)
    known.learn_step(1, 0, 0.01)
    known.learn_step(1, 1, 0.011)
    assert known.step_curve(1)(8) == pytest.approx(1.1)


def test_plain_steps_are_measured_again() -> None:
    known = costs(0.1)
    asked = 0
    while not known.wants_plain(1):
        known.learn_step(1, 2, 0.012)
        asked += 1
    assert asked == REFRESH_STEPS - 16
    known.learn_step(1, 0, 0.05, cold=True)
    assert known.wants_plain(1)
    known.learn_step(1, 0, 0.01)
    assert not known.wants_plain(1)
    known.learn_step(1, 2, 0.012)
    assert known.step_curve(1)(16) == pytest.approx(1.2)


def test_old_measurements_are_forgotten() -> None:
    known = costs(0.5)
    for _ in range(2 * STALE_STEPS):
        known.learn_step(1, 0, 0.01)
    assert known.step_curve(1)(8) == pytest.approx(1 + ASSUMED_SLOPE)


def test_curve() -> None:
    curve = Curve(start=1.0, slope=0.5)
    assert [curve(0), curve(4)] == [1.0, 3.0]
    curve.note(8, 2.0, step=1)
    curve.note(2, 1.5, step=5)
    assert [curve(0), curve(1), curve(2), curve(5), curve(8), curve(10)] == [1.0, 1.25, 1.5, 1.75, 2.0, 3.0]
    curve.forget_before(3)
    assert curve(8) == 4.5


def test_acceptance_follows_the_recent_past() -> None:
    seen = Acceptance(keep=0.9)
    assert seen.chance(0.6, 2.0) == 0.6
    for _ in range(50):
        seen.update(4, 4)
    assert seen.chance(0.6, 2.0) > 0.95
    for _ in range(20):
        seen.update(4, 0)
    assert seen.chance(0.6, 2.0) < 0.4
    assert 0 < Acceptance(keep=0.9, wrong=1e9).chance(0.5, 1.0) < Acceptance(keep=0.9, right=1e9).chance(0.5, 1.0) < 1
