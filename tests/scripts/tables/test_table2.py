"""Table 2, against cases worked by hand."""

import numpy as np
import pytest

from scripts.records import Records
from scripts.run.rl import run_name
from scripts.tables import learning, table2


def test_table_two_by_hand(tmp_path, monkeypatch):
    def write(folder, algorithm, seed, episodes, solved=True, env="CartPole-v0", each=1.0):
        steps = [10 * (i + 1) for i in range(episodes)]
        record = {"env": env, "algorithm": algorithm, "seed": seed, "episode_steps": steps}
        record["variances"] = [] if algorithm == "a2c" else [[10, 0.5, 1.0], [20, 2.0, 16.0]]
        record["solved_at"] = steps[-1] if solved else None
        record["episode_returns"] = [each] * episodes
        Records(tmp_path / folder).write(run_name(env, algorithm, seed), record)

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
    monkeypatch.setattr(learning, "RESULTS", tmp_path)
    table = table2.table2_table()
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
    grid = table2.grid_table("table2_paper_grid", "table2_paper")
    assert "| CartPole-v0 | RELAXA2C, .01 1 | 2/2 | 500 | 1.0 | taken |" in grid
    assert "| CartPole-v0 | RELAXA2C, .01 .01 | 1/2 | 90 | 1.0 |  |" in grid
    assert "| CartPole-v0 | A2C (ĉ = 0), .01 | 2/2 | 700 | 1.0 | taken |" in grid
    assert "| CartPole-v0 | RELAXA2C, exact, .01 1 | 0/2 | 800 | 2.0 | taken |" in grid
    assert grid.count("taken") == 3
    assert "Inverted" not in grid


def test_where_the_variance_is_added_by_hand():
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
    assert table2.around_good(record) == pytest.approx((6 / 3, 28 / 16, 2.25, 3.75))
    never = table2.around_good(record | {"episode_returns": [0.0] * 160})
    assert never.until == pytest.approx(34 / 19)
    assert np.isnan(never[1:]).all()
    assert not table2.is_lost(record)
    assert table2.is_lost(record | {"episode_returns": [1000.0] * 60 + [0.0] * 100})
    assert not table2.is_lost(record | {"episode_returns": [0.0] * 100 + [1000.0] * 40 + [0.0] * 90})
