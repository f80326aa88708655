"""The statistics of learning records, against cases worked by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def rl_statistics(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import rl_statistics

    return rl_statistics


def test_interquartile_mean_leaves_out_the_quarters(rl_statistics):
    interval = rl_statistics.iqm([-1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0])
    assert interval.value == 3.5
    assert interval.low < 3.5 < interval.high
    assert rl_statistics.iqm([500.0] * 5) == (500, 500, 500)


def test_probability_of_improvement(rl_statistics):
    ours, theirs = {"a": [1.0, 2.0, 3.0], "b": [0.0, 0.0]}, {"a": [0.0, 2.0], "b": [0.0, 1.0]}
    # a: 3 pairs with 0 are won, of those with 2 one is won and one tied; b: ties with 0, losses to 1
    value, low, high = rl_statistics.probability_of_improvement(ours, theirs)
    assert value == pytest.approx(((3 + 1.5) / 6 + 0.25) / 2)
    assert 0 <= low < value < high <= 1
    opposite = rl_statistics.probability_of_improvement(theirs, ours)
    assert opposite.value == pytest.approx(1 - value)
    with pytest.raises(ValueError, match="the same environments"):
        rl_statistics.probability_of_improvement(ours, {"a": [0.0]})


def test_its_interval_covers(rl_statistics):
    """No difference between ten runs and ten: the interval leaves .5 out in one case in twenty, and some."""
    rng = np.random.default_rng(0)
    outside = 0
    for _ in range(60):
        x, y = rng.normal(size=(2, 10))
        _, low, high = rl_statistics.probability_of_improvement({"a": x}, {"a": y})
        outside += not low <= 0.5 <= high
    assert outside <= 10


def test_ratio_of_means(rl_statistics):
    value, low, high = rl_statistics.ratio_of_means([2.0, 4.0, 6.0], [1.0, 1.0, 4.0])
    assert value == 2.0
    assert 2 / 4 <= low < value < high <= 6 / 1
    assert rl_statistics.ratio_of_means([3.0, 3.0], [2.0, 2.0]) == (1.5, 1.5, 1.5)


def test_performance_profile(rl_statistics):
    profile = rl_statistics.performance_profile([1.0, 2.0, 2.0, 9.0], np.array([0.0, 1.0, 2.0, 10.0]))
    assert profile.tolist() == [1.0, 0.75, 0.25, 0.0]


def test_return_during_training_counts_steps_not_episodes(rl_statistics):
    record = {"timesteps": 100, "episode_steps": [10, 20, 60], "episode_returns": [1.0, 2.0, 3.0]}
    # from its end on each counts until the next: 1 before 20, 2 for 40 steps, 3 for 40
    mean = rl_statistics.mean_return_during_training(record, points=1000)
    assert mean == pytest.approx(0.2 * 1 + 0.4 * 2 + 0.4 * 3, abs=0.01)


def test_figure(rl_statistics):
    import figures_rl

    record = {
        "timesteps": 100,
        "seconds": 120.0,
        "episode_steps": [10, 20, 60],
        "episode_returns": [1.0, 2.0, 3.0],
        "evaluation": [3.0, 5.0],
    }
    figure = figures_rl.draw({"CartPole-v1": {"a2c": [record, record]}})
    by_steps, by_time, profile = figure.axes
    assert by_steps.lines[0].get_xydata()[-1].tolist() == [100, 3]
    assert by_time.lines[0].get_xydata()[-1].tolist() == [2, 3]
    x, y = profile.lines[0].get_data()
    assert set(y[x < 4]) == {1}
    assert set(y[x >= 4]) == {0}


def test_figure_4(rl_statistics):
    import figure4

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


def test_unsolved_runs_are_level_with_each_other(rl_statistics):
    unsolved = -np.inf
    share = rl_statistics.probability_of_improvement({"a": [unsolved, -5.0]}, {"a": [unsolved, unsolved]})
    assert share.value == pytest.approx((0.5 + 0.5 + 1 + 1) / 4)
    never = rl_statistics.probability_of_improvement({"a": [unsolved] * 3}, {"a": [unsolved] * 3})
    assert tuple(never) == (0.5, 0.5, 0.5)


def test_table_two_by_hand(rl_statistics, tmp_path, monkeypatch):
    import tables_rl
    import tables_table2

    def write(folder, algorithm, seed, episodes, solved=True, env="CartPole-v0", each=1.0):
        (tmp_path / folder).mkdir(exist_ok=True)
        steps = [10 * (i + 1) for i in range(episodes)]
        record = {"env": env, "algorithm": algorithm, "seed": seed, "episode_steps": steps}
        record["variances"] = [] if algorithm == "a2c" else [[10, 0.5, 1.0], [20, 2.0, 16.0]]
        record["solved_at"] = steps[-1] if solved else None
        record["episode_returns"] = [each] * episodes
        name = f"{env}_{algorithm.replace(' ', '-')}_{seed:04d}.json"
        (tmp_path / folder / name).write_text(json.dumps(record))

    for seed, (ours, theirs) in enumerate([(100, 200), (200, 400)]):
        write("table2", "relaxa2c", seed, ours)
        write("table2", "a2c", seed, theirs)
        write("table2_paper", "relaxa2c", seed, 3 * theirs, solved=seed == 0)
        write("table2_paper_grid", "relaxa2c .01 1", seed, 500)
        write("table2_paper_grid", "relaxa2c .01 .01", seed, 90, solved=seed == 0)  # fewer, but one is not solved
        write("table2_paper_grid", "relaxa2c .001 1", seed, 600)
        write("table2_paper_grid", "a2c .01", seed, 700)
        write("table2_paper_grid", "relaxa2c-exact .01 1", seed, 800, solved=False, each=2.0)
        # fewer episodes, but of lower return
        write("table2_paper_grid", "relaxa2c-exact .01 .01", seed, 700, solved=False)
        write("table2_paper_grid", "laxa2c .01", seed, 700, env="InvertedPendulum-v5")  # whose grid is not finished
    for seed in range(3):
        for folder, algorithm, solved in (
            ("table2", "relaxa2c", seed == 0),
            ("table2", "a2c", seed > 0),
            ("table2_paper", "relaxa2c", seed > 0),
            ("table2_paper", "a2c", seed == 0),
        ):
            write(folder, algorithm, seed, 100 if algorithm == "a2c" else 300, solved, env="LunarLander-v3")
    (tmp_path / "learning").mkdir()
    monkeypatch.setattr(tables_rl, "RESULTS", tmp_path)
    table = tables_table2.table2_table()
    # where fewer than half are solved, the mean is a bound
    assert "| LunarLander-v3 | ours | RELAXA2C | 1/3 | > 300 | 68,712 ± 20,668 | < 0.33 | " in table
    assert "| LunarLander-v3 | ours | A2C (ĉ = 0) | 2/3 | 100.0 ± 0.0 |" in table
    assert "| LunarLander-v3 | the paper's | RELAXA2C | 2/3 | 300.0 ± 0.0 | 68,712 ± 20,668 | — | " in table
    assert "| LunarLander-v3 | the paper's | A2C (ĉ = 0) | 1/3 | > 100 |" in table
    # every pair is won but for 200 and 200, which are level: 3.5 of 4
    row = next(line for line in table.splitlines() if "ours | RELAXA2C" in line)
    assert row.startswith(
        "| CartPole-v0 | ours | RELAXA2C | 2/2 | 150.0 ± 635.3 | 472 ± 114 | 2.00 [1.00, 4.00] | 0.88 ["
    )
    # √(1/2 · 1/8); (0.5 + 2) / (1 + 16)
    assert row.endswith("] | 0.25 | 0.15 |")
    assert "| CartPole-v0 | ours | A2C (ĉ = 0) | 2/2 | 300.0 ± 1,270.6 | 1,152 ± 90 | — | — | — | — |" in table
    # no A2C to compare with yet
    assert "| CartPole-v0 | the paper's | RELAXA2C | 1/2 | 900.0 ± 3,811.9 | 472 ± 114 | — | — | 0.25 | 0.15 |" in table
    grid = tables_table2.grid_table("table2_paper_grid", "table2_paper")
    assert "| CartPole-v0 | RELAXA2C, .01 1 | 2/2 | 500 | 1.0 | taken |" in grid
    assert "| CartPole-v0 | RELAXA2C, .01 .01 | 1/2 | 90 | 1.0 |  |" in grid
    assert "| CartPole-v0 | A2C (ĉ = 0), .01 | 2/2 | 700 | 1.0 | taken |" in grid
    assert "| CartPole-v0 | RELAXA2C, exact, .01 1 | 0/2 | 800 | 2.0 | taken |" in grid
    assert grid.count("taken") == 3
    assert "Inverted" not in grid


def test_where_the_variance_is_added_by_hand(rl_statistics):
    import tables_table2

    record = {
        # the mean of the last 100 is at 500 with episode 150, at step 1500
        "episode_returns": [0.0] * 100 + [1000.0] * 60,
        "episode_steps": [10 * (i + 1) for i in range(160)],
        "variances": [
            *([100, 1.0, 1.0], [1500, 5.0, 2.0]),
            *([1510, 8.0, 0.0], [1520, 3.0, 6.0], [1530, 13.0, 7.0], [1600, 4.0, 3.0]),
        ],
    }
    # of 0, 6, 7, 3 and of 8, 3, 13, 4, a quarter below
    assert tables_table2.around_good(record) == pytest.approx((6 / 3, 28 / 16, 2.25, 3.75))
    never = tables_table2.around_good(record | {"episode_returns": [0.0] * 160})
    assert never.until == pytest.approx(34 / 19)
    assert np.isnan(never[1:]).all()
    assert not tables_table2.is_lost(record)
    assert tables_table2.is_lost(record | {"episode_returns": [1000.0] * 60 + [0.0] * 100})
    assert not tables_table2.is_lost(record | {"episode_returns": [0.0] * 100 + [1000.0] * 40 + [0.0] * 90})


def test_learning_runs_need_not_draw(rl_statistics):
    from run_rl import made

    assert made("CartPole-v1", {}, n_envs=2, seed=0).get_attr("render_mode") == [None, None]
