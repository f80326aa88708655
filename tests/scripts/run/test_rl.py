"""Learning runs, on small budgets."""

import math
import time

import gymnasium as gym
import numpy as np
import pytest

from scripts.attacks.kills import forked
from scripts.records import Records
from scripts.run import rl
from scripts.run.rl import made, run, trained, values_in
from tests.scripts.command import called, script

PROTOCOL = """
CartPole-v1:
  seeds: [3, 4]
  threshold: 15
  algorithms:
    relaxa2c: {zoo: relaxa2c, n_timesteps: 1000}
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
    protocol = tmp_path / "tiny.yml"
    protocol.write_text(PROTOCOL)
    done = script("run.rl", "--protocol", protocol, "--output", tmp_path, "--backend", backend, check=False)
    assert "2 of 7 runs failed" in done.stderr
    assert len(Records(tmp_path / "tiny").read()) == 5


def test_a_sweep_records_every_run_and_survives_a_failing_one(tmp_path):
    protocol = tmp_path / "tiny.yml"
    protocol.write_text(PROTOCOL)
    common = ("--protocol", protocol, "--output", tmp_path, "--jobs", 1)
    done = called("run.rl", *common, check=False)
    assert done.returncode == 1
    assert "2 of 7 runs failed" in done.stderr
    assert "no_such_argument" in done.stdout
    store = Records(tmp_path / "tiny")
    records = {name: store.get(name) for name in store.names()}
    assert set(records) == {
        "CartPole-v1_relaxa2c_0003",
        "CartPole-v1_relaxa2c_0004",
        "CartPole-v0_own_0003",
        "Pendulum-v1_laxa2c_0003",
        "Pendulum-v1_ppo_0003",
    }
    assert not store.unpacked()  # every cell but that of the failing run is complete
    ppo = records["Pendulum-v1_ppo_0003"]
    assert ppo["hyperparams"]["gamma"] == 0.9  # rl-zoo's, which SB3's default is not
    assert ppo["variances"] == []
    own = records["CartPole-v0_own_0003"]
    assert all(r == int(r) for r in own["episode_returns"])  # the environment's own
    assert own["timesteps"] == own["solved_at"] == own["episode_steps"][99] < 6000  # at once: so many fall later
    record = records["CartPole-v1_relaxa2c_0003"]
    assert record["timesteps"] >= 1000
    assert record["solved_at"] is None or record["solved_at"] <= 1024
    assert len(record["evaluation"]) == 100
    assert sum(record["episode_returns"]) <= record["timesteps"]
    assert record["variances"]
    # what has a record, packed or not, is not run again, and with --algorithm nothing else is run
    again = Records(tmp_path / "again" / "tiny")
    for name in ("CartPole-v1_relaxa2c_0003", "Pendulum-v1_laxa2c_0003"):
        again.write(name, records[name] | {"seconds": -1})
    again.pack(["Pendulum-v1_laxa2c_0003"])
    only = ("--algorithm", "laxa2c", "--algorithm", "ppo", "--algorithm", "relaxa2c")
    called("run.rl", *common, "--output", tmp_path / "again", *only)
    assert again.names() == set(records) - {"CartPole-v0_own_0003"}
    assert not again.unpacked()
    assert [again.get(name)["seconds"] == -1 for name in sorted(again.names())] == [True, False, True, False]
    wrong = called("run.rl", "--protocol", protocol, "--algorithm", "dqn", check=False)
    assert "dqn: of CartPole-v1, CartPole-v0, Pendulum-v1, tiny.yml has relaxa2c" in wrong.stderr
    wrong = called("run.rl", "--protocol", protocol, "--env", "CartPole-v2", check=False)
    assert "CartPole-v2 not in tiny.yml; it has CartPole-v1, CartPole-v0, Pendulum-v1" in wrong.stderr


def test_a_sweep_that_is_killed_goes_on_where_it_stopped(tmp_path):
    protocol, store = tmp_path / "tiny.yml", Records(tmp_path / "tiny")
    algorithm = "{algorithm: relaxa2c, policy: MlpPolicy, n_timesteps: 1000, n_steps: 32}"
    protocol.write_text(f"CartPole-v1: {{seeds: [0, 1, 2], threshold: 475, algorithms: {{short: {algorithm}}}}}")
    command = ("run.rl", "--protocol", protocol, "--output", tmp_path, "--jobs", 1)
    sweep = forked(called, *command)
    end = time.monotonic() + 120
    while not store.names() and time.monotonic() < end and sweep.is_alive():
        time.sleep(0.01)
    sweep.kill()
    sweep.join()
    before = store.unpacked()
    assert 1 <= len(before) < 3
    called(*command)
    assert not store.unpacked()
    assert [record["seed"] for record in store.read()] == [0, 1, 2]
    for name, record in before.items():
        assert store.get(name) == record


def test_values_of_rl_zoo():
    """Of its own file even where ours has that name, of another version of the environment, or its default ones."""
    from scripts.run.rl import hyperparams_of

    _, ours = hyperparams_of("CartPole-v1", {"zoo": "a2c"})
    name, theirs = hyperparams_of("CartPole-v1", {"rl_zoo": "a2c", "n_timesteps": 10})
    assert name == "a2c"
    assert "n_critic_steps" in ours
    assert theirs == {"n_envs": 8, "n_timesteps": 10, "policy": "MlpPolicy", "ent_coef": 0.0}
    _, cheetah = hyperparams_of("HalfCheetah-v5", {"rl_zoo": "ppo"})
    assert (cheetah["n_steps"], cheetah["batch_size"]) == (512, 64)
    assert hyperparams_of("NoSuch-v0", {"rl_zoo": "a2c"})[1] == {"n_timesteps": 1e6, "policy": "MlpPolicy"}


@pytest.mark.parametrize(
    ("env", "n_steps"), [("Task-v2", 2), ("Task-v3", 3), ("Task-v5", 3), ("Other-v0", 9), ("NoVersion", 9)]
)
def test_values_of_another_version_or_the_default_ones_take_the_place_of_missing_ones(env, n_steps, tmp_path):
    file = tmp_path / "a2c.yml"
    file.write_text("Task-v2: {n_steps: 2}\nTask-v3: {n_steps: 3}\ndefault: {n_steps: 9}\natari: {n_steps: 1}\n")
    assert values_in(file, env, or_similar=True) == {"n_steps": n_steps}


def test_a_zoo_file_may_be_without_default_values(tmp_path):
    file = tmp_path / "a2c.yml"
    file.write_text("Task-v2: {n_steps: 2}\n")
    assert values_in(file, "Task-v2") == {"n_steps": 2}
    with pytest.raises(KeyError, match=r"a2c.yml has no entry for Other-v0; it has Task-v2"):
        values_in(file, "Other-v0", or_similar=True)


@pytest.mark.parametrize("env", ["CartPole-v7", "CartPol-v1"])
def test_a_name_that_a_protocol_gets_wrong_is_refused(env):
    """Our own zoo files have default values too, which must not take the place of a misspelled environment's."""
    from scripts.run.rl import hyperparams_of

    with pytest.raises(KeyError, match=rf"relaxa2c.yml has no entry for {env}; it has CartPole-v1"):
        hyperparams_of(env, {"zoo": "relaxa2c"})


