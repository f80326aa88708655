"""Callbacks that answer in tensorboard: is the control variate helping?"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization, unwrap_vec_normalize

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.algorithm.copies import frozen_copy, require_plain_policy
from sb3_relax.diagnose.jackknife import variance
from sb3_relax.diagnose.rollout_gradients import gradient_grams, score_term
from sb3_relax.errors import UsageError, require_count
from sb3_relax.policy_gradient.hyperparameters import hyperparameters_of

#: Categories and charts of the layout, each a list of tags. SB3's own keys, ours, and GradientVarianceCallback's.
LAYOUT: dict[str, dict[str, list[str]]] = {
    "Is the control variate helping?": {
        "gradient variance over rollouts": ["gradient/variance", "gradient/variance_no_cv"],
        "variance over rollouts: with ÷ without": ["gradient/ratio"],
        "gradient variance over a batch's steps": ["train/grad_variance", "train/grad_variance_no_cv"],
        "variance over steps: with ÷ without": ["train/grad_variance_ratio"],
        "share of ĉ that is applied": ["train/cv_gain"],
    },
    "Returns": {"return": ["rollout/ep_rew_mean", "eval/mean_reward"], "length": ["rollout/ep_len_mean"]},
    "Losses": {
        "policy": ["train/policy_loss"],
        "value": ["train/value_loss"],
        "control variate": ["train/cv_loss"],
        "entropy": ["train/entropy_loss"],
        "explained variance": ["train/explained_variance"],
    },
    "Rates": {
        "learning rates": ["train/learning_rate", "train/cv_learning_rate"],
        "gradient norm": ["train/grad_norm"],
        "temperature": ["train/temperature"],
        "steps per second": ["time/fps"],
    },
}


class GradientVarianceCallback(BaseCallback):
    """Measures, at intervals, the variance of the policy gradient over repeated rollouts at the policy as it is.

    The true one: Σ_i Var over rollouts of the whole batch's gradient at the policy's weights, with ĉ as training
    applies it (the agent's own ĉ and share) and without (A2C's), on the same rollouts, with the ratio's standard error
    by a jackknife over independent streams of rollouts (20, or as many as there are rollouts), each reset with a seed
    of its own and stepped on to a random place in its episodes. Those steps need no gradient but take time: on average
    half an episode (500 steps at most) per stream. ``train/grad_variance``, which costs nothing, looks at the steps of
    one batch instead. Logged: ``gradient/variance``, ``gradient/variance_no_cv``, ``gradient/ratio``,
    ``gradient/ratio_standard_error``.

    Training goes on as if it were not there: the measuring model, its environment and its random numbers are its own.

    :param env: to measure in, with as many environments as training at best; never the training environment.
        VecNormalize's statistics are taken from training, as EvalCallback does
    :param every: updates of the policy between measurements
    :param n_rollouts: rollouts per measurement, at least 4
    :param seed: of the measurements
    :param verbose: 1 prints every measurement
    :raises ValueError: for a size out of range, or the training environment itself
    :raises TypeError: where it is used with anything but LAXA2C or RELAXA2C; maskable and recurrent agents are refused

    Example::

        env = make_vec_env("CartPole-v1", n_envs=8)
        model.learn(100_000, callback=GradientVarianceCallback(env, every=100))
    """

    def __init__(
        self, env: gym.Env | VecEnv, every: int = 1_000, n_rollouts: int = 40, seed: int = 0, verbose: int = 0
    ):
        super().__init__(verbose)
        require_count("every", every)
        require_count("n_rollouts", n_rollouts, low=4)
        self.every = every
        self.n_rollouts = n_rollouts
        self.seed = seed
        self.variance_env = BaseAlgorithm._wrap_env(env)
        statistics = unwrap_vec_normalize(self.variance_env)
        if statistics is not None and statistics.training:
            raise UsageError("env's VecNormalize takes its statistics from training: set training=False")
        self.rollouts = 0

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

    def _on_rollout_start(self) -> None:
        # between an update and the next rollout: policy, ĉ and its share are what the next update will use
        if self.rollouts % self.every == 0:
            self._measure()
        self.rollouts += 1

    def _on_step(self) -> bool:
        return True

    def _measure(self) -> None:
        assert isinstance(self.model, ControlVariateA2C)
        seed = int(np.random.SeedSequence([self.seed, self.rollouts]).generate_state(1)[0] >> 1)
        sync_envs_normalization(self.training_env, self.variance_env)
        frozen = frozen_copy(self.model, seed)

        with th.random.fork_rng():
            th.manual_seed(seed)
            grams, groups = gradient_grams(
                frozen,
                self.variance_env,
                self.n_rollouts,
                [frozen.gae_lambda],
                {
                    "with": lambda output, advantages, _: (
                        frozen.control_variate.gradient(
                            output, frozen.normalized(advantages), frozen.noise_generator
                        ).grad
                    ),
                    "without": lambda output, advantages, _: score_term(output, frozen.normalized(advantages)),
                },
                seed,
            )
        with_cv, without = (variance(grams[name][0], groups) for name in ("with", "without"))
        ratio = with_cv / without
        self.logger.record("gradient/variance", with_cv.value)
        self.logger.record("gradient/variance_no_cv", without.value)
        self.logger.record("gradient/ratio", ratio.value)
        self.logger.record("gradient/ratio_standard_error", ratio.standard_error)
        if self.verbose > 0:
            print(
                f"step {self.num_timesteps}: variance of the policy gradient with the control variate over without: "
                f"{ratio.value:.2f} ± {ratio.standard_error:.2f}"
            )


class TensorboardLayoutCallback(BaseCallback):
    """Tensorboard's "Custom Scalars" tab, whose first category asks whether the control variate helps; and "HParams".

    Use it with ``tensorboard_log``; without, it does nothing.

    :param layout: category → chart → tags; :data:`LAYOUT` where ``None``
    :param hparams: further hyper-parameters (or the environment's name) to show beside the algorithm's own

    Example::

        model = RELAXA2C("MlpPolicy", "CartPole-v1", tensorboard_log="logs")
        model.learn(100_000, callback=TensorboardLayoutCallback(hparams={"env": "CartPole-v1"}))
    """

    def __init__(self, layout: dict[str, dict[str, list[str]]] | None = None, hparams: dict[str, Any] | None = None):
        super().__init__()
        self.layout = layout
        self.hparams = hparams or {}

    def _on_training_start(self) -> None:
        for output in self.logger.output_formats:
            if isinstance(output, TensorBoardOutputFormat):
                output.writer.add_custom_scalars(_charts(self.layout or LAYOUT))
        metrics = {"rollout/ep_rew_mean": 0.0, "train/grad_variance_ratio": 0.0, "gradient/ratio": 0.0}
        hparams = {**_hyperparameters(self.model), **self.hparams}
        self.logger.record("hparams", HParam(hparams, metrics), exclude=("stdout", "log", "json", "csv"))

    def _on_step(self) -> bool:
        return True


def _charts(layout: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[Any]]]:
    # tensorboard reads tags as regular expressions
    return {
        category: {title: ["Multiline", [f"^{tag}$" for tag in tags]] for title, tags in charts.items()}
        for category, charts in layout.items()
    }


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
