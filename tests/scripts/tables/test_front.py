"""README's first table: what the best control variate of actions adds to a state baseline."""

from scripts.tables.front import best_gain


def records(*values):
    return [
        {"seed": seed, "timesteps": 100, "hyperparams": {"n_timesteps": 100}}
        | {"episode_returns": [value] * 10, "episode_steps": list(range(10, 101, 10))}
        for seed, value in enumerate(values)
    ]


def test_the_best_of_those_that_read_actions():
    """What has none, or reads the state alone, is no gain of actions."""
    algorithms = {
        "none": records(90.0, 90.0),
        "state": records(5.0, 5.0),
        "relax": records(7.0, 9.0),
        "model": records(4.0, 6.0),
    }
    assert best_gain(algorithms) == "3.0 ± 12.7 (`relax`)"
    assert best_gain({"state": records(5.0)}) == "—"
    assert best_gain({}) == "—"
