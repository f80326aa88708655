"""Learning runs, on small budgets."""

import json

import pytest

from tests.scripts.command import script

PROTOCOL = """
CartPole-v1:
  seeds: [3, 4]
  threshold: 15
  algorithms:
    relaxa2c: {zoo: relaxa2c, n_timesteps: 3000}
    broken: {zoo: relaxa2c, n_timesteps: 512, no_such_argument: 1}
CartPole-v0:
  seeds: [3]
  threshold: 10
  until_solved: true
  algorithms:
    own:  # values of the protocol alone
      algorithm: relaxa2c
      policy: MlpPolicy
      n_timesteps: 6000
      learning_rate: 0.00001
      n_episodes: 1
      env_wrapper: {environments.ScaledReward: {scale: 0.1}}
Pendulum-v1:
  seeds: [3]
  threshold: -100
  algorithms:
    laxa2c: {zoo: laxa2c, n_timesteps: 512}
    ppo: {zoo: ppo, n_timesteps: 256, n_steps: 64, n_epochs: 1}  # rl-zoo's own values for the rest
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ray", "dask"])
def test_a_sweep_on_a_cluster_of_this_machine(tmp_path, backend):
    pytest.importorskip(backend, reason=f"needs {backend}: pip install 'sb3_relax[{backend}]'")
    protocol, results = tmp_path / "tiny.yml", tmp_path / "results"
    protocol.write_text(PROTOCOL)
    done = script("run.rl", "--protocol", protocol, "--results", results, "--backend", backend, check=False)
    assert "2 of 7 runs failed" in done.stderr
    assert len(list(results.iterdir())) == 5


def test_a_sweep_records_every_run_and_survives_a_failing_one(tmp_path):
    protocol, results = tmp_path / "tiny.yml", tmp_path / "results"
    protocol.write_text(PROTOCOL)
    done = script("run.rl", "--protocol", protocol, "--results", results, "--jobs", 1, check=False)
    assert done.returncode == 1
    assert "2 of 7 runs failed" in done.stderr
    assert "no_such_argument" in done.stdout
    records = {path.name: json.loads(path.read_text()) for path in results.iterdir()}
    assert set(records) == {
        "CartPole-v1_relaxa2c_0003.json",
        "CartPole-v1_relaxa2c_0004.json",
        "CartPole-v0_own_0003.json",
        "Pendulum-v1_laxa2c_0003.json",
        "Pendulum-v1_ppo_0003.json",
    }
    ppo = records["Pendulum-v1_ppo_0003.json"]
    assert ppo["hyperparams"]["gamma"] == 0.9  # rl-zoo's, which SB3's default is not
    assert ppo["variances"] == []
    own = records["CartPole-v0_own_0003.json"]
    assert all(r == int(r) for r in own["episode_returns"])  # the environment's own
    assert own["timesteps"] == own["solved_at"] == own["episode_steps"][99] < 6000  # at once: so many fall later
    record = records["CartPole-v1_relaxa2c_0003.json"]
    assert record["timesteps"] >= 3000
    assert record["solved_at"] is None or record["solved_at"] <= 3072
    assert len(record["evaluation"]) == 100
    assert sum(record["episode_returns"]) <= record["timesteps"]
    assert record["variances"]
    # what is there is not run again, and with --algorithm nothing else is run
    (results / "Pendulum-v1_ppo_0003.json").unlink()
    (results / "CartPole-v0_own_0003.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    only = ("--algorithm", "laxa2c", "--algorithm", "ppo")
    script("run.rl", "--protocol", protocol, "--results", results, "--jobs", 1, *only)
    after = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    assert after.pop(results / "Pendulum-v1_ppo_0003.json")
    assert after == before
    wrong = script("run.rl", "--protocol", protocol, "--algorithm", "dqn", check=False)
    assert "dqn: of CartPole-v1, CartPole-v0, Pendulum-v1, tiny.yml has relaxa2c" in wrong.stderr
    wrong = script("run.rl", "--protocol", protocol, "--env", "CartPole-v2", check=False)
    assert "CartPole-v2 not in tiny.yml; it has CartPole-v1, CartPole-v0, Pendulum-v1" in wrong.stderr
