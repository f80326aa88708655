"""The measuring callback leaves training alone and measures what it says; the layout reaches tensorboard."""

import re

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_relax import LAXA2C, RELAXA2C, callbacks
from sb3_relax.algorithm.tensorboard import tags_of
from sb3_relax.callbacks import LAYOUT_OF_ROLLOUTS, GradientVarianceCallback, TensorboardLayoutCallback
from sb3_relax.control_variates import Guarded
from tests.diagnose.problems import agent, exact_parts, score_gradient, table_bandit
from tests.diagnose.test_split import discrete
from tests.helpers import ACTION_SPACES, TinyEnv


class Written(dict, KVWriter):
    """What a logger writes, the last value of each key."""

    def write(self, key_values, key_excluded, step=0):
        self.update(key_values)


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
    logged = Written()
    model.set_logger(Logger(None, [logged]))
    callback = GradientVarianceCallback(table_bandit(3, 0.5), every=1_000, n_rollouts=300)
    callback.init_callback(model)
    callback.on_training_start({}, {})
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
    logged = Written()
    model = RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), n_steps=1, normalize_advantage=True, device="cpu")
    model.set_logger(Logger(None, [logged]))
    callback = GradientVarianceCallback(TinyEnv(spaces.Discrete(3)), every=1, n_rollouts=4)
    callback.init_callback(model)
    callback.on_training_start({}, {})
    callback.on_rollout_start()
    assert "gradient/ratio" in logged
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


def events_of(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return accumulator.EventAccumulator(str(folder)).Reload()


def layout_of(events):
    """The layout that tensorboard shows: the last one."""
    layout_pb2 = pytest.importorskip("tensorboard.plugins.custom_scalar.layout_pb2")
    return layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0])


def test_every_measurement_is_in_the_event_file(tmp_path, capsys):
    """None is lost to log_interval, which is 100 updates by default."""
    model = RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), tensorboard_log=str(tmp_path), seed=0, device="cpu")
    measuring = GradientVarianceCallback(TinyEnv(spaces.Discrete(3)), every=2, n_rollouts=4, verbose=1)
    model.learn(60, callback=measuring)
    printed = [int(line.split()[1].rstrip(":")) for line in capsys.readouterr().out.splitlines() if "step" in line]
    assert printed == [0, 10, 20, 30, 40, 50]
    events = events_of(tmp_path / "RELAXA2C_1")
    for tag in (
        "variance",
        "variance_no_cv",
        "ratio",
        "ratio_standard_error",
        "ratio_low",
        "ratio_high",
        "measuring_seconds",
    ):
        assert [event.step for event in events.Scalars(f"gradient/{tag}")] == printed
    for ratio, error, high in zip(
        *(events.Scalars(f"gradient/ratio{end}") for end in ("", "_standard_error", "_high")), strict=True
    ):
        assert high.value == pytest.approx(ratio.value + error.value)


class Clocked(TinyEnv):
    """Every step takes a second of a clock."""

    clock = 0.0

    def __init__(self, length=100):
        super().__init__(spaces.Discrete(3), length)
        self.steps = 0

    def step(self, action):
        Clocked.clock += 1
        self.steps += 1
        return super().step(action)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(Clocked, "clock", 0.0)
    monkeypatch.setattr("time.perf_counter", lambda: Clocked.clock)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("n_steps", "total"), [(5, 2_500), (64, 7_000)])
def test_measuring_takes_at_most_a_third_of_trainings_time(n_steps, total, capsys):
    """By default; and it says what it took."""
    training, measured_in = Clocked(), Clocked()
    measuring = GradientVarianceCallback(measured_in, verbose=1)
    RELAXA2C("MlpPolicy", training, n_steps=n_steps, device="cpu").learn(total, callback=measuring)
    assert 0 < measured_in.steps <= training.steps / 3
    assert (measuring.measuring_seconds, measuring.training_seconds) == (measured_in.steps, training.steps)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert len(lines) == measuring.n_measurements >= 1
    for line in lines:
        spent, trained_for = map(
            float, re.search(r"([\d.]+) s of measuring beside ([\d.]+) s of training", line).groups()
        )
        assert 0 < spent <= trained_for / 3


