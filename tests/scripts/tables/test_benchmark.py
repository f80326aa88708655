"""What the benchmark's tables say of a run."""

import pytest

from scripts.tables.benchmark import NAMES, steps_of, steps_spent, steps_to

RECORD = {"episode_returns": [0, 2, 4, 6, 5], "episode_steps": [10, 20, 30, 40, 50], "timesteps": 60}


@pytest.mark.parametrize(
    ("threshold", "window", "found"), [(1, 2, 20), (3, 2, 30), (5.5, 2, 50), (6, 2, None), (6, 1, 40), (0, 6, None)]
)
def test_steps_to_a_threshold(threshold, window, found):
    assert steps_to(RECORD, threshold, window) == found


def test_a_run_that_never_gets_there_counts_with_its_budget():
    returns = [0.0] * 10 + [10.0] * 10
    late = {"episode_returns": returns, "episode_steps": list(range(20)), "timesteps": 100}
    assert steps_to(late, 5) == 14
    assert steps_spent([late, RECORD], 5) == [14, 60]
    assert steps_of([late, RECORD], 5).endswith("(1/2)")


def test_every_algorithm_of_the_protocol_has_a_name():
    import yaml

    from scripts.records import ROOT

    protocol = yaml.safe_load((ROOT / "scripts" / "protocols" / "benchmark.yml").read_text())
    assert {name for task in protocol.values() for name in task["algorithms"]} == set(NAMES)


def test_a_threshold_that_chance_reaches_is_no_success():
    record = {
        "env": "MinAtar/Asterix-v1",
        "episode_returns": [9.0] * 10,
        "episode_steps": [*range(10)],
        "timesteps": 10,
    }
    assert steps_of([record], 1) == "by chance"
    assert steps_of([{**record, "env": "MinAtar/Breakout-v1"}], 1) == "9.0 (one seed) (1/1)"
