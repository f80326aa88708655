"""What the benchmark's tables say of a run."""

import pytest

from scripts.records import Records
from scripts.tables import learning
from scripts.tables.benchmark import NAMES, steps_of, steps_spent, steps_to, tuned_table

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


def a_run(env, algorithm, seed, value):
    """That always has the same return."""
    return {
        "env": env,
        "algorithm": algorithm,
        "seed": seed,
        "episode_returns": [value] * 10,
        "episode_steps": [*range(10, 110, 10)],
        "timesteps": 100,
        "final_training_mean": value,
        "threshold": 5,
        "hyperparams": {"n_timesteps": 100},
    }


def test_what_was_found_stands_beside_the_same_seeds_with_the_values_before(tmp_path, monkeypatch):
    for folder, values in (("benchmark", {"fast": 4, "ppo": 2, "a2c": 1}), ("tuned_fast", {"fast": 8, "ppo": 6})):
        records = Records(tmp_path / folder)
        for algorithm, value in values.items():
            for seed in (1, 2) if folder == "tuned_fast" else (1, 2, 3):
                # the third seed is of no search
                run = a_run("Task-v0", algorithm, seed, 100.0 if seed == 3 else float(value))
                records.write(f"Task-v0_{algorithm}_{seed}", run)
    records.write("Other-v0_fast_1", a_run("Other-v0", "fast", 1, 1.0))  # PPO's search is not done
    monkeypatch.setattr(learning, "RESULTS", tmp_path)
    rows = [line.strip("| ").split(" | ") for line in tuned_table().splitlines()[2:]]
    assert [(row[0], row[1], row[2], row[3], row[5], row[8]) for row in rows] == [
        ("Other-v0 (100)", NAMES["fast"], "found", "1", "1.00", "—"),
        ("Task-v0 (100)", NAMES["fast"], "of the table above", "2", "0.50", "1.00 [1.00, 1.00]"),
        ("Task-v0 (100)", NAMES["fast"], "found", "2", "1.00", "—"),
        ("Task-v0 (100)", NAMES["ppo"], "of the table above", "2", "0.25", "1.00 [1.00, 1.00]"),
        ("Task-v0 (100)", NAMES["ppo"], "found", "2", "0.75", "1.00 [1.00, 1.00]"),
    ]
