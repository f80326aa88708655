"""What the figures show."""

import numpy as np
import pytest

from scripts.tables import drawing, figure4, figures, learning_curves
from tests.scripts.command import ROOT


def test_figure():
    record = {
        "timesteps": 100,
        "seconds": 120.0,
        "episode_steps": [10, 20, 60],
        "episode_returns": [1.0, 2.0, 3.0],
        "evaluation": [3.0, 5.0],
    }
    figure = learning_curves.all_curves("CartPole-v1", {"a2c": [record, record]})
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
    left, right = figure4.draw("CartPole-v0", {"a2c": [record, record], "relaxa2c": [record, record]}).axes
    assert left.lines[0].get_ydata() == pytest.approx([1, 1.5, 2])
    assert [line.get_ydata()[0] for line in right.lines] == pytest.approx([1, 2, 1])  # ours with ĉ, without; a2c


EVALUATED = {"evaluation": [1.0], "seconds": 1.0}


def run_of(scale, timesteps=1000):
    steps = list(range(100, timesteps + 1, 100))
    return {"timesteps": timesteps, "episode_steps": steps, "episode_returns": [scale * step for step in steps]}


def test_the_first_figure_shows_the_environments_that_have_all_three():
    runs = [run_of(scale) for scale in (1.0, 2.0, 3.0, 10.0)]
    three = {"a2c": runs, "a2c-state-baseline": runs, "relaxa2c": runs}
    groups = {"both": three, "ours alone": {"relaxa2c": runs}, "more": {**three, "ppo": runs}}
    figure = learning_curves.three_curves(groups)
    assert [axis.get_title() for axis in figure.axes] == ["both, 4 seeds", "more, 4 seeds"]
    for axis in figure.axes:
        assert [line.get_label() for line in axis.lines] == ["RELAXA2C", "A2C with ĉ(s)", "A2C (ĉ = 0)"]
        # of 1, 2, 3 and 10 the middle two
        assert [line.get_ydata()[-1] for line in axis.lines] == [2500.0] * 3
        assert len(axis.collections) == 3
    assert figure.get_size_inches()[0] == drawing.WIDTH
    sizes = [text.get_fontsize() for text in figure.findobj(lambda part: hasattr(part, "get_fontsize"))]
    assert min(sizes) >= 12


def test_a_figure_is_the_same_file_whenever_it_is_made(tmp_path, monkeypatch):
    for place, time in (("one", 1e9), ("two", 2e9)):
        monkeypatch.setattr("time.time", lambda time=time: time)
        runs = [run_of(1.0), run_of(2.0)]
        figure = learning_curves.all_curves("E", {"a2c": [run | EVALUATED for run in runs]})
        drawing.save({"name": figure}, tmp_path / place)
    first, second = ((tmp_path / place / "name.png").read_bytes() for place in ("one", "two"))
    assert first == second
    assert b"Software" not in first
    width = int.from_bytes(first[16:20], "big")
    assert width == drawing.WIDTH * drawing.DOTS_PER_INCH


def test_every_figure_of_the_pages_is_made():
    made = {f"{name}.png" for name in figures.figures()}
    there = {path.name for path in (ROOT / "docs" / "assets" / "figures").iterdir()}
    assert made == there
