"""The matched baseline: the same numbers as a control variate of zero, under a name of its own."""

from pathlib import Path

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.monitor import load_results

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.errors import UsageError
from sb3_relax.zoo import cli
from sb3_relax.zoo.matched import MatchedA2C, WithoutControlVariate
from tests.helpers import ACTION_SPACES, TinyEnv

SETTINGS = dict(seed=3, n_critic_steps=3, n_steps=16, device="cpu")


@pytest.mark.parametrize("kind", ACTION_SPACES)
def test_it_is_the_algorithm_whose_control_variate_is_zero(kind):
    space = ACTION_SPACES[kind]
    ours = LAXA2C if isinstance(space, spaces.Box) else RELAXA2C
    baseline = MatchedA2C("MlpPolicy", TinyEnv(space), **SETTINGS).learn(160)
    for without in (dict(cv_learning_rate=0.0), dict(control_variate="none")):
        model = ours("MlpPolicy", TinyEnv(space), **without, **SETTINGS).learn(160)
        for a, b in zip(baseline.policy.parameters(), model.policy.parameters(), strict=True):
            assert th.allclose(a, b, atol=1e-6)


def test_it_has_no_control_variate():
    for some in (dict(control_variate="relax"), dict(cv_learning_rate=1e-3)):
        with pytest.raises(UsageError, match="a2c_matched has no control variate"):
            MatchedA2C("MlpPolicy", "CartPole-v1", **some)
    assert not {name for name in WithoutControlVariate.search_spaces() if name.startswith(("cv_", "n_cv"))}


def test_its_runs_have_a_folder_of_their_own(tmp_path, monkeypatch, capsys):
    """Its entries, which have arguments of ours, need no file to be named."""
    monkeypatch.chdir(tmp_path)
    small = ("-n", "512", "--seed", "1", "--device", "cpu", "--eval-freq", "-1", "--verbose", "0", "-f", "logs")
    for algo in ("a2c_matched", "relaxa2c"):
        cli.main(["train", "--algo", algo, "--env", "CartPole-v1", *small])
    assert [run.as_posix() for run in sorted(Path("logs").glob("*/*"))] == [
        "logs/a2c_matched/CartPole-v1_1",
        "logs/relaxa2c/CartPole-v1_1",
    ]
    capsys.readouterr()
    cli.main(["enjoy", "--algo", "a2c_matched", "--env", "CartPole-v1", "-f", "logs", "-n", "100", "--no-render"])
    assert "Loading logs/a2c_matched/CartPole-v1_1/CartPole-v1.zip" in capsys.readouterr().out
    assert len(load_results("logs/a2c_matched/CartPole-v1_1")) > 1
    agent = RELAXA2C.load("logs/a2c_matched/CartPole-v1_1/CartPole-v1.zip")  # as diagnose loads it
    assert agent.control_variate.optimizer is None
    assert agent.n_critic_steps == 10


def test_it_can_be_tuned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ("-n", "128", "--device", "cpu", "--verbose", "0", "-f", "logs", "--no-optim-plots", "--eval-episodes", "1")
    for env_id in ("CartPole-v1", "Pendulum-v1"):
        cli.main(["tune", "--algo", "a2c_matched", "--env", env_id, "--n-trials", "1", *small])