def test_what_a_trajectory_wise_part_leaves_is_recorded_at_the_updates_of_the_variances():
    entry = {"algorithm": "relaxa2c", "policy": "MlpPolicy", "n_envs": 2, "n_steps": 64, "n_timesteps": 1500}
    _, _, recorder, _ = trained("CartPole-v1", {**entry, "control_variate": "trajectory+relax"}, 3, {"threshold": 500})
    assert [step for step, _ in recorder.trajectory_ratios] == [step for step, _, _ in recorder.variances]
    first, *others = [ratio for _, ratio in recorder.trajectory_ratios]
    assert first == 1  # nothing is applied before any evidence
    assert all(ratio > 0 for ratio in others)
    assert any(ratio != 1 for ratio in others)
    _, _, recorder, _ = trained("CartPole-v1", {**entry, "control_variate": "relax"}, 3, {"threshold": 500})
    assert recorder.variances
    assert not recorder.trajectory_ratios


def test_episodes_of_one_step_are_kept_as_means_of_many():
    entry = {"algorithm": "relaxa2c", "policy": "MlpPolicy", "n_envs": 4, "n_steps": 5, "n_timesteps": 120}
    _, _, each, _ = trained("WideDecision-v0", entry, 3, {"threshold": math.inf})
    assert each.steps == [step for step in range(4, 121, 4) for _ in range(4)]
    _, _, means, _ = trained("WideDecision-v0", entry, 3, {"threshold": math.inf, "mean_of": 8})
    assert means.steps == list(range(8, 121, 8))
    assert means.returns == pytest.approx(np.reshape(each.returns, (-1, 8)).mean(1), rel=1e-5)
    assert means.variances == each.variances


def test_a_mean_of_more_episodes_than_end_or_of_none_is_refused():
    entry = {"algorithm": "relaxa2c", "policy": "MlpPolicy", "n_envs": 4, "n_steps": 5, "n_timesteps": 20}
    with pytest.raises(RuntimeError, match="20 episodes of WideDecision-v0 ended in 20 steps, and mean_of asks for 21"):
        trained("WideDecision-v0", entry, 3, {"threshold": 0, "mean_of": 21})
    for mean_of in (0, 2.5):
        with pytest.raises(ValueError, match=f"mean_of must be a whole number of episodes, at least 1; got {mean_of}"):
            trained("WideDecision-v0", entry, 3, {"threshold": 0, "mean_of": mean_of})


class EndlessAfter64Steps(gym.Env):
    """Episodes of five steps, until all environments together have made 64; from then on nobody's episode ends."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)
    made = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        EndlessAfter64Steps.made += 1
        assert self.steps < 1000, "nobody ends this episode"
        over = EndlessAfter64Steps.made <= 64 and self.steps == 5
        return self.observation_space.sample(), 1.0, over, False, {}


@pytest.fixture
def endless():
    gym.register("Endless-v0", EndlessAfter64Steps)
    EndlessAfter64Steps.made = 0
    yield "Endless-v0"
    del gym.registry["Endless-v0"]


def test_the_evaluation_ends_where_episodes_do_not(tmp_path, monkeypatch, endless):
    monkeypatch.setattr(rl, "LONGEST_EPISODE", 20)
    entry = {"algorithm": "a2c", "policy": "MlpPolicy", "n_timesteps": 64, "n_envs": 2}
    run(endless, "a2c", {"threshold": 9, "algorithms": {"a2c": entry}}, 0, Records(tmp_path))
    (record,) = Records(tmp_path).read()
    assert record["evaluation"] == [20.0] * 100


def test_a_limit_of_the_environment_is_kept():
    assert made("CartPole-v1", {}, n_envs=1, seed=0, limit=7).envs[0].spec.max_episode_steps == 500
