"""Callbacks: is the control variate helping? And checkpoints from which training goes on exactly."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization, unwrap_vec_normalize

from sb3_relax.algorithm.a2c import ControlVariateA2C, advantage_unit
from sb3_relax.algorithm.checkpoints import ExactCheckpointCallback
from sb3_relax.algorithm.copies import frozen_copy, require_plain_policy
from sb3_relax.algorithm.tensorboard import (
    DETAILS,
    LAYOUT,
    NO_EFFECT,
    RATIO,
    Band,
    Layout,
    tensorboard_outputs,
    with_error,
    write,
    write_layout,
)
from sb3_relax.diagnose.jackknife import Jackknifed, variance
from sb3_relax.diagnose.rollout_gradients import (
    RolloutSteps,
    StepGradient,
    gradients_by_stream,
    gram,
    prepared,
    score_term,
)
from sb3_relax.diagnose.streams import streams_of
from sb3_relax.errors import UsageError, require_count, require_within
from sb3_relax.policy_gradient.hyperparameters import hyperparameters_of

__all__ = ["LAYOUT", "Band", "ExactCheckpointCallback", "GradientVarianceCallback", "TensorboardLayoutCallback"]

#: independent streams that the rollouts of a measurement come in, where there are as many rollouts
STREAMS = 10
#: of a measurement that the end of training cuts short, to be worth a point
LEAST_STREAMS = 4

RATIO_OF_ROLLOUTS = "gradient/ratio"
#: the layout where GradientVarianceCallback measures
LAYOUT_OF_ROLLOUTS: dict[str, dict[str, list[str | Band]]] = {
    **LAYOUT,
    DETAILS: {
        **LAYOUT[DETAILS],
        "with ĉ ÷ without over whole rollouts, at a policy that stands still": [
            Band.around(RATIO_OF_ROLLOUTS),
            NO_EFFECT,
        ],
        "gradient variance over whole rollouts": ["gradient/variance", "gradient/variance_no_cv"],
        "seconds spent on measuring, and on training": ["gradient/measuring_seconds", "gradient/training_seconds"],
    },
}


class GradientVarianceCallback(BaseCallback):
    """Measures during training the variance of the policy gradient over repeated rollouts, the policy standing still.

    The true one: Σ_i Var over rollouts of the whole batch's gradient at the policy's weights, with ĉ as training
    applies it (the agent's own ĉ and share) and without (A2C's), on the same rollouts. The ratio's standard error is a
    jackknife over independent streams of rollouts (10, or as many as there are rollouts). Each stream is reset with a
    seed of its own and stepped on to a random place in its episodes. Those steps need no gradient but take time: on
    average half an episode (500 steps at most) per stream.

    **Cost.** By default measuring takes at most a quarter of the time that training takes (``max_time_share``, up to
    the time of one stream): streams are run between updates as time allows, and a measurement is written when it has
    all of its streams. It then stands at the step whose policy it measured. With ``every`` measurements come at a
    fixed interval instead, whatever they cost. Either way the cost is logged, printed with ``verbose=1``, and kept in
    ``measuring_seconds`` and ``training_seconds``. ``control_variate_helps_below_1/variance_ratio``, which every
    training writes to tensorboard at no cost, looks at the steps of a batch instead.

    Every measurement is written as it is made, whatever ``log_interval`` is: ``gradient/variance``,
    ``gradient/variance_no_cv``, ``gradient/ratio``, ``gradient/ratio_standard_error``, ``gradient/ratio_low`` and
    ``gradient/ratio_high`` (one standard error around it), and the cost: ``gradient/measuring_seconds`` and
    ``gradient/training_seconds``, the time spent on measuring and on everything else since training began.

    Training goes on as if it were not there: the measuring model, its environment and its random numbers are its own.

    :param env: to measure in, with as many environments as training at best; never the training environment.
        VecNormalize's statistics are taken from training, as EvalCallback does
    :param every: updates of the policy between measurements; by time where ``None``
    :param n_rollouts: rollouts per measurement, at least 4
    :param max_time_share: the most that measuring may take, as a share of training's time; without effect with
        ``every``
    :param seed: of the measurements
    :param verbose: 1 prints every measurement
    :raises ValueError: for a size out of range, or the training environment itself
    :raises TypeError: where it is used with anything but LAXA2C or RELAXA2C; maskable and recurrent agents are refused

    Example::

        env = make_vec_env("CartPole-v1", n_envs=8)
        model.learn(100_000, callback=GradientVarianceCallback(env, verbose=1))
    """

    def __init__(
        self,
        env: gym.Env | VecEnv,
        every: int | None = None,
        n_rollouts: int = 40,
        seed: int = 0,
        verbose: int = 0,
        max_time_share: float = 0.25,
    ):
        super().__init__(verbose)
        if every is not None:
            require_count("every", every)
        require_count("n_rollouts", n_rollouts, low=4)
        require_within("max_time_share", max_time_share, 0)
        self.every = every
        self.groups = streams_of(n_rollouts, STREAMS)
        self.max_time_share = max_time_share
        self.seed = seed
        self.variance_env = BaseAlgorithm._wrap_env(env)
        statistics = unwrap_vec_normalize(self.variance_env)
        if statistics is not None and statistics.training:
            raise UsageError("env's VecNormalize takes its statistics from training: set training=False")
        self.rollouts = 0
        self.n_measurements = 0
        self.measurement: _Measurement | None = None
        self.measuring_seconds = 0.0
        self.seconds_of_a_stream = 0.0

    def _init_callback(self) -> None:
        if not isinstance(self.model, ControlVariateA2C):
            raise TypeError(
                "GradientVarianceCallback compares the gradient with and without a control variate: it takes LAXA2C "
                f"and RELAXA2C; got {type(self.model).__name__}"
            )
        require_plain_policy(self.model)
        training_env = self.model.get_env()
        if training_env is not None and self.variance_env.unwrapped is training_env.unwrapped:
            raise UsageError("env must not be the training environment, which measuring would step")
        write_layout(tensorboard_outputs(self.logger), LAYOUT_OF_ROLLOUTS)

    def _on_training_start(self) -> None:
        self.started = time.perf_counter()
        self.measurement, self.measuring_seconds, self.n_measurements = None, 0.0, 0

    @property
    def training_seconds(self) -> float:
        """Time since training began that was not spent on measuring."""
        return time.perf_counter() - self.started - self.measuring_seconds

    def _on_rollout_start(self) -> None:
        # between an update and the next rollout: policy, ĉ and its share are what the next update will use
        if self.every is not None:
            if self.rollouts % self.every == 0:
                self._run_streams(len(self.groups))
        elif self.rollouts > 0 and self._is_affordable():
            self._run_streams(1)
        self.rollouts += 1

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self.measurement is not None and len(self.measurement.of_streams) >= LEAST_STREAMS:
            self._write()
        if self.n_measurements == 0:
            warnings.warn(
                f"GradientVarianceCallback finished no measurement in {self.training_seconds:.1f} s of training: train "
                "for longer, take fewer n_rollouts, or allow it more time (max_time_share)",
                stacklevel=2,
            )

    def _is_affordable(self) -> bool:
        """Whether another stream, if it takes as long as the last one, keeps measuring within its share of the time."""
        return self.measuring_seconds + self.seconds_of_a_stream < self.max_time_share * self.training_seconds

    def _run_streams(self, n_streams: int) -> None:
        """So many streams of the measurement, or up to its end; a new one is begun where there is none."""
        start = time.perf_counter()
        if self.measurement is None:
            assert isinstance(self.model, ControlVariateA2C)
            sync_envs_normalization(self.training_env, self.variance_env)
            seed = int(np.random.SeedSequence([self.seed, self.rollouts]).generate_state(1)[0] >> 1)
            self.measurement = _Measurement(self.model, self.variance_env, self.groups, seed)
        for _ in range(n_streams):
            if self.measurement.is_complete:
                break
            self.measurement.run_stream()
        self.seconds_of_a_stream = time.perf_counter() - start
        self.measuring_seconds += self.seconds_of_a_stream
        if self.measurement.is_complete:
            self._write()

    def _write(self) -> None:
        """The measurement, and that it is over."""
        assert self.measurement is not None
        step, with_cv, without = self.measurement.step, *self.measurement.variances()
        ratio = with_cv / without
        measuring, training = self.measuring_seconds, self.training_seconds
        values = {"gradient/variance": with_cv.value, "gradient/variance_no_cv": without.value}
        values |= {"gradient/measuring_seconds": measuring, "gradient/training_seconds": training}
        said = "not known, since no gradient varied"
        if math.isfinite(ratio.value + ratio.standard_error):
            said = f"{ratio.value:.2f} ± {ratio.standard_error:.2f}"
            values |= with_error(RATIO_OF_ROLLOUTS, ratio.value, ratio.standard_error)
            values["gradient/ratio_standard_error"] = ratio.standard_error
        write(self.logger.output_formats, values, step)
        self.measurement = None
        self.n_measurements += 1
        if self.verbose > 0:
            print(
                f"step {step}: variance of the policy gradient with the control variate over without: {said} "
                f"(so far {measuring:.1f} s of measuring beside {training:.1f} s of training)"
            )


class _Measurement:
    """Rollouts at a copy of the policy as it is now, with ĉ and without, stream by stream.

    :param model: to copy
    :param env: to measure in
    :param groups: the stream of every rollout, ``[n_rollouts]``
    :param seed: of everything random in it
    """

    def __init__(self, model: ControlVariateA2C, env: VecEnv, groups: np.ndarray, seed: int):
        self.step = model.num_timesteps
        self.groups = groups
        self.seeds = iter(np.random.SeedSequence(seed).generate_state(int(groups.max()) + 1))
        self.of_streams: list[dict[str, list[list[th.Tensor]]]] = []
        frozen = frozen_copy(model, seed)
        lambdas = [frozen.gae_lambda]
        estimators: dict[str, StepGradient] = {
            "with": partial(_with_control_variate, frozen),
            "without": partial(_without, frozen),
        }
        self.streams: Iterator[Any] = gradients_by_stream(frozen, env, groups, lambdas, estimators, seed)

    @property
    def is_complete(self) -> bool:
        """Whether all streams have been run."""
        return len(self.of_streams) > self.groups.max()

    def run_stream(self) -> None:
        """The next one; training's random numbers stay as they are."""
        with th.random.fork_rng():
            th.manual_seed(int(next(self.seeds)))
            self.of_streams.append(next(self.streams))

    def variances(self) -> list[Jackknifed]:
        """With ĉ and without, of the streams that have been run."""
        groups = self.groups[self.groups < len(self.of_streams)]
        return [
            variance(gram(chain.from_iterable(stream[name][0] for stream in self.of_streams)), groups)
            for name in ("with", "without")
        ]


