"""The variance taken apart, on a small budget."""

import pytest

from scripts.records import Records
from scripts.run.decompose import record_name
from tests.scripts.command import called, script


@pytest.mark.usefixtures("few_timings")
def test_an_agent_is_taken_apart_early_in_the_middle_and_late(tmp_path):
    """With VecNormalize, whose statistics belong to the stage; what has a record is left alone."""
    counts = "n_states: 6, n_actions: 2, n_futures: 2, n_episodes: 4, n_rollouts: 4, n_fit_steps: 64, n_fit_updates: 2"
    sizes = f"{{{counts}, lambdas: [0.5]}}"
    agent = "{algorithm: laxa2c, policy: MlpPolicy, n_envs: 2, n_timesteps: 640, n_steps: 8, normalize: true}"
    (tmp_path / "tiny.yml").write_text(f"Pendulum-v1:\n  agent: {agent}\n  sizes: {sizes}\n")
    arguments = ("--protocol", tmp_path / "tiny.yml", "--output", tmp_path, "--jobs", 1)
    called("run.decompose", *arguments)
    store = Records(tmp_path / "tiny")
    records = {name: store.get(name) for name in sorted(store.names())}
    assert not store.unpacked()
    assert {name: record["timesteps"] for name, record in records.items()} == {
        "Pendulum-v1_early": 32,
        "Pendulum-v1_middle": 192,
        "Pendulum-v1_late": 640,
    }
    rewards = [next(r for r in record["rows"] if r["name"] == "none")["total"]["value"] for record in records.values()]
    assert len(set(rewards)) == 3
    # as if it had been killed before the second of them, and the third had been of other values
    again = Records(tmp_path / "again" / "tiny")
    again.write("Pendulum-v1_early", records["Pendulum-v1_early"] | {"sentence": "kept"})
    again.write("Pendulum-v1_late", records["Pendulum-v1_late"] | {"hyperparams": {}})
    again.pack(["Pendulum-v1_early"])
    called("run.decompose", *arguments, "--output", tmp_path / "again")
    assert not again.unpacked()
    for name in ("Pendulum-v1_middle", "Pendulum-v1_late"):
        assert again.get(name)["rows"] == records[name]["rows"]
    assert again.get("Pendulum-v1_early")["sentence"] == "kept"
    # in a process of its own, with nothing left to do
    lines = (tmp_path / "again" / "tiny" / "runs.jsonl").read_bytes()
    script("run.decompose", *arguments, "--output", tmp_path / "again")
    assert (tmp_path / "again" / "tiny" / "runs.jsonl").read_bytes() == lines


def test_an_environment_with_a_namespace_has_its_records_beside_the_others():
    assert record_name("MinAtar/Breakout-v1", "late") == "MinAtar-Breakout-v1_late"
