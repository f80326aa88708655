"""RELAXA2C: A2C for discrete actions with the RELAX estimator."""

from __future__ import annotations

import math
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_relax.common.checks import require_between, require_choice, require_count
from sb3_relax.common.errors import UsageError
from sb3_relax.common.surrogate_a2c import SurrogateA2C
from sb3_relax.estimators import RELAX, ExactCorrection, TwoPhaseEstimator
from sb3_relax.estimators.functions import Surrogate
from sb3_relax.estimators.latents import MAX_SUPPORT

CORRECTIONS = ("coupled", "relaxed", "exact")


class RELAXA2C(SurrogateA2C):
    """Advantage actor-critic for discrete actions, with the RELAX estimator in the place of the score (Eq 8, 10).

    For Discrete, MultiDiscrete and MultiBinary actions. Per step, with advantage Â (GAE or returns, minus V(s)), z the
    relaxed action and z̃ the same given the action that was executed::

        ĝ = [Â - ĉ(z̃, s)] ∂θ log π(a|s) + ∂θ ĉ(z, s) - ∂θ ĉ(z̃, s)

    Unbiased given the advantage estimator, for any ĉ: bootstrapping, GAE with λ < 1 and clipping are as biased as in
    A2C.
    Paper: Grathwohl et al., *Backpropagation through the Void*, ICLR 2018, https://arxiv.org/abs/1711.00123.

    When to use it: small λ, small batches or many action dimensions. With two actions nothing action-dependent can beat
    the best state-dependent baseline, and with λ near 1 and large batches expect A2C.

    For action masks: :class:`~sb3_relax.MaskableRELAXA2C`; for policies with a memory:
    :class:`~sb3_relax.RecurrentRELAXA2C`.

    Arguments: A2C's, in its order; then, by keyword, those below and those of
    :class:`~sb3_relax.common.surrogate_a2c.SurrogateA2C`.

    :param correction: how E[ĉ] is corrected. ``"coupled"``: one relaxed draw as the value of z and z̃, in closed form
        (the default: it takes every action space, and where all three could be measured none was clearly better;
        README, "Which defaults, and why"). ``"relaxed"``: z and z̃ drawn independently, as in the paper.
        ``"exact"``: Σ_a π(a|s) ĉ(a, s) over at most 4096 joint actions, without relaxation
    :param n_relaxed: relaxed draws per step, averaged; they cost no environment step (no effect on ``"exact"``)
    :param init_temperature: τ of softmax(z/τ) and sigmoid(z/τ) at the start; learned with φ
    :raises ValueError: for another action space, or a hyper-parameter out of range

    Example::

        from sb3_relax import RELAXA2C

        model = RELAXA2C("MlpPolicy", "CartPole-v1", n_critic_steps=10)
        model.learn(100_000)
    """

    action_spaces = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    other_algorithm = "LAXA2C"

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        correction: str = "coupled",
        n_relaxed: int = 1,
        init_temperature: float = 0.5,
        **control_variate_kwargs: Any,
    ):
        super().__init__(
            policy,
            env,
            learning_rate,
            n_steps,
            gamma,
            gae_lambda,
            ent_coef,
            vf_coef,
            max_grad_norm,
            rms_prop_eps,
            use_rms_prop,
            use_sde,
            sde_sample_freq,
            rollout_buffer_class,
            rollout_buffer_kwargs,
            normalize_advantage,
            stats_window_size,
            tensorboard_log,
            policy_kwargs,
            verbose,
            seed,
            device,
            _init_setup_model=False,
            **control_variate_kwargs,
        )
        self.correction = correction
        self.n_relaxed = n_relaxed
        self.init_temperature = init_temperature
        if _init_setup_model:
            self._setup_model()

    def _check_hyperparameters(self) -> None:
        super()._check_hyperparameters()
        require_choice("correction", self.correction, CORRECTIONS)
        require_count("n_relaxed", self.n_relaxed)
        require_between("init_temperature", self.init_temperature, 1e-3, 1e3)
        if self.correction == "exact" and self._joint_actions() > MAX_SUPPORT:
            raise UsageError(
                f"correction='exact' enumerates joint actions, and {self.action_space} has {self._joint_actions()}, "
                f"more than {MAX_SUPPORT}: use correction='coupled'"
            )

    def _joint_actions(self) -> int:
        if isinstance(self.action_space, spaces.MultiBinary):
            return 2 ** get_action_dim(self.action_space)
        if isinstance(self.action_space, spaces.MultiDiscrete):
            return math.prod(map(int, self.action_space.nvec))
        assert isinstance(self.action_space, spaces.Discrete)
        return int(self.action_space.n)

    def _estimator(self, surrogate: Surrogate) -> TwoPhaseEstimator:
        if self.correction == "exact":
            return ExactCorrection(surrogate)
        return RELAX(surrogate, coupled=self.correction == "coupled", draws=self.n_relaxed)

    def _init_temperature(self) -> float | None:
        return None if self.correction == "exact" else self.init_temperature

    def _cv_action_dim(self) -> int:
        if isinstance(self.action_space, spaces.Discrete):
            return int(self.action_space.n)
        if isinstance(self.action_space, spaces.MultiDiscrete):
            return len(self.action_space.nvec) * int(self.action_space.nvec.max())
        return get_action_dim(self.action_space)
