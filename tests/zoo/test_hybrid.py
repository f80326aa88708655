"""Actions of several parts through rl-zoo's commands."""

import gymnasium as gym
import pytest
from gymnasium import spaces

from sb3_relax import HybridRELAXA2C
from sb3_relax.zoo import cli, registry
from tests.helpers import TinyEnv

ENV_ID = "HybridForTheZoo-v0"
SPACE = spaces.Dict(at=spaces.Box(-1.0, 1.0, (2,)), what=spaces.Discrete(3, start=1))


class HybridEnv(TinyEnv):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        super().__init__(SPACE)
        self.render_mode = render_mode

    def step(self, action):
        assert SPACE.contains(action)
        self.t += 1
        return self._observe(), float(action["at"].sum()), self.t >= self.length, False, {}


@pytest.fixture(autouse=True)
def _registered():
    gym.register(ENV_ID, HybridEnv)
    yield
    del gym.registry[ENV_ID]


def test_trained_and_enjoyed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    which = ("--algo", "relaxa2c_hybrid", "--env", ENV_ID, "-f", "logs", "--device", "cpu")
    cli.main(("train", *which, "-n", "200", "--eval-freq", "100", "--eval-episodes", "1", "-params", "normalize:True"))
    model = HybridRELAXA2C.load(tmp_path / "logs" / "relaxa2c_hybrid" / f"{ENV_ID}_1" / f"{ENV_ID}.zip", device="cpu")
    assert model.num_timesteps >= 200
    cli.main(("enjoy", *which, "-n", "30", "--no-render"))
    assert "Mean reward" in capsys.readouterr().out


def test_an_algorithm_that_does_not_take_them_names_the_one_that_does(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(("train", "--algo", "relaxa2c", "--env", ENV_ID, "-f", "logs", "-n", "100"))
    assert "use sb3_relax.HybridRELAXA2C instead (--algo relaxa2c_hybrid)" in capsys.readouterr().err


def test_what_optuna_draws_builds_a_model():
    optuna = pytest.importorskip("optuna")
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    arguments = registry.SAMPLERS["relaxa2c_hybrid"](trial, 1, 2, {})
    model = HybridRELAXA2C("MlpPolicy", ENV_ID, device="cpu", **arguments)
    assert model.n_steps == trial.user_attrs["n_steps"]
