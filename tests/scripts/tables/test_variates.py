"""The table of control variates: differences of the same seeds, and variances without any part of a control variate."""

import math

import pytest

from scripts.tables import variates


def record(name, seed, value, variances=(), left=None):
    made = {
        "env": "CartPole-v1",
        "algorithm": name,
        "seed": seed,
        "threshold": 475,
        "timesteps": 100,
        "hyperparams": {"control_variate": name, "n_timesteps": 100},
        "episode_returns": [value] * 10,
        "episode_steps": list(range(10, 101, 10)),
        "variances": [list(row) for row in variances],
    }
    return made if left is None else {**made, "trajectory_ratios": [list(row) for row in left]}


@pytest.fixture
def recorded(monkeypatch):
    def with_records(*records):
        groups = {}
        for each in records:
            groups.setdefault(each["env"], {}).setdefault(each["algorithm"], []).append(each)
        monkeypatch.setattr(variates, "grouped", lambda folder: groups)

    return with_records


def cells_of(table):
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]


def cells():
    return cells_of(variates.variates_table())


def test_nothing_recorded_is_a_table_without_rows(recorded):
    recorded()
    assert cells() == []
    assert variates.variates_figures() == {}
    assert variates.figure_links() == ""


def test_each_arm_is_compared_with_the_state_baseline_of_its_seeds(recorded):
    recorded(
        record("relax", 10, 7.0),
        record("relax", 11, 9.0),
        record("relax", 12, 100.0),
        record("state", 10, 5.0),
        record("state", 11, 5.0),
        record("none", 14, 1.0),
    )
    none, state, relax = cells()
    assert [row[1] for row in (none, state, relax)] == ["`none`", "`state`", "`relax`"]
    assert (none[4], state[4]) == ("—", "—")
    half = 1.0 * 12.706  # of 2 and 4, whose standard error is 1, at one degree of freedom
    assert relax[4] == f"3.0 ± {half:.1f}"
    assert relax[5] == "100.0 ± 0.0 (0/3) to 475"


def test_differences_are_to_both_controls_by_the_interval_asked_for(recorded):
    recorded(
        *(record("relax", seed, value) for seed, value in ((10, 7.0), (11, 9.0), (12, 100.0))),
        *(record("state", seed, 5.0) for seed in (10, 11)),
        record("none", 12, 1.0),
    )
    none, state, relax = cells_of(variates.differences_table("variates", 0.9))
    assert none[1:] == ["`none`", "1", "—", "—"]
    assert state[1:] == ["`state`", "2", "—", "—"]
    # gains of 2 and 4: their standard error is 1, and the 95% quantile of t with one degree of freedom 6.31
    assert relax[1:] == ["`relax`", "3", "3.00 ± 6.31", "99.00 (one seed)"]


def test_variances_of_a_trajectory_wise_arm_are_beside_those_of_advantages_as_they_came(recorded):
    """Half of the mean square is left by ã, and 0.9 of that by ĉ."""
    recorded(
        record("relax", 10, 0.0, [(8, 9.0, 10.0)]),
        record("trajectory+relax", 10, 0.0, [(8, 9.0, 10.0), (16, 18.0, 20.0)], left=[(8, 0.5), (16, 0.5)]),
        record("trajectory", 10, 0.0, [(8, 9.0, 10.0)]),
    )
    relax, trajectory, both = cells()
    assert relax[6:] == ["0.90 (one seed)"] * 2
    assert both[6:] == ["0.45 (one seed)"] * 2
    assert trajectory[6:] == ["—"] * 2  # of a record that does not have what ã left


def test_the_figure_shows_differences_of_the_same_seeds(recorded):
    recorded(record("state", 10, 5.0), record("state", 11, 5.0), record("relax", 10, 7.0), record("relax", 11, 9.0))
    ((name, figure),) = variates.variates_figures().items()
    assert name == "variates_CartPole-v1"
    assert f"assets/figures/{name}.png" in variates.figure_links()
    curves, differences = figure.axes
    assert [line.get_label() for line in curves.lines] == ["state", "relax"]
    (bar,) = differences.containers
    assert bar.lines[0].get_xdata() == pytest.approx([3.0])
    ends = bar.lines[2][0].get_segments()[0][:, 0]
    assert math.isclose(ends[1] - ends[0], 2 * 12.706, rel_tol=1e-3)


def test_searches_show_every_point_and_pairs_of_the_same_point_and_seed(monkeypatch):
    def study(name, *values):
        trials = [{"values": list(each)} for each in values]
        return [{"env": "CartPole-v1", "algorithm": name, "seeds": [1000, 1100], "trials": trials}]

    points = [
        {"target_kl": 0.002, "gae_lambda": 0.95},
        {"target_kl": 0.0031, "gae_lambda": 0.9},
        {"target_kl": 0.5, "gae_lambda": 128},
    ]
    methods = {"none": {}, "state": {}, "relax": {}}
    protocols = {"tuning_variates": {"CartPole-v1": {"points": points, "methods": methods}}}
    recorded = {
        "tuning_variates": {
            "CartPole-v1": {
                "relax": study("relax", (1, 3), (5, 7), (2,)),  # the last point diverges with its second seed
                "state": study("state", (0, 3), (5, 4), ()),
            }
        }
    }
    monkeypatch.setattr(variates, "grouped", recorded.__getitem__)
    monkeypatch.setattr(variates, "protocol_of", protocols.__getitem__)
    half = 3.182 * 2**0.5 / 2  # of 1, 0, 0 and 3, whose deviation is √2, at three degrees of freedom
    assert cells_of(variates.searches_table()) == [
        ["CartPole-v1", "`state`", "1.50", "**4.50**", "diverged", "—"],
        ["CartPole-v1", "`relax`", "2.00", "**6.00**", "diverged", f"1.00 ± {half:.2f}"],
    ]
    assert cells_of(variates.points_table()) == [
        ["CartPole-v1", "1", "0.002", "0.95"],
        ["CartPole-v1", "2", "0.0031", "0.9"],
        ["CartPole-v1", "3", "0.5", "128"],
    ]