def _with_control_variate(model: ControlVariateA2C, steps: RolloutSteps, i: int) -> th.Tensor:
    """ĝ of every step as training applies it, in the unit of A2C's.

    A control variate that corrects the advantages of a rollout makes them smaller, and normalised ones larger again.
    """
    variate, noise = model.control_variate, model.noise_generator
    advantages = prepared(variate, steps, i, noise)
    grad = variate.gradient(steps.output, model.normalized(advantages), noise).grad
    own, plain = (advantage_unit(model, each) for each in (advantages, steps.advantages[i]))
    return grad if own is None or plain is None else grad * (own / plain)


def _without(model: ControlVariateA2C, steps: RolloutSteps, i: int) -> th.Tensor:
    """A2C's."""
    return score_term(steps.output, model.normalized(steps.advantages[i]))


class TensorboardLayoutCallback(BaseCallback):
    """A layout of your own for tensorboard's tab "Custom Scalars", and the agent's settings for its tab "HParams".

    Every training of these algorithms has a layout without this callback: :data:`LAYOUT`, whose first category asks
    whether the control variate helps. Without ``tensorboard_log`` it does nothing.

    :param layout: category → chart → tags, in the place of :data:`LAYOUT`; a :class:`Band` in the place of a tag draws
        an interval around it
    :param hparams: further hyper-parameters (or the environment's name) to show beside the algorithm's own

    Example::

        model = RELAXA2C("MlpPolicy", "CartPole-v1", tensorboard_log="logs")
        layout = {**LAYOUT, "Mine": {"entropy and return": ["train/entropy_loss", "rollout/ep_rew_mean"]}}
        model.learn(100_000, callback=TensorboardLayoutCallback(layout, hparams={"env": "CartPole-v1"}))
    """

    def __init__(self, layout: Layout | None = None, hparams: dict[str, Any] | None = None):
        super().__init__()
        self.layout = layout
        self.hparams = hparams or {}

    def _on_training_start(self) -> None:
        if self.layout is not None:
            write_layout(tensorboard_outputs(self.logger), self.layout)
        metrics = {"rollout/ep_rew_mean": 0.0, RATIO: 0.0, RATIO_OF_ROLLOUTS: 0.0}
        hparams = {**_hyperparameters(self.model), **self.hparams}
        write(tensorboard_outputs(self.logger), {"hparams": HParam(hparams, metrics)}, self.num_timesteps)

    def _on_step(self) -> bool:
        return True


def _hyperparameters(model: BaseAlgorithm) -> dict[str, Any]:
    """Those the algorithm has and that are set, as tensorboard takes them: numbers, booleans and words."""
    return {
        "algorithm": type(model).__name__,
        "policy": type(model.policy).__name__,
        **{
            name: value if isinstance(value, (int, float, str)) else repr(value)
            for name, value in hyperparameters_of(model).items()
            if value is not None
        },
    }