@pytest.mark.usefixtures("clock")
def test_a_training_too_short_to_measure_says_so():
    with pytest.warns(UserWarning, match=r"finished no measurement .*max_time_share"):
        RELAXA2C("MlpPolicy", Clocked(), device="cpu").learn(10, callback=GradientVarianceCallback(Clocked()))
    never = GradientVarianceCallback(Clocked(), max_time_share=0)
    with pytest.warns(UserWarning, match=r"finished no measurement"):
        RELAXA2C("MlpPolicy", Clocked(), device="cpu").learn(50, callback=never)
    assert never.measuring_seconds == 0


@pytest.mark.usefixtures("clock")
def test_what_is_measured_piece_by_piece_is_what_is_measured_at_once(tmp_path):
    """Streams of one measurement are those of the policy as it was when the measurement began."""

    def ratio(folder, **when):
        model = RELAXA2C("MlpPolicy", Clocked(length=7), n_steps=4, tensorboard_log=str(folder), seed=0, device="cpu")
        model.learn(400, callback=GradientVarianceCallback(Clocked(length=7), n_rollouts=4, **when))
        return [(event.step, event.value) for event in events_of(folder / "RELAXA2C_1").Scalars("gradient/variance")]

    whenever, at_once = ratio(tmp_path / "whenever"), dict(ratio(tmp_path / "once", every=1))
    assert len(whenever) > 1
    assert all(at_once[step] == value for step, value in whenever)


def test_layout_and_hyperparameters_reach_tensorboard(tmp_path):
    env = TinyEnv(spaces.Discrete(3))
    schedules = dict(ent_coef=LinearSchedule(0.01, 0.0, 1.0), critic_learning_rate=LinearSchedule(1e-3, 0.0, 1.0))
    model = RELAXA2C(
        "MlpPolicy", env, tensorboard_log=str(tmp_path), seed=0, device="cpu", update_rule="kfac", **schedules
    )
    measuring = GradientVarianceCallback(TinyEnv(spaces.Discrete(3)), every=2, n_rollouts=4)
    model.learn(50, callback=[TensorboardLayoutCallback(hparams={"env": "Tiny"}), measuring], log_interval=1)
    events = events_of(tmp_path / "RELAXA2C_1")
    assert [category.title for category in layout_of(events).category] == list(LAYOUT_OF_ROLLOUTS)
    # every tag of the layout is one that is logged (evaluation is EvalCallback's, and optional)
    assert set(tags_of(LAYOUT_OF_ROLLOUTS)) - {"eval/mean_reward"} <= set(events.Tags()["scalars"])
    assert "_hparams_/session_start_info" in events.summary_metadata
    start = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"n_relaxed" in start
    assert b"Tiny" in start
    assert b"kfac" in start
    assert start.count(b"LinearSchedule(start=") == 2


def test_a_layout_of_ones_own_takes_the_place_of_ours(tmp_path):
    model = RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), tensorboard_log=str(tmp_path), device="cpu")
    own = {"Mine": {"both": ["train/value_loss", "train/policy_loss"]}}
    measuring = GradientVarianceCallback(TinyEnv(spaces.Discrete(3)), every=2, n_rollouts=4)
    model.learn(10, callback=[TensorboardLayoutCallback(own), measuring])
    layout = layout_of(events_of(tmp_path / "RELAXA2C_1"))
    assert [category.title for category in layout.category] == ["Mine"]
    assert layout.category[0].chart[0].multiline.tag == ["^train/value_loss$", "^train/policy_loss$"]


def test_without_tensorboard_nothing_happens():
    RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), device="cpu").learn(10, callback=TensorboardLayoutCallback())
