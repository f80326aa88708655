"""Tensorboard answers, unasked, whether the control variate helps: read back from the event files."""

import math

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from sb3_relax import LAXA2C, RELAXA2C
from sb3_relax.algorithm.tensorboard import LAYOUT, NO_EFFECT, RATIO, mean_with_error, run_name, tags_of
from sb3_relax.control_variates import ControlVariate, StateBaseline
from sb3_relax.estimators import Reinforce
from tests.helpers import TinyEnv

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
layout_pb2 = pytest.importorskip("tensorboard.plugins.custom_scalar.layout_pb2")

BAND = (RATIO, f"{RATIO}_low", f"{RATIO}_high")


def events_of(folder):
    # all points: by default a reservoir of them is kept
    return accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def agent(folder=None, **kwargs):
    log = None if folder is None else str(folder)
    return RELAXA2C("MlpPolicy", TinyEnv(spaces.Discrete(3)), tensorboard_log=log, seed=0, device="cpu", **kwargs)


class Ratios(BaseCallback):
    """Of every update, as the algorithm logs them, by the step they belong to."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def _on_rollout_start(self):
        if "train/grad_variance_ratio" in self.logger.name_to_value:
            self.found[self.num_timesteps] = self.logger.name_to_value["train/grad_variance_ratio"]

    _on_training_end = _on_rollout_start

    def _on_step(self):
        return True


def test_points_come_from_the_first_update_on_with_ratio_error_and_the_line_at_one(tmp_path):
    """Long before log_interval, which is 100 updates, writes anything."""
    seen = Ratios()
    agent(tmp_path, cv_learning_rate=0.05).learn(300, callback=seen)
    events = events_of(tmp_path / "RELAXA2C_1")
    ratio, low, high = ([event.value for event in events.Scalars(tag)] for tag in BAND)
    steps = [event.step for event in events.Scalars(RATIO)]
    assert steps[:3] == [5, 10, 15]
    assert steps == list(seen.found)[: len(steps)]  # every update's, while they are fewer than 100
    assert steps[-1] > 250
    assert [event.value for event in events.Scalars(NO_EFFECT)] == [1.0] * len(steps)
    assert (ratio[0], low[0], high[0]) == (1, 1, 1)  # the guard has no evidence yet: ĉ is not applied
    values = np.array(list(seen.found.values()))
    for i in (5, 20, 40):
        mean, error = values[: i + 1].mean(), values[: i + 1].std(ddof=1) / math.sqrt(i + 1)
        assert (ratio[i], high[i] - ratio[i]) == pytest.approx((mean, error), rel=1e-4)
        assert ratio[i] - low[i] == pytest.approx(error, rel=1e-3)


def test_a_long_run_has_few_points_each_of_the_last_hundred_updates(tmp_path):
    seen = Ratios()
    agent(tmp_path, n_steps=2, cv_learning_rate=0.05).learn(1_200, callback=seen)
    points = events_of(tmp_path / "RELAXA2C_1").Scalars(RATIO)
    assert 100 < len(points) < 250
    values = list(seen.found.values())
    last = list(seen.found).index(points[-1].step)
    gap = last - list(seen.found).index(points[-2].step)
    window = np.array(values[last + 1 - 100 - gap : last + 1])
    assert gap > 5
    assert points[-1].value == pytest.approx(np.nanmean(window), rel=1e-4)


def test_the_layout_is_there_unasked_and_asks_first_whether_it_helps(tmp_path):
    agent(tmp_path, critic_learning_rate=1e-3).learn(100, log_interval=1)
    events = events_of(tmp_path / "RELAXA2C_1")
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == list(LAYOUT)
    assert layout.category[0].title == "Is the control variate helping?"
    (chart,) = layout.category[0].chart
    assert [(band.value, band.low, band.high) for band in map(band_of, chart.margin.series)] == [BAND, (NO_EFFECT,) * 3]
    # every tag of the layout is one that is logged (evaluation is EvalCallback's, and optional)
    assert set(tags_of(LAYOUT)) - {"eval/mean_reward"} <= set(events.Tags()["scalars"])
    # and every learning rate is drawn
    assert {tag for tag in events.Tags()["scalars"] if tag.endswith("learning_rate")} <= set(tags_of(LAYOUT))
    # the tabs "Time Series" and "Scalars" show groups of tags by the alphabet
    assert min(events.Tags()["scalars"]) == RATIO


def band_of(series):
    from sb3_relax.algorithm.tensorboard import Band

    return Band(series.value, series.lower, series.upper)


def test_a_logger_of_ones_own_and_going_on(tmp_path):
    model = agent()
    model.set_logger(configure(str(tmp_path), ["tensorboard"]))
    model.learn(20)
    model.learn(20, reset_num_timesteps=False)
    steps = [event.step for event in events_of(tmp_path).Scalars(RATIO)]
    assert steps[:4] == [5, 10, 15, 20]
    assert len(steps) == len(set(steps))  # no update is counted twice


def test_functions_and_lists_are_callbacks_as_before(tmp_path):
    calls = []
    agent(tmp_path).learn(20, callback=lambda *_: calls.append("function") or True)
    agent(tmp_path).learn(20, callback=[Ratios(), Ratios()])
    assert len(calls) == 20
    stopped = agent(tmp_path).learn(100, callback=lambda *_: False)
    assert stopped.num_timesteps == 1


class Mine(ControlVariate):
    def gradient(self, output, signal, generator):
        return Reinforce().finish(output.latent, output.sample, signal)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (dict(), "RELAXA2C"),
        (dict(n_critic_steps=10, cv_learning_rate=1e-4), "RELAXA2C"),
        (dict(cv_learning_rate=0), "RELAXA2C_cv_none"),
        (dict(control_variate="none"), "RELAXA2C_cv_none"),
        (dict(control_variate="relax"), "RELAXA2C"),
        (dict(cv_action_dependent=False), "RELAXA2C_cv_state"),
        (dict(control_variate=StateBaseline), "RELAXA2C_cv_StateBaseline"),
        (dict(correction="exact"), "RELAXA2C_cv_exact"),
        (dict(correction="relaxed"), "RELAXA2C_cv_relaxed"),
        (dict(control_variate=Mine), "RELAXA2C_cv_Mine"),
        (dict(control_variate="trajectory+model"), "RELAXA2C_cv_trajectory_and_model"),
        (dict(control_variate="trajectory_model"), "RELAXA2C_cv_trajectory_model"),
        (dict(control_variate=lambda view, hyperparameters: Mine()), "RELAXA2C_cv_lambda"),
    ],
)
def test_runs_are_told_apart_by_name(settings, name, tmp_path):
    model = agent(tmp_path, **settings)
    assert run_name(model) == name
    model.learn(5)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}_1"]


def test_a_name_that_is_given_is_taken(tmp_path):
    agent(tmp_path, cv_learning_rate=0).learn(5, tb_log_name="mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine_1"]


def test_laxa2c_has_no_correction_to_name():
    model = LAXA2C("MlpPolicy", TinyEnv(spaces.Box(-1, 1, (1,))), device="cpu")
    assert run_name(model) == "LAXA2C"


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([0.5, 0.7], (0.6, 0.1)),
        ([0.5, np.nan, 0.7], (0.6, 0.1)),
        ([1.0], (1.0, 0.0)),
        ([0.5], (np.nan, np.nan)),
        ([np.nan], (np.nan, np.nan)),
        ([], (np.nan, np.nan)),
    ],
)
def test_mean_and_standard_error(ratios, expected):
    assert mean_with_error(np.array(ratios)) == pytest.approx(expected, nan_ok=True)
