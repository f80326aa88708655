"""Agents whose policy needs more than observations are refused before anything is measured."""

import pytest
from stable_baselines3.common.env_util import make_vec_env

from sb3_relax import MaskableRecurrentRELAXA2C, MaskableRELAXA2C, RecurrentRELAXA2C
from sb3_relax.callbacks import GradientVarianceCallback
from sb3_relax.diagnose import diagnose
from sb3_relax.diagnose.cli import main


def agents():
    contrib = pytest.importorskip("sb3_contrib")
    envs = pytest.importorskip("sb3_contrib.common.envs")
    masked = envs.InvalidActionEnvDiscrete(dim=4, n_invalid_actions=2)
    kwargs = dict(device="cpu", n_steps=4)
    yield "action masks", MaskableRELAXA2C("MlpPolicy", masked, **kwargs), masked
    yield "action masks", contrib.MaskablePPO("MlpPolicy", masked, batch_size=4, **kwargs), masked
    yield "recurrent states", RecurrentRELAXA2C("MlpLstmPolicy", "CartPole-v1", **kwargs), "CartPole-v1"
    yield "recurrent states", MaskableRecurrentRELAXA2C("MlpLstmPolicy", masked, **kwargs), masked
    yield (
        "recurrent states",
        contrib.RecurrentPPO("MlpLstmPolicy", "CartPole-v1", batch_size=4, **kwargs),
        "CartPole-v1",
    )


def test_diagnose_says_what_it_takes():
    for needs, model, env in agents():
        takes_and_instead = r"LAXA2C, RELAXA2C, A2C and PPO\. .* logs train/grad_variance_ratio while it trains"
        with pytest.raises(TypeError, match=rf"{type(model).__name__} needs {needs}.* {takes_and_instead}"):
            diagnose(model, env)


def test_so_does_the_command(tmp_path, capsys):
    for _, model, _ in agents():
        model.save(tmp_path / "agent.zip")
        with pytest.raises(SystemExit):
            main(["--env", "CartPole-v1", "--agent", str(tmp_path / "agent.zip")])
        error = capsys.readouterr().err
        assert f"{type(model).__name__} (" in error
        assert "one of laxa2c, relaxa2c, a2c, ppo (no other agents can be diagnosed)" in error


def test_the_callback_says_so_before_training():
    for needs, model, env in agents():
        if not isinstance(model, (MaskableRELAXA2C, RecurrentRELAXA2C, MaskableRecurrentRELAXA2C)):
            continue
        other = make_vec_env(env) if isinstance(env, str) else type(env)(dim=4, n_invalid_actions=2)
        with pytest.raises(TypeError, match=f"needs {needs}"):
            GradientVarianceCallback(other, n_rollouts=4).init_callback(model)
