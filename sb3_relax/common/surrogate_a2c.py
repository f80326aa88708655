"""A2C with its policy loss replaced by a control-variate estimator: the one train() both algorithms share."""

from __future__ import annotations

import os
import pathlib
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, RolloutBufferSamples, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance, obs_as_tensor, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from sb3_relax.common.checks import (
    other_taker,
    require_between,
    require_choice,
    require_count,
    require_finite,
    require_policy_family,
    require_rate,
    require_schedule,
)
from sb3_relax.common.errors import UsageError
from sb3_relax.common.keywords import refuses_unknown_arguments
from sb3_relax.common.latents import to_latent, to_sample
from sb3_relax.common.rollouts import collect_episodes
from sb3_relax.common.saved import require_own_file
from sb3_relax.common.surrogate import ControlVariate, control_variate_arch
from sb3_relax.common.validation import unchecked_distributions
from sb3_relax.estimators import Estimate, Latent, TwoPhaseEstimator
from sb3_relax.estimators.functions import Surrogate
from sb3_relax.estimators.moments import ChangeMoments, change_moments

SelfSurrogateA2C = TypeVar("SelfSurrogateA2C", bound="SurrogateA2C")

CV_OBJECTIVES = ("distribution", "weights")


class Evaluation(NamedTuple):
    """One pass of the policy over a batch of N steps."""

    latent: Latent  #: the action distribution, θ attached to the policy's weights
    sample: th.Tensor  #: the executed actions as the latent's b
    features: th.Tensor  #: what ĉ reads of the state, detached, ``[N, F]``
    values: th.Tensor  #: V(s), ``[N]``
    log_prob: th.Tensor  #: ``[N]``
    entropy: th.Tensor | None  #: ``[N]``, or ``None`` without analytical form


