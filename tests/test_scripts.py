"""The scripts run end to end on small budgets, and what the repository says agrees with what it holds."""

import copy
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import sb3_relax
from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.common.surrogate_a2c import SurrogateA2C

ROOT = Path(__file__).resolve().parent.parent

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


def script(name, *arguments, check=True):
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ray", "dask"])
def test_a_sweep_on_a_cluster_of_this_machine(tmp_path, backend):
    pytest.importorskip(backend, reason=f"needs {backend}: pip install 'sb3_relax[{backend}]'")
    protocol, results = tmp_path / "tiny.yml", tmp_path / "results"
    protocol.write_text(PROTOCOL)
    done = script("run_rl", "--protocol", protocol, "--results", results, "--backend", backend, check=False)
    assert "2 of 7 runs failed" in done.stderr
    assert len(list(results.iterdir())) == 5


def test_a_backend_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import sweep

    monkeypatch.setitem(sys.modules, "ray.util.joblib", None)
    with pytest.raises(ImportError, match=r"pip install 'sb3_relax\[ray\]'"):
        sweep.in_parallel(print, {"a": ()}, 1, "runs", "ray")


def test_a_sweep_records_every_run_and_survives_a_failing_one(tmp_path):
    protocol, results = tmp_path / "tiny.yml", tmp_path / "results"
    protocol.write_text(PROTOCOL)
    done = script("run_rl", "--protocol", protocol, "--results", results, "--jobs", 1, check=False)
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
    script("run_rl", "--protocol", protocol, "--results", results, "--jobs", 1, *only)
    after = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    assert after.pop(results / "Pendulum-v1_ppo_0003.json")
    assert after == before
    wrong = script("run_rl", "--protocol", protocol, "--algorithm", "dqn", check=False)
    assert "dqn: of CartPole-v1, CartPole-v0, Pendulum-v1, tiny.yml has relaxa2c" in wrong.stderr
    wrong = script("run_rl", "--protocol", protocol, "--env", "CartPole-v2", check=False)
    assert "CartPole-v2 not in tiny.yml; it has CartPole-v1, CartPole-v0, Pendulum-v1" in wrong.stderr


SEARCH = """
CartPole-v1:
  seeds: [1000, 1001]
  n_trials: {n_trials}
  n_timesteps: 400
  threshold: 475
  report: {{seeds: [{first}, 1], n_timesteps: 800}}
  all: {{policy: MlpPolicy, n_envs: 2}}
  methods:
    a2c:
      algorithm: relaxa2c
      cv_learning_rate: 0
      space: &space {{n_steps: [8, 16], learning_rate: {{low: 0.001, high: 0.01, log: true}}}}
    relaxa2c: {{algorithm: relaxa2c, space: *space}}
    diverges: {{algorithm: relaxa2c, space: {{learning_rate: [1.0e+30]}}}}
"""


def searched(tmp_path, n_trials, *arguments, first=0, n_timesteps=400):
    protocol = SEARCH.format(n_trials=n_trials, first=first).replace("n_timesteps: 400", f"n_timesteps: {n_timesteps}")
    (tmp_path / "search.yml").write_text(protocol)
    places = ("results", "journals")
    folders = [part for name in places for part in (f"--{name}", tmp_path / name)]
    which = ("--protocol", tmp_path / "search.yml", "--tuned", tmp_path / "tuned.yml")
    return script("tune_rl", *which, *folders, "--jobs", 1, *arguments, check=False)


def record_of_search(tmp_path, name):
    return json.loads((tmp_path / "results" / f"CartPole-v1_{name}.json").read_text())


@pytest.mark.parametrize("shared", [False, True])
def test_every_method_is_searched_on_the_same_budget_and_a_search_goes_on(tmp_path, shared):
    storage = ("--storage", f"sqlite:///{tmp_path / 'studies.db'}") if shared else ()
    done = searched(tmp_path, 2, *storage)
    assert "1 of 3 studies failed" in done.stderr  # one whose every trial diverges has no best
    first = record_of_search(tmp_path, "relaxa2c")
    (tmp_path / "results" / "CartPole-v1_relaxa2c.json").unlink()  # as if it had been killed before its record
    again = searched(tmp_path, 4, *storage)
    assert "1 of 3 studies failed" in again.stderr
    assert "none of 4 trials came to its end" in again.stdout
    a2c, relax = (record_of_search(tmp_path, name) for name in ("a2c", "relaxa2c"))
    assert len(a2c["trials"]) == len(relax["trials"]) == 4
    assert relax["trials"][:2] == first["trials"]  # not run again
    assert len({json.dumps(trial["params"]) for trial in relax["trials"]}) == 4  # nor drawn again
    values = {trial["number"]: np.mean(trial["values"]) for trial in relax["trials"] if trial["state"] == "complete"}
    best = relax["best"]
    assert best["trial"] == max(values, key=values.get)
    tuned = yaml.safe_load((tmp_path / "tuned.yml").read_text())["CartPole-v1"]
    assert tuned["seeds"] == [0, 1]
    assert tuned["algorithms"]["relaxa2c"] == {
        "policy": "MlpPolicy",
        "n_envs": 2,
        "algorithm": "relaxa2c",
        **best["params"],
        "n_timesteps": 800,
    }
    script("run_rl", "--protocol", tmp_path / "tuned.yml", "--results", tmp_path / "reported", "--jobs", 1)
    reported = json.loads((tmp_path / "reported" / "CartPole-v1_a2c_0001.json").read_text())
    assert reported["hyperparams"]["cv_learning_rate"] == 0
    assert reported["hyperparams"]["learning_rate"] == a2c["best"]["params"]["learning_rate"]

    # of another protocol: neither the records nor, without them, the studies
    other = searched(tmp_path, 4, *storage, n_timesteps=500)
    assert other.returncode == 2
    assert "CartPole-v1_a2c.json is of another protocol" in other.stderr
    for path in (tmp_path / "results").iterdir():
        path.unlink()
    other = searched(tmp_path, 4, *storage, n_timesteps=500)
    assert "the study CartPole-v1_a2c is of another protocol" in other.stdout


