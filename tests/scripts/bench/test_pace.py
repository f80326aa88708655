"""Seconds per step of a protocol's algorithms, on a short turn."""

import json

import pytest

from scripts.bench import pace
from scripts.tables.benchmark import seconds_of, seconds_spent, share

TASK = {
    "algorithms": {
        "fast": {"algorithm": "relaxa2c", "policy": "MlpPolicy", "n_envs": 2, "n_timesteps": 64},
        "a2c": {"rl_zoo": "a2c", "n_timesteps": 64},
    }
}


def test_every_algorithm_has_a_figure_for_each_turn(monkeypatch):
    monkeypatch.setattr(pace, "STEPS", 40)
    found = pace.paces("CartPole-v1", TASK, repeats=2)
    assert list(found) == ["fast", "a2c"]
    for figures in found.values():
        assert len(figures) == 2
        assert all(0 < seconds < 1 for seconds in figures)


def test_tasks_that_were_measured_before_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(pace, "paces", lambda env_id, task, repeats: {env_id: [1.0]})
    for env in ("CartPole-v1", "LunarLander-v3"):
        monkeypatch.setattr("sys.argv", ["pace", "--env", env, "--output", str(tmp_path)])
        pace.main()
    found = json.loads((tmp_path / "benchmark_pace.json").read_text())["seconds_per_step"]
    assert found == {"CartPole-v1": {"CartPole-v1": [1.0]}, "LunarLander-v3": {"LunarLander-v3": [1.0]}}


def test_seconds_are_steps_at_the_median_pace(monkeypatch, tmp_path):
    monkeypatch.setattr("scripts.tables.benchmark.RESULTS", tmp_path)
    record = {"env": "E", "algorithm": "fast", "timesteps": 60, "episode_returns": [0.0], "episode_steps": [60]}
    assert seconds_of([record], 5) == "—"
    measured = {"seconds_per_step": {"E": {"fast": [0.1, 0.5, 0.3]}}}
    (tmp_path / "benchmark_pace.json").write_text(json.dumps(measured))
    assert seconds_spent([record], 5) == pytest.approx([18.0])
    assert seconds_spent([{**record, "algorithm": "ppo"}], 5) == []
    assert share([1.0, 2.0], [6.0]) == "0.25"
    assert share([], [6.0]) == "—"