class SurrogateA2C(A2C):
    """A2C whose score function is corrected by a learned control variate ĉ_φ(a, s); see LAXA2C and RELAXA2C.

    Takes A2C's arguments in A2C's order with A2C's defaults, and after them, by keyword:

    :param cv_learning_rate: φ's own learning rate (Adam), a number or a schedule; 0 leaves ĉ = 0, which is A2C. ĉ is
        scaled by the size of earlier advantages, so one rate serves all reward scales
    :param n_cv_steps: steps of φ per update, each with relaxation noise of its own, after ĉ was used on the batch
    :param cv_objective: what trains φ. ``"distribution"``: Σ_t ‖ĝ_t‖² at the distribution's parameters (Eq 6, cheap).
        ``"weights"``: ‖Σ_t ĝ_t‖² at the policy's weights (the paper's), by a second pass through the policy
    :param cv_guard: apply only the share η of ĉ that lowered the variance in earlier batches (still unbiased, since η
        is fixed before the batch); switched off, ĉ is applied in full, as in the paper
    :param cv_action_dependent: ĉ(a, s); switched off, ĉ(s): a state baseline on top of V, without a correction, which
        the objective leads to the variance-optimal E[‖∂ log π‖² Â | s] / E[‖∂ log π‖² | s] (Greensmith et al. 2004;
        the norm at the distribution's parameters or, with ``cv_objective="weights"``, at the policy's weights). It is
        the control without which no gain can be put down to the actions
    :param n_critic_steps: steps of V per update. The first is A2C's joint step; the others move only what the action
        distribution does not depend on, so neither the policy's weights nor its optimizer state notice
    :param n_episodes: update after this many whole episodes, without bootstrapping, instead of after ``n_steps``
        (which is then ignored). At least one for every environment. The policy's gradient is divided by the number of
        steps that earlier updates lead to expect; the first, which has none before it, moves V and ĉ but hardly the
        policy, unless the optimizer scales its gradient up
    :param bootstrap_truncated: in that mode, add γV(s_T) where a time limit cut the episode, as SB3 does.
        Switched off, a time limit is an end like any other
    :param max_episode_steps: in that mode, an episode longer than this is an error

    Why these defaults: README, "Which defaults, and why", from scripts/results/defaults (three tuning seeds each of
    CartPole, Acrobot and InvertedPendulum). Those do not show that the guard is needed; Table 2's do, with the paper's
    other settings: without it LAXA2C solves InvertedPendulum on none of ten seeds, with it on five of five
    (scripts/results/table2_paper, table2_paper_apart). ``"distribution"`` needs no second pass and was nowhere shown to
    be worse than ``"weights"``; rates of 1e-3 and 1e-2, and five steps of φ, were not told apart from one step at 3e-3.
    ``n_critic_steps`` stays A2C's 1, so that the drop-in is one.

    Logged, besides A2C's keys:

    - ``train/grad_variance``: variance of the policy gradient as applied, over the steps of the batch, summed over the
      parameters of the action distribution (logits, or mean and log-std); never over the components of one gradient
    - ``train/grad_variance_no_cv``: the same for Â ∂ log π on the same batch; ``train/grad_variance_ratio``: their
      ratio
    - ``train/cv_loss``: φ's objective before its step; ``train/cv_learning_rate``: φ's learning rate
    - ``train/cv_gain``: η, the share of ĉ that was applied (with ``cv_guard``)
    - ``train/temperature``: τ, where actions are relaxed
    - ``train/grad_norm``: norm of the gradient of the whole loss before clipping

    What keeps the estimate unbiased, beside ĉ and η being fixed before the batch: ĉ must know nothing of what came
    after the action. A features extractor with batch normalisation lets a batch's later states into ĉ (and dropout
    makes the policy that is evaluated another than the one that acted): avoid both, as for A2C itself.

    torch's validation of distribution arguments is off during rollouts and updates (a tenth of A2C's time): rollouts
    are searched for NaN and infinity as a whole instead, before any weight changes.
    """

    #: spaces this class takes, and who takes the others
    action_spaces: ClassVar[tuple[type[spaces.Space], ...]]
    other_algorithm: ClassVar[str]
    #: the family of sb3-contrib's policies that this class takes; ``None``: SB3's own
    policy_base: ClassVar[str | None] = None

    control_variate: ControlVariate
    cv_optimizer: th.optim.Optimizer

    @refuses_unknown_arguments
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
        cv_learning_rate: float | Schedule = 3e-3,
        n_cv_steps: int = 1,
        cv_objective: str = "distribution",
        cv_guard: bool = True,
        cv_action_dependent: bool = True,
        n_critic_steps: int = 1,
        n_episodes: int | None = None,
        bootstrap_truncated: bool = True,
        max_episode_steps: int = 100_000,
    ):
        try:
            super().__init__(
                policy,
                env,
                learning_rate=learning_rate,
                n_steps=n_steps,
                gamma=gamma,
                gae_lambda=gae_lambda,
                ent_coef=ent_coef,
                vf_coef=vf_coef,
                max_grad_norm=max_grad_norm,
                rms_prop_eps=rms_prop_eps,
                use_rms_prop=use_rms_prop,
                use_sde=use_sde,
                sde_sample_freq=sde_sample_freq,
                rollout_buffer_class=rollout_buffer_class,
                rollout_buffer_kwargs=rollout_buffer_kwargs,
                normalize_advantage=normalize_advantage,
                stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log,
                policy_kwargs=policy_kwargs,
                verbose=verbose,
                seed=seed,
                device=device,
                _init_setup_model=False,
            )
        except AssertionError:
            # SB3 refuses Tuple and Dict actions with an assertion of its own
            if hasattr(self, "action_space"):
                self.require_action_space(self.action_space)
            raise
        require_policy_family(type(self).__name__, self.policy_class, self.policy_base)
        self.cv_learning_rate = cv_learning_rate
        self.n_cv_steps = n_cv_steps
        self.cv_objective = cv_objective
        self.cv_guard = cv_guard
        self.cv_action_dependent = cv_action_dependent
        self.n_critic_steps = n_critic_steps
        self.n_episodes = n_episodes
        self.bootstrap_truncated = bootstrap_truncated
        self.max_episode_steps = max_episode_steps
        if _init_setup_model:
            self._setup_model()

    # -- what an algorithm adds ---------------------------------------------------------------------------------------

    @abstractmethod
    def _estimator(self, surrogate: Surrogate) -> TwoPhaseEstimator:
        """The core's estimator for a batch, given c at the batch's states."""

    @abstractmethod
    def _cv_action_dim(self) -> int:
        """Size of the flattened action as ĉ sees it."""

    def _init_temperature(self) -> float | None:
        """τ at the start, ``None`` without relaxation."""
        return None

    def _cv_features_dim(self) -> int:
        """F, the size of what ĉ reads of the state."""
        return self.policy.features_dim

    def _listen(self, seen: list[th.Tensor]) -> list[RemovableHandle]:
        """Hooks by which one pass of the policy appends what ĉ reads of the state to ``seen``."""
        extractor = self.policy.vf_features_extractor
        return [extractor.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach()))]

    # What the policy needs beside observations and actions (masks, recurrent states), as keyword arguments: none.

    def _acting_context(self, env: VecEnv) -> dict[str, Any]:
        """For ``policy.forward()``, one entry per environment in each; stored in the rollout by the same names."""
        return {}

    def _context(self, data: RolloutBufferSamples) -> dict[str, Any]:
        """For :meth:`_evaluate` and :meth:`_predict_values`, from the rollout."""
        return {}

    def _predict_values(self, observations: PyTorchObs, **context: Any) -> th.Tensor:
        """V, ``[N]``."""
        return self.policy.predict_values(observations).flatten()

    # -- construction -------------------------------------------------------------------------------------------------

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name in self.policy_aliases:
            return super()._get_policy_from_name(policy_name)
        raise UsageError(
            f"{type(self).__name__} has no policy {policy_name!r}; it has {', '.join(self.policy_aliases)}"
            + other_taker(policy_name)
        )

    @classmethod
    def require_action_space(cls, action_space: spaces.Space) -> None:
        """Actions that this class takes.

        :raises UsageError: (a ``ValueError``) naming the class to use instead
        """
        if isinstance(action_space, cls.action_spaces):
            return
        accepted = ", ".join(kind.__name__ for kind in cls.action_spaces)
        advice = (
            f"use sb3_relax.{cls.other_algorithm} instead"
            if isinstance(action_space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary))
            else "flatten it to one of them (for Box use LAXA2C, for the discrete ones RELAXA2C)"
        )
        raise UsageError(f"{cls.__name__} takes {accepted} action spaces; got {action_space}: {advice}")

    def _check_hyperparameters(self) -> None:
        require_count("n_steps", self.n_steps)
        require_between("gamma", self.gamma, 0, 1)
        require_between("gae_lambda", self.gae_lambda, 0, 1)
        require_between("ent_coef", self.ent_coef, -np.inf)
        require_between("vf_coef", self.vf_coef, 0)
        require_between("max_grad_norm", self.max_grad_norm, 0)
        require_schedule("learning_rate", self.learning_rate)
        require_schedule("cv_learning_rate", self.cv_learning_rate)
        require_count("n_cv_steps", self.n_cv_steps)
        require_count("n_critic_steps", self.n_critic_steps)
        require_choice("cv_objective", self.cv_objective, CV_OBJECTIVES)
        require_count("max_episode_steps", self.max_episode_steps)
        if self.n_episodes is not None:
            require_count("n_episodes", self.n_episodes, low=self.n_envs)
        elif not self.bootstrap_truncated:
            raise UsageError(
                "bootstrap_truncated=False needs whole episodes: set n_episodes. "
                "With n_steps, truncated episodes are bootstrapped as SB3 does"
            )

    def _setup_lr_schedule(self) -> None:
        super()._setup_lr_schedule()
        self.cv_lr_schedule = FloatSchedule(self.cv_learning_rate)

    def _setup_model(self) -> None:
        self.require_action_space(self.action_space)
        self._check_hyperparameters()
        super()._setup_model()
        # One call per operation instead of one per weight; torch's own default on a GPU
        for group in self.policy.optimizer.param_groups:
            if "foreach" in group and group["foreach"] is None and not group.get("fused"):
                group["foreach"] = True
        # Weights are counted as the policy's (actor) or V's own (critic) by what they reach, once a batch is there
        self._reach: tuple[list[th.nn.Parameter], list[th.nn.Parameter]] | None = None
        # Making ĉ must not consume a random number that A2C would use; nor may the relaxation's noise later
        with th.random.fork_rng():
            seed = int(th.randint(2**31, ()))
            # nor may ĉ's weights be the numbers that A2C will use, those behind the actions
            th.manual_seed(_mixed(seed, "control variate"))
            arch = getattr(self.policy, "net_arch", [])
            self.control_variate = ControlVariate(
                self._cv_features_dim(),
                self._cv_action_dim(),
                control_variate_arch(arch),
                activation_fn=self.policy.activation_fn,
                init_temperature=self._init_temperature(),
                action_dependent=self.cv_action_dependent,
            ).to(self.device, dtype=next(self.policy.parameters()).dtype)
            self.noise_generator = th.Generator(device=self.device)
            self._seed_noise(seed)
            device, state = getattr(self, "noise_state", ("", np.empty(0, np.uint8)))
            if device == self.device.type:
                self.noise_generator.set_state(th.from_numpy(state))  # loaded: the stream goes on where it was saved
        phi = [p for p in self.control_variate.parameters() if p.requires_grad]
        self.cv_optimizer = th.optim.Adam(phi, lr=self.cv_lr_schedule(1.0), fused=True)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed everything A2C seeds, and the relaxation's noise."""
        super().set_random_seed(seed)
        if seed is not None and hasattr(self, "noise_generator"):
            self._seed_noise(seed)

    def _seed_noise(self, seed: int) -> None:
        # never the seed itself: torch's own generator has it, and the noise would be the numbers behind the actions
        self.noise_generator.manual_seed(_mixed(seed, "noise"))

    # -- collection ---------------------------------------------------------------------------------------------------

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """SB3's collection (or whole episodes), refusing NaN and infinity before any weight changes.

        :raises ValueError: for a reward, observation or policy weight that is not finite
        """
        try:
            with unchecked_distributions():
                completed = self._collect(env, callback, rollout_buffer, n_rollout_steps)
        except Exception:
            # a NaN makes torch or the environment fail in ways that do not say where it came from
            self._require_finite_policy()
            require_finite("observations", self._last_obs, steps=False)  # type: ignore[arg-type]
            raise
        if completed:
            try:
                require_finite("observations", rollout_buffer.observations)
                require_finite("observations", self._last_obs, steps=False)  # type: ignore[arg-type]
                require_finite("rewards", rollout_buffer.rewards)
            except ValueError:
                self._require_finite_policy()
                raise
        return completed

    def _collect(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        if self.n_episodes is None:
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        return collect_episodes(self, env, callback, rollout_buffer, self.n_episodes)

    def _require_finite_policy(self) -> None:
        for name, parameter in self.policy.named_parameters():
            if not parameter.isfinite().all():
                raise ValueError(
                    f"the policy's weights must be finite, but {name} is not after {self._n_updates} updates: "
                    "lower learning_rate or max_grad_norm"
                )

    # -- one update ---------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Update policy, V and ĉ from the current rollout (one joint step over the whole batch)."""
        self.policy.set_training_mode(True)
        require_rate("learning_rate", self.lr_schedule(self._current_progress_remaining))
        self._update_learning_rate(self.policy.optimizer)
        with unchecked_distributions():
            for data in self.rollout_buffer.get(batch_size=None):
                self._update(data)
        explained_var = explained_variance(self.rollout_buffer.values.flatten(), self.rollout_buffer.returns.flatten())
        self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/explained_variance", explained_var)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())

    def _update(self, data: RolloutBufferSamples) -> None:
        context = self._context(data)
        step = self._evaluate(data.observations, data.actions, **context)
        advantages = self._normalized(data.advantages.to(step.values.dtype))
        returns = data.returns.to(step.values.dtype)

        estimate = self._estimate(step, advantages)
        grad = self._applied(estimate)
        value_loss = F.mse_loss(returns, step.values)
        loss = self.vf_coef * value_loss
        entropy = -step.log_prob if step.entropy is None else step.entropy
        entropy_loss = -entropy.mean()
        if self.ent_coef != 0:
            loss = loss + self.ent_coef * entropy_loss

        _clear_gradients(self.policy.optimizer)
        cv_loss = self._backward(loss, estimate, grad)
        self._fit_control_variate(step, advantages)
        grad_norm = th.nn.utils.clip_grad_norm_(_parameters(self.policy.optimizer), self.max_grad_norm)
        self.policy.optimizer.step()
        self._fit_critic(data.observations, returns, **context)

        moments = change_moments(estimate.score_term, estimate.grad, step.latent.event_ndim)
        self.logger.record("train/entropy_loss", entropy_loss.item())
        self.logger.record("train/policy_loss", -(advantages * step.log_prob.detach()).mean().item())
        self.logger.record("train/value_loss", value_loss.item())
        self.logger.record("train/grad_norm", grad_norm.item())
        self.logger.record("train/cv_loss", moments.square_at(1) if cv_loss is None else cv_loss.item())
        self._record_variance(moments)
        self.control_variate.statistics.update(advantages.square().mean().item(), moments, estimate.samples)

    def _normalized(self, advantages: th.Tensor) -> th.Tensor:
        """Â of a batch in the units that training takes it in, ``[N]``."""
        if not self.normalize_advantage or len(advantages) <= 1:
            return advantages  # one alone has no standard deviation, and stays as it is, as in PPO
        # ĉ lives in the same units: it is subtracted from, and corrects, the normalised advantage
        return (advantages - advantages.mean()) / (advantages.std() + 1e-8)

    def _evaluate(self, observations: PyTorchObs, actions: th.Tensor, **context: Any) -> Evaluation:
        """V, the action distribution and the features, in one pass of the policy as A2C makes it."""
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        elif isinstance(self.action_space, spaces.MultiBinary):
            # torch's Bernoulli compares bits in the logits' dtype, and the buffer holds float32
            actions = actions.to(next(self.policy.parameters()).dtype)
        seen: list[th.Tensor] = []
        hooks = self._listen(seen)
        try:
            values, log_prob, entropy = self.policy.evaluate_actions(observations, actions, **context)
        finally:
            for hook in hooks:
                hook.remove()
        if not seen:
            raise TypeError(
                f"{type(self.policy).__name__}.evaluate_actions() does not call its features extractor, "
                "so the control variate has no state to read"
            )
        # SB3's policies keep the distribution they have just evaluated
        distribution = self.policy.action_dist
        latent = to_latent(distribution)
        if self._reach is None:
            if not th.allclose(distribution.log_prob(actions), log_prob, rtol=1e-4, atol=1e-4):
                raise TypeError(
                    f"{type(self.policy).__name__}.evaluate_actions() does not evaluate its own action_dist, "
                    "so the action distribution's parameters cannot be read from it"
                )
            self._reach = self._find_reach(latent, values)
        return Evaluation(
            latent, to_sample(distribution, latent, actions), seen[-1], values.flatten(), log_prob, entropy
        )

    def _find_reach(self, latent: Latent, values: th.Tensor) -> tuple[list[th.nn.Parameter], list[th.nn.Parameter]]:
        """The weights that the action distribution depends on, and those that V alone depends on."""
        weights = [p for p in self.policy.parameters() if p.requires_grad]
        to_actor = th.autograd.grad(latent.theta.sum(), weights, retain_graph=True, allow_unused=True)
        to_value = th.autograd.grad(values.sum(), weights, retain_graph=True, allow_unused=True)
        actor = [p for p, g in zip(weights, to_actor, strict=True) if g is not None]
        critic = [p for p, a, v in zip(weights, to_actor, to_value, strict=True) if a is None and v is not None]
        if self.n_critic_steps > 1 and not critic:
            raise UsageError("n_critic_steps > 1 needs weights that V alone depends on; this policy shares them all")
        return actor, critic

    def _estimate(self, step: Evaluation, advantages: th.Tensor, noise: th.Tensor | None = None) -> Estimate:
        """ĝ per step at the distribution's parameters, ĉ in full: train() and policy_gradient() both start here."""
        c = self.control_variate.bind(step.latent, step.features)
        return self._estimator(c).finish(step.latent, step.sample, advantages, noise, self.noise_generator)

    def _applied(self, estimate: Estimate) -> th.Tensor:
        """ĝ per step as it is applied: with ĉ in full, or with the share that earlier batches speak for."""
        if not self.cv_guard:
            return estimate.grad
        return th.lerp(estimate.score_term, estimate.grad, self.control_variate.statistics.gain)

    def _divisor(self, n_steps: int) -> float:
        """What the sum of ĝ over a batch of ``n_steps`` is divided by: the number of steps.

        Whole episodes are divided by what earlier batches lead to expect of their length, not by their own: a number of
        steps that depends on the actions, below a sum whose mean is zero, would leave a mean. The first batch has none
        before it. Any number that does not look at it is unbiased; this one is the longest it could be, so that the
        first step of the policy may be too small to matter, and never too large.
        """
        if self.n_episodes is None:
            return n_steps
        return self.control_variate.statistics.steps or self.n_episodes * self.max_episode_steps

    def _backward(self, loss: th.Tensor, estimate: Estimate, grad: th.Tensor) -> th.Tensor | None:
        """Gradients of ``loss`` and of the policy's part (ascent along ``grad``) into the policy, Eq 6's into φ alone.

        :return: φ's objective where it is not the mean of ‖ĝ‖² at the distribution's parameters
        """
        _clear_gradients(self.cv_optimizer)
        roots, vectors = [loss, estimate.latent.theta], [None, grad / -self._divisor(estimate.samples)]
        if self.cv_objective == "distribution":
            # ∂φ mean ‖ĝ‖² = 2/N ĝ · ∂φ ĝ. ĝ's graph holds nothing but φ (θ, features and advantages are detached), so
            # one pass serves both
            th.autograd.backward([*roots, estimate.grad_with_graph], [*vectors, estimate.grad * (2 / estimate.samples)])
            return None
        objective = self._weight_objective(estimate)
        self._set_cv_gradient(objective)
        th.autograd.backward(roots, vectors, retain_graph=self.n_cv_steps > 1)
        return objective

    def _weight_objective(self, estimate: Estimate) -> th.Tensor:
        """‖mean ĝ‖² at the policy's weights, whose graph runs through the policy: never to be backpropagated whole."""
        assert self._reach is not None
        at_weights = th.autograd.grad(
            estimate.latent.theta,
            self._reach[0],
            estimate.grad_with_graph / estimate.samples,
            create_graph=True,
            retain_graph=True,
        )
        return th.stack([gradient.square().sum() for gradient in at_weights]).sum()

    def _set_cv_gradient(self, objective: th.Tensor) -> None:
        phi = _parameters(self.cv_optimizer)
        for parameter, gradient in zip(phi, th.autograd.grad(objective, phi, retain_graph=True), strict=True):
            parameter.grad = gradient

    def _fit_control_variate(self, step: Evaluation, advantages: th.Tensor) -> None:
        """Steps of φ; the first's gradient is there already."""
        rate = require_rate("cv_learning_rate", self.cv_lr_schedule(self._current_progress_remaining))
        self.logger.record("train/cv_learning_rate", rate)
        update_learning_rate(self.cv_optimizer, rate)
        self.cv_optimizer.step()
        for _ in range(self.n_cv_steps - 1):
            again = self._estimate(step, advantages)
            self._set_cv_gradient(
                again.objective if self.cv_objective == "distribution" else self._weight_objective(again)
            )
            self.cv_optimizer.step()

    def _fit_critic(self, observations: PyTorchObs, returns: th.Tensor, **context: Any) -> None:
        """V's steps beyond the joint one, on weights the policy does not share.

        The optimizer skips what has no gradient, so the policy's moments stay untouched.
        """
        assert self._reach is not None
        critic = self._reach[1]
        for _ in range(self.n_critic_steps - 1):
            value_loss = F.mse_loss(returns, self._predict_values(observations, **context))
            gradients = th.autograd.grad(self.vf_coef * value_loss, critic)
            _clear_gradients(self.policy.optimizer)
            for parameter, gradient in zip(critic, gradients, strict=True):
                parameter.grad = gradient
            th.nn.utils.clip_grad_norm_(critic, self.max_grad_norm)
            self.policy.optimizer.step()

    def _record_variance(self, moments: ChangeMoments) -> None:
        without = moments.variance_at(0)
        gain = self.control_variate.statistics.gain if self.cv_guard else 1.0
        variance = moments.variance_at(gain)
        self.logger.record("train/grad_variance", variance)
        self.logger.record("train/grad_variance_no_cv", without)
        self.logger.record("train/grad_variance_ratio", variance / without if without > 0 else float("nan"))
        if self.cv_guard:
            self.logger.record("train/cv_gain", gain)
        if self.control_variate.log_temperature is not None:
            self.logger.record("train/temperature", self.control_variate.log_temperature.exp().item())

    # -- public -------------------------------------------------------------------------------------------------------

    def policy_gradient(
        self,
        observations: PyTorchObs | np.ndarray,
        actions: th.Tensor | np.ndarray,
        advantages: th.Tensor | np.ndarray,
        **context: Any,
    ) -> dict[str, th.Tensor]:
        """The estimator's gradient for every policy parameter: ascent, batch mean, before entropy and clipping.

        The sum over the batch is divided as train() divides it: by N or, with ``n_episodes``, by the number of steps
        that earlier updates lead to expect (before the first, by the most there could be: ``n_episodes`` times
        ``max_episode_steps``).

        It is what train() applies (Eq 5 for LAXA2C, Eq 8 for RELAXA2C, carried to the policy's weights). Weights that
        the action distribution does not depend on (V's own) get zeros. Relaxation noise comes from
        ``noise_generator``.

        :param observations: ``[N, *obs_shape]`` (a dict of such for MultiInput), as the policy receives them
        :param actions: ``[N]`` or ``[N, D]``, as the rollout buffer stores them (squashed Box actions in [-1, 1])
        :param advantages: Â, ``[N]``, used as they are
        :param context: what the policy's ``evaluate_actions()`` takes beside them: ``action_masks`` with
            MaskableRELAXA2C, for one
        :return: name (as in ``policy.named_parameters()``) → gradient of that parameter's shape
        :raises ValueError: for advantages not of shape ``[N]``

        Give it a fresh batch to measure a bias or a variance: φ and η were fitted on the rollout of the last update.

        Example::

            data = next(model.rollout_buffer.get())
            gradient = model.policy_gradient(data.observations, data.actions, data.advantages)
        """
        if not isinstance(observations, th.Tensor) and not _is_tensor_dict(observations):
            observations = obs_as_tensor(observations, self.device)  # type: ignore[arg-type]
        actions = th.as_tensor(actions, device=self.device)
        if isinstance(self.action_space, spaces.Box):
            actions = actions.flatten(1)
        step = self._evaluate(observations, actions, **context)  # type: ignore[arg-type]
        advantages = th.as_tensor(advantages, device=self.device).to(step.values.dtype)
        if advantages.shape != step.values.shape:
            raise ValueError(f"advantages must have shape {tuple(step.values.shape)}; got {tuple(advantages.shape)}")
        estimate = self._estimate(step, advantages)
        named = {name: p for name, p in self.policy.named_parameters() if p.requires_grad}
        gradients = th.autograd.grad(
            estimate.latent.theta,
            list(named.values()),
            self._applied(estimate) / self._divisor(estimate.samples),
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(named, gradients, strict=True))

    def learn(
        self: SelfSurrogateA2C,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfSurrogateA2C:
        """As A2C's; ``tb_log_name`` defaults to the class's name."""
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name or type(self).__name__,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )

    # -- persistence --------------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls: type[SelfSurrogateA2C], path: Any, *args: Any, seed: int | None = None, **kwargs: Any
    ) -> SelfSurrogateA2C:
        """As SB3's. The relaxation's noise goes on where it was saved, unless a ``seed`` is given.

        :param path: of the file, or the file
        :param seed: replaces the one saved, and starts every stream of random numbers anew
        :raises UsageError: (a ``ValueError``) for an agent of another class, naming that class, and for a
            ``cv_action_dependent`` that is not the saved one
        """
        if seed is not None:
            kwargs["seed"] = seed
        try:
            model = super().load(path, *args, **kwargs)
        except Exception:
            # another class's agent fails in many ways; only then is the file read again, to see whose it is
            require_own_file(cls, path, kwargs.get("custom_objects"), kwargs.get("cv_action_dependent"))
            raise
        if seed is not None:
            model._seed_noise(seed)
        return model

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_reach", "noise_generator"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        # in the order they are set: what may be refused, ĉ by cv_action_dependent, before the policy has changed
        return ["control_variate", "cv_optimizer", "policy", "policy.optimizer"], []

    def save(
        self, path: str | pathlib.Path | Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
    ) -> None:
        """As SB3's, but atomic for a path: a kill or a full disk leaves the previous file whole."""
        self.noise_state = (self.device.type, self.noise_generator.get_state().numpy())
        if not isinstance(path, (str, pathlib.Path)):
            super().save(path, exclude, include)
            return
        path = pathlib.Path(path)
        if path.suffix == "":
            path = path.with_suffix(".zip")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                super().save(file, exclude, include)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _mixed(seed: int, purpose: str) -> int:
    """A seed whose stream has nothing in common with that of ``seed``, nor with another purpose's."""
    (mixed,) = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)
    return int(mixed >> 1)


def _parameters(optimizer: th.optim.Optimizer) -> list[th.nn.Parameter]:
    """What an optimizer steps: quicker than walking the module for it, several times an update."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _clear_gradients(optimizer: th.optim.Optimizer) -> None:
    """``zero_grad()`` without its profiler hooks, which take longer than the work."""
    for parameter in _parameters(optimizer):
        parameter.grad = None


def _is_tensor_dict(observations: Any) -> bool:
    return isinstance(observations, dict) and all(isinstance(value, th.Tensor) for value in observations.values())