def test_a_seed_for_reporting_is_not_tuned_on(tmp_path):
    done = searched(tmp_path, 1, first=1001)
    assert done.returncode == 2
    assert "CartPole-v1: seeds [1001] are both for tuning and for reporting" in done.stderr


def test_an_agent_is_taken_apart_early_in_the_middle_and_late(tmp_path):
    """With VecNormalize, whose statistics belong to the stage; what has a record is left alone."""
    sizes = (
        "{n_states: 4, n_actions: 2, n_episodes: 2, n_rollouts: 4, n_fit_steps: 64, n_fit_updates: 2, lambdas: [0.5]}"
    )
    agent = "{algorithm: laxa2c, policy: MlpPolicy, n_envs: 2, n_timesteps: 2000, n_steps: 8, normalize: true}"
    (tmp_path / "tiny.yml").write_text(f"Pendulum-v1:\n  agent: {agent}\n  sizes: {sizes}\n")
    arguments = ("--protocol", tmp_path / "tiny.yml", "--results", tmp_path / "results", "--jobs", 1)
    script("decompose", *arguments)
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
    script("decompose", *arguments)
    assert (
        json.loads((tmp_path / "results" / "Pendulum-v1_middle.json").read_text())["rows"]
        == (records["Pendulum-v1_middle"]["rows"])
    )
    assert (tmp_path / "results" / "Pendulum-v1_early.json").stat().st_mtime_ns == early


def test_wide_actions(monkeypatch):
    """Its reward and its next state against the formula, term by term."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import environments
    from gymnasium.utils.env_checker import check_env

    env = environments.WideActions(n_bits=6, horizon=2)
    check_env(env, skip_render_check=True)
    env.reset(seed=0)
    state, x = env.state.copy(), np.array([1, -1, 1, 1, -1, 1])
    twin = copy.deepcopy(env)
    _, reward, *ends = env.step((x + 1) // 2)
    by_state = sum(state[i] * env.to_reward[i, j] * x[j] for i in range(8) for j in range(6))
    by_pairs = sum(env.couplings[i, j] * x[i] * x[j] for i in range(6) for j in range(6) if i != j)
    assert reward == pytest.approx(by_state + by_pairs)
    assert ends[:2] == [False, False]
    noise = 0.1 * twin.np_random.normal(size=8)
    np.testing.assert_allclose(env.state, env.rotation @ state + env.to_state @ x + noise)
    np.testing.assert_allclose(env.rotation @ env.rotation.T, 0.81 * np.eye(8), atol=1e-12)
    assert env.step(np.zeros(6))[2:4] == (False, True)


def test_demo_on_a_small_budget_says_that_it_did_not_get_there(tmp_path):
    done = script("demo", "--timesteps", 600, "--output", tmp_path, check=False)
    assert done.returncode == 1
    assert re.search(r"95% interval\) after [\d,]+ steps in \d+ s; threshold 475 NOT reached", done.stdout)
    assert (tmp_path / "learning_curve.png").stat().st_size > 10_000
    assert len(json.loads((tmp_path / "evaluation.json").read_text())["evaluation"]) == 100
    assert RELAXA2C.load(tmp_path / "relaxa2c_cartpole.zip", device="cpu").num_timesteps > 0
    assert list((tmp_path / "tensorboard").glob("*/events*"))


@pytest.mark.slow
def test_demo_reaches_the_threshold(tmp_path):
    done = script("demo", "--output", tmp_path)
    assert "threshold 475 reached" in done.stdout


@pytest.mark.slow
def test_bench(tmp_path):
    script("bench", "--repeats", 2, "--record", tmp_path / "bench.json")
    record = json.loads((tmp_path / "bench.json").read_text())
    assert len(record["speed"]) == 6
    assert all(0.3 < row["ratio"] < 3 for row in record["speed"])
    assert record["core_imports_sb3"] is False


def test_readme_tables_are_what_the_records_say():
    assert "README.md is what the records say" in script("make_tables", "--check").stdout


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == sb3_relax.__version__
    assert f"## {sb3_relax.__version__}" in (ROOT / "CHANGELOG.md").read_text()


ENVIRONMENT_KEYS = {"n_envs", "n_timesteps", "normalize", "policy"}


@pytest.mark.parametrize(
    ("file", "algorithm"), [("laxa2c", LAXA2C), ("relaxa2c", RELAXA2C), ("relaxa2c_lstm", RELAXA2C)]
)
def test_zoo_keys_are_constructor_arguments(file, algorithm):
    entries = yaml.safe_load((ROOT / "zoo_hyperparams" / f"{file}.yml").read_text())
    known = {*inspect.signature(algorithm.__init__).parameters, *inspect.signature(SurrogateA2C.__init__).parameters}
    assert entries
    for env, entry in entries.items():
        assert set(entry) <= known | ENVIRONMENT_KEYS, env
