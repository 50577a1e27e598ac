import math

import pytest
import torch

from callbacks.health import DeadLatents, Saturation, Streak, relative_spread, spread


def test_a_streak_needs_all_its_readings() -> None:
    streak = Streak(1.0, 3)
    assert [streak.feed(x) for x in (0, 0, 2, 0, 0, 0, 0, math.nan, 0)] == [False] * 5 + [True, True, False, False]


def test_a_streak_goes_on_where_it_was() -> None:
    first, second = Streak(1.0, 2), Streak(1.0, 2)
    first.feed(0.0)
    second.count = first.count
    assert second.feed(0.0)


def test_detectors_go_on_where_they_were() -> None:
    """Restored after each reading they say what one that was never interrupted says."""
    whole, parts = (Saturation(), DeadLatents()), (Saturation(), DeadLatents())
    for k in range(30):
        terms, kl = {"d/a": 2.0 if k < 5 else 0.01}, [1.0 if k < 5 else 0.0] * 2
        assert whole[0].feed(terms, {"g/adv": 4.0}) == parts[0].feed(terms, {"g/adv": 4.0})
        assert whole[1].feed(kl) == parts[1].feed(kl)
        states, parts = [part.state_dict() for part in parts], (Saturation(), DeadLatents())
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)
    assert parts[1].feed([0.0, 0.0]) == [0, 1]


def saturated_after(curve, adversarial=lambda k: 4.0, name="d/a", readings=40) -> int | None:
    detector = Saturation()
    for k in range(readings):
        if detector.feed({name: curve(k)}, {"g/adv": adversarial(k)}):
            return k
    return None


def test_saturation_is_seen_after_ten_readings() -> None:
    assert saturated_after(lambda k: 2.0 if k < 5 else 0.01) == 14


@pytest.mark.parametrize(
    ("curve", "adversarial"),
    [
        (lambda k: 2 * 0.9**k + 0.4, lambda k: 4.0),  # an easy balance
        (lambda k: 0.01 if k % 9 else 1.0, lambda k: 4.0),  # it gets over it
        (lambda k: 2.0 if k < 5 else 0.01, lambda k: 4.0 if k < 5 else 0.5),  # the generator fools it
        (lambda k: 0.0, lambda k: 4.0),  # a term that was never there
        (lambda k: math.nan, lambda k: 4.0),  # not this detector's business
    ],
)
def test_what_is_not_saturation(curve, adversarial) -> None:
    assert saturated_after(curve, adversarial) is None


def test_a_penalty_may_vanish() -> None:
    assert saturated_after(lambda k: 2.0 if k < 5 else 0.0, name="r1_a") is None
    assert saturated_after(lambda k: 2.0 if k < 5 else 0.0, name="d/r1_a") is None


def test_the_hinge_loss_saturates_at_a_rising_generator_term() -> None:
    assert saturated_after(lambda k: 2.0 if k < 5 else 0.0, lambda k: 0.0 if k < 5 else 1.5) == 14


def test_one_of_two_discriminators() -> None:
    detector = Saturation()
    seen = [detector.feed({"d/a": 1.0, "d/b": 1.0 if k < 5 else 0.01}, {}) for k in range(20)]
    assert seen[-1] == ["d/b"]


def test_latents_that_die_and_latents_that_never_lived() -> None:
    detector = DeadLatents()
    died = [detector.feed([1.0, 1.0, 1.0] if k < 5 else [0.0, 0.001, 1.0]) for k in range(30)]
    assert died.index([0, 1]) == 14
    detector = DeadLatents()
    never = [bool(detector.feed([0.0, 0.0, 1.0])) for _ in range(300)]
    assert never.index(True) == 199
    detector = DeadLatents()  # a pruned code: less than most
    assert not any(detector.feed([1.0] * 4 if k < 5 else [0.0, 0.0, 1.0, 1.0]) for k in range(300))


def test_spread_is_the_mean_over_all_pairs() -> None:
    x = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pairs = [(x[i] - x[j]).square().mean() for i in range(5) for j in range(i)]
    assert spread(x) == pytest.approx(float(torch.stack(pairs).mean().sqrt()), rel=1e-5)
    assert relative_spread(0.5 * x, x) == pytest.approx(0.5, rel=1e-5)
    assert math.isnan(relative_spread(x, torch.zeros(3, 3, 4, 4)))
