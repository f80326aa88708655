"""What the figures show."""

import numpy as np
import pytest

from scripts.tables import figure4, learning_curves


def test_figure():
    record = {
        "timesteps": 100,
        "seconds": 120.0,
        "episode_steps": [10, 20, 60],
        "episode_returns": [1.0, 2.0, 3.0],
        "evaluation": [3.0, 5.0],
    }
    figure = learning_curves.draw({"CartPole-v1": {"a2c": [record, record]}})
    by_steps, by_time, profile = figure.axes
    assert by_steps.lines[0].get_xydata()[-1].tolist() == [100, 3]
    assert by_time.lines[0].get_xydata()[-1].tolist() == [2, 3]
    x, y = profile.lines[0].get_data()
    assert set(y[x < 4]) == {1}
    assert set(y[x >= 4]) == {0}


def test_figure_4():
    assert figure4.running_mean(np.array([1.0, 3.0, 5.0])).tolist() == [1, 2, 3]
    long = figure4.running_mean(np.arange(50.0))
    assert long[-1] == np.arange(50 - figure4.WINDOW, 50).mean()
    record = {
        "episode_steps": [10, 20, 60],
        "episode_returns": [1.0, 2.0, 3.0],
        # of the updates at these steps: with ĉ, without
        "variances": [[20, np.exp(1), np.exp(2)], [40, np.exp(3), np.exp(4)]],
    }
    assert figure4.by_episode(record, 1) == pytest.approx([1, 1, 3])
    assert figure4.by_episode(record, 2) == pytest.approx([2, 2, 4])
    top, bottom = figure4.draw({"CartPole-v0": {"a2c": [record, record], "relaxa2c": [record, record]}}).axes
    assert top.lines[0].get_ydata() == pytest.approx([1, 1.5, 2])
    assert [line.get_ydata()[0] for line in bottom.lines] == pytest.approx([1, 1, 2])  # a2c; ours with ĉ, without
