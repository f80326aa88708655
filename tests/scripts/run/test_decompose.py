"""The variance taken apart, on a small budget."""

import json

from tests.scripts.command import script


def test_an_agent_is_taken_apart_early_in_the_middle_and_late(tmp_path):
    """With VecNormalize, whose statistics belong to the stage; what has a record is left alone."""
    sizes = (
        "{n_states: 4, n_actions: 2, n_episodes: 2, n_rollouts: 4, n_fit_steps: 64, n_fit_updates: 2, lambdas: [0.5]}"
    )
    agent = "{algorithm: laxa2c, policy: MlpPolicy, n_envs: 2, n_timesteps: 2000, n_steps: 8, normalize: true}"
    (tmp_path / "tiny.yml").write_text(f"Pendulum-v1:\n  agent: {agent}\n  sizes: {sizes}\n")
    arguments = ("--protocol", tmp_path / "tiny.yml", "--results", tmp_path / "results", "--jobs", 1)
    script("run.decompose", *arguments)
    records = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").iterdir()}
    assert {name: record["timesteps"] for name, record in records.items()} == {
        "Pendulum-v1_early": 112,
        "Pendulum-v1_middle": 608,
        "Pendulum-v1_late": 2000,
    }
    rewards = [next(r for r in record["rows"] if r["name"] == "none")["total"]["value"] for record in records.values()]
    assert len(set(rewards)) == 3
    (tmp_path / "results" / "Pendulum-v1_middle.json").unlink()
    early = (tmp_path / "results" / "Pendulum-v1_early.json").stat().st_mtime_ns
    script("run.decompose", *arguments)
    assert (
        json.loads((tmp_path / "results" / "Pendulum-v1_middle.json").read_text())["rows"]
        == (records["Pendulum-v1_middle"]["rows"])
    )
    assert (tmp_path / "results" / "Pendulum-v1_early.json").stat().st_mtime_ns == early
