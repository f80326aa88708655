"""The measuring callback leaves training alone and measures what it says; the layout reaches tensorboard."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_relax import LAXA2C, RELAXA2C, callbacks
from sb3_relax.callbacks import LAYOUT, GradientVarianceCallback, TensorboardLayoutCallback
from sb3_relax.control_variates import Guarded
from tests.diagnose.problems import agent, exact_parts, score_gradient, table_bandit
from tests.diagnose.test_split import discrete
from tests.helpers import ACTION_SPACES, TinyEnv


def environments(space, training):
    env = DummyVecEnv([lambda: TinyEnv(ACTION_SPACES[space]) for _ in range(2)])
    return VecNormalize(env, training=training)


def trained(space, measure, **kwargs):
    env = environments(space, training=True)
    env.seed(0)
    kind = LAXA2C if space == "box" else RELAXA2C
    model = kind("MlpPolicy", env, seed=0, n_steps=4, cv_learning_rate=0.05, device="cpu", **kwargs)
    callback = None
    if measure:
        callback = GradientVarianceCallback(environments(space, training=False), every=2, n_rollouts=4)
    model.learn(80, callback=callback, log_interval=1)
    weights = {**model.policy.state_dict(), **model.control_variate.state_dict()}
    streams = [model.noise_generator.get_state(), th.get_rng_state(), th.from_numpy(np.random.get_state()[1])]  # noqa: NPY002
    return model, [*weights.values(), *streams, th.tensor(model.env.obs_rms.mean), th.tensor(model._last_obs)]


CASES = [("discrete", {}), ("multibinary", dict(n_episodes=2)), ("box", dict(use_sde=True, sde_sample_freq=2))]


@pytest.mark.parametrize(("space", "kwargs"), CASES)
def test_training_does_not_notice(space, kwargs):
    without, expected = trained(space, False, **kwargs)
    model, found = trained(space, True, **kwargs)
    assert all(th.equal(x, y) for x, y in zip(expected, found, strict=True))
    assert model.num_timesteps == without.num_timesteps


def test_a_callback_that_draws_from_training_is_noticed(monkeypatch):
    """The copy's relaxation noise from the model's own stream."""
    _, expected = trained("discrete", False)
    right = callbacks.frozen_copy

    def sharing(model, seed):
        copy = right(model, seed)
        copy.noise_generator = model.noise_generator
        return copy

    monkeypatch.setattr(callbacks, "frozen_copy", sharing)
    _, found = trained("discrete", True)
    assert not all(th.equal(x, y) for x, y in zip(expected, found, strict=True))


def test_what_is_measured_is_the_agents_own(monkeypatch):
    """Its policy, its ĉ, and the share of it that the next update will apply."""
    seen, right = [], callbacks.frozen_copy

    def noting(model, seed):
        copy = right(model, seed)
        ours, theirs = model.control_variate.state_dict(), copy.control_variate.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(th.equal(value, theirs[name]) for name, value in ours.items())
        assert all(map(th.equal, model.policy.parameters(), copy.policy.parameters()))
        seen.append(copy.control_variate.share)
        return copy

    monkeypatch.setattr(callbacks, "frozen_copy", noting)
    trained("discrete", True)
    assert len(seen) > 3
    assert seen[0] == 0 < max(seen)


def test_variance_of_a_bandit_in_closed_form():
    """One-step episodes: a batch of N has 1/N of one step's variance, known by enumeration."""
    env, model, tables = discrete(3, 0.5)
    model = agent(RELAXA2C, env)
    model.n_steps = 8
    model.rollout_buffer.buffer_size = 8
    in_full, guarded = model.control_variate, Guarded(model.control_variate)
    model.cv_guard, model.control_variate = True, guarded  # before any update, η = 0: with ĉ is without
    logged = {}
    callback = GradientVarianceCallback(table_bandit(3, 0.5), n_rollouts=300)
    callback.init_callback(model)
    model._logger = type("Logger", (), dict(record=lambda self, key, value: logged.update({key: value})))()
    callback.on_rollout_start()
    truth = sum(exact_parts(model, *tables, score_gradient(model))) / 8
    assert logged["gradient/variance_no_cv"] == pytest.approx(truth, rel=0.3)
    assert logged["gradient/ratio"] == pytest.approx(1)
    model.cv_guard, model.control_variate = False, in_full
    callback.on_rollout_start()  # not due
    assert logged["gradient/ratio"] == pytest.approx(1)
    callback.rollouts = 0
    callback.on_rollout_start()
    assert logged["gradient/ratio"] != pytest.approx(1, abs=1e-3)
    assert 0 < logged["gradient/ratio_standard_error"] < 0.5


def test_one_step_is_not_normalised():
    """As in training: its standard deviation does not exist."""
    logged = {}
    model = RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), n_steps=1, normalize_advantage=True, device="cpu")
    callback = GradientVarianceCallback(TinyEnv(spaces.Discrete(3)), n_rollouts=4)
    callback.init_callback(model)
    model._logger = type("Logger", (), dict(record=lambda self, key, value: logged.update({key: value})))()
    callback.on_rollout_start()
    assert np.isfinite(list(logged.values())).all()


def test_errors():
    env = make_vec_env("CartPole-v1", n_envs=2)
    with pytest.raises(ValueError, match="n_rollouts must be a whole number >= 4"):
        GradientVarianceCallback(env, n_rollouts=1)
    with pytest.raises(ValueError, match="training=False"):
        GradientVarianceCallback(VecNormalize(env))
    with pytest.raises(ValueError, match="must not be the training environment"):
        RELAXA2C("MlpPolicy", env, device="cpu").learn(10, callback=GradientVarianceCallback(env))
    with pytest.raises(TypeError, match="takes LAXA2C and RELAXA2C; got A2C"):
        A2C("MlpPolicy", env, device="cpu").learn(10, callback=GradientVarianceCallback(make_vec_env("CartPole-v1")))


def test_layout_and_hyperparameters_reach_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    layout_pb2 = pytest.importorskip("tensorboard.plugins.custom_scalar.layout_pb2")
    env = TinyEnv(spaces.Discrete(3))
    model = RELAXA2C("MlpPolicy", env, tensorboard_log=str(tmp_path), seed=0, device="cpu")
    measuring = GradientVarianceCallback(TinyEnv(spaces.Discrete(3)), every=2, n_rollouts=4)
    model.learn(50, callback=[TensorboardLayoutCallback(hparams={"env": "Tiny"}), measuring], log_interval=1)
    events = accumulator.EventAccumulator(str(tmp_path / "RELAXA2C_1")).Reload()
    tensor = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(tensor)
    assert [category.title for category in layout.category] == list(LAYOUT)
    assert layout.category[0].chart[0].multiline.tag == ["^gradient/variance$", "^gradient/variance_no_cv$"]
    # every tag of the layout is one that is logged (evaluation is EvalCallback's, and optional)
    tags = {tag for charts in LAYOUT.values() for each in charts.values() for tag in each} - {"eval/mean_reward"}
    assert tags <= set(events.Tags()["scalars"])
    assert "_hparams_/session_start_info" in events.summary_metadata
    start = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"n_relaxed" in start
    assert b"Tiny" in start


def test_without_tensorboard_nothing_happens():
    RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), device="cpu").learn(10, callback=TensorboardLayoutCallback())
