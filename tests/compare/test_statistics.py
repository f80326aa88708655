"""The statistics of learning records, against cases worked by hand."""

import numpy as np
import pytest

from sb3_relax.compare import statistics as rl_statistics


def test_interquartile_mean_leaves_out_the_quarters():
    interval = rl_statistics.iqm([-1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0])
    assert interval.value == 3.5
    assert interval.low < 3.5 < interval.high
    assert rl_statistics.iqm([500.0] * 5) == (500, 500, 500)


def test_probability_of_improvement():
    ours, theirs = {"a": [1.0, 2.0, 3.0], "b": [0.0, 0.0]}, {"a": [0.0, 2.0], "b": [0.0, 1.0]}
    # a: 3 pairs with 0 are won, of those with 2 one is won and one tied; b: ties with 0, losses to 1
    value, low, high = rl_statistics.probability_of_improvement(ours, theirs)
    assert value == pytest.approx(((3 + 1.5) / 6 + 0.25) / 2)
    assert 0 <= low < value < high <= 1
    opposite = rl_statistics.probability_of_improvement(theirs, ours)
    assert opposite.value == pytest.approx(1 - value)
    with pytest.raises(ValueError, match="the same environments"):
        rl_statistics.probability_of_improvement(ours, {"a": [0.0]})


def test_its_interval_covers():
    """No difference between ten runs and ten: the interval leaves .5 out in one case in twenty, and some."""
    rng = np.random.default_rng(0)
    outside = 0
    for _ in range(60):
        x, y = rng.normal(size=(2, 10))
        _, low, high = rl_statistics.probability_of_improvement({"a": x}, {"a": y})
        outside += not low <= 0.5 <= high
    assert outside <= 10


def test_ratio_of_means():
    value, low, high = rl_statistics.ratio_of_means([2.0, 4.0, 6.0], [1.0, 1.0, 4.0])
    assert value == 2.0
    assert 2 / 4 <= low < value < high <= 6 / 1
    assert rl_statistics.ratio_of_means([3.0, 3.0], [2.0, 2.0]) == (1.5, 1.5, 1.5)


def test_performance_profile():
    profile = rl_statistics.performance_profile([1.0, 2.0, 2.0, 9.0], np.array([0.0, 1.0, 2.0, 10.0]))
    assert profile.tolist() == [1.0, 0.75, 0.25, 0.0]


def test_return_during_training_counts_steps_not_episodes():
    record = {"timesteps": 100, "episode_steps": [10, 20, 60], "episode_returns": [1.0, 2.0, 3.0]}
    # from its end on each counts until the next: 1 before 20, 2 for 40 steps, 3 for 40
    mean = rl_statistics.mean_return_during_training(record, points=1000)
    assert mean == pytest.approx(0.2 * 1 + 0.4 * 2 + 0.4 * 3, abs=0.01)


def test_unsolved_runs_are_level_with_each_other():
    unsolved = -np.inf
    share = rl_statistics.probability_of_improvement({"a": [unsolved, -5.0]}, {"a": [unsolved, unsolved]})
    assert share.value == pytest.approx((0.5 + 0.5 + 1 + 1) / 4)
    never = rl_statistics.probability_of_improvement({"a": [unsolved] * 3}, {"a": [unsolved] * 3})
    assert tuple(never) == (0.5, 0.5, 0.5)
