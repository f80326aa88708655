"""The ablation's table: arms in the protocol's order, differences of the same seeds."""

from scripts.tables import ablation


def record(seed, value):
    return {"env": "CartPole-v1", "seed": seed, "timesteps": 10, "episode_returns": [value], "episode_steps": [10]}


def test_each_arm_is_compared_with_the_preset_of_its_seeds(monkeypatch):
    arms = {
        "- Adam": [record(1, 5.0), record(2, 7.0), record(3, 0.0)],
        "fast": [record(1, 10.0), record(2, 10.0)],
        "a2c": [record(1, 4.0)],
    }
    monkeypatch.setattr(ablation, "grouped", lambda folder: {"CartPole-v1": arms})
    rows = ablation.ablation_table().splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == ["A2C", '**`preset="fast"`**', "- Adam"]
    assert "| 6.0 (one seed) |" in rows[0]
    assert "| — |" in rows[1]
    assert "| 4.0 ± " in rows[2]
