"""A2C with its policy loss replaced by a control-variate estimator: the one train() that all algorithms share."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance, obs_as_tensor, update_learning_rate

from sb3_relax.algorithm.collection import Collection
from sb3_relax.algorithm.finite import require_finite_step
from sb3_relax.algorithm.persistence import Persistence, mixed_seed
from sb3_relax.algorithm.presets import takes_preset
from sb3_relax.algorithm.requirements import (
    require_action_space,
    require_extractor_of_parts,
    require_fresh_noise,
    require_long_rollouts,
    require_observation_space,
    require_own_std,
    require_policy_family,
    unknown_policy,
)
from sb3_relax.algorithm.signature import full_signature
from sb3_relax.algorithm.tensorboard import and_the_answer, run_name
from sb3_relax.algorithm.workers import WatchedWorkers
from sb3_relax.control_variates.base import ControlVariate, checked_fit, checked_gradient
from sb3_relax.control_variates.finite import finite_or_plain
from sb3_relax.control_variates.guard import Guarded
from sb3_relax.control_variates.registry import make_control_variate
from sb3_relax.errors import UsageError, refuse_unknown_arguments
from sb3_relax.estimators import Estimate
from sb3_relax.policy_gradient.action_scale import set_action_std
from sb3_relax.policy_gradient.action_spaces import act_in, as_sb3_counts
from sb3_relax.policy_gradient.advantage_scale import AdvantageScale
from sb3_relax.policy_gradient.critic import Critic
from sb3_relax.policy_gradient.distribution_graphs import forget_graph
from sb3_relax.policy_gradient.evaluation_mode import set_training_mode
from sb3_relax.policy_gradient.expected_steps import ExpectedSteps
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters, check_a2c, scheduled_values
from sb3_relax.policy_gradient.observation_scale import ObservationScale, normalize_observations_in, scale_of
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView
from sb3_relax.policy_gradient.rollout import Rollout
from sb3_relax.policy_gradient.several_categoricals import in_one_batch
from sb3_relax.policy_gradient.unchecked_distributions import unchecked_distributions
from sb3_relax.policy_gradient.update_rules.registry import make_update_rule

SelfControlVariateA2C = TypeVar("SelfControlVariateA2C", bound="ControlVariateA2C")


class ControlVariateA2C(Persistence, Collection, WatchedWorkers, A2C):
    """A2C whose score function is corrected by a control variate; see LAXA2C and RELAXA2C.

    Takes A2C's arguments in A2C's order with A2C's defaults, and after them, by keyword, those of
    :class:`~sb3_relax.policy_gradient.Hyperparameters`. With ``preset="fast"`` all that is not given has the values of
    :data:`~sb3_relax.algorithm.presets.PRESETS` in the place of A2C's defaults.

    Four parts that do not know each other make an update. They are attributes, made with the policy: ``view`` (a
    :class:`~sb3_relax.policy_gradient.PolicyView`), ``control_variate`` (a
    :class:`~sb3_relax.control_variates.ControlVariate`), ``update_rule`` (an
    :class:`~sb3_relax.policy_gradient.UpdateRule`) and ``critic`` (a :class:`~sb3_relax.policy_gradient.Critic`).

    Logged, besides A2C's keys:

    - ``train/grad_variance``: variance of the policy gradient as applied, over the steps of the batch, summed over the
      parameters of the action distribution (logits, or mean and log-std); never over the components of one gradient
    - ``train/grad_variance_no_cv``: the same for Â ∂ log π on the same batch; ``train/grad_variance_ratio``: their
      ratio
    - ``train/cv_loss``: φ's objective before its step; ``train/cv_learning_rate``: φ's learning rate
    - ``train/cv_gain``: η, the share of ĉ that was applied (with ``cv_guard``)
    - ``train/temperature``: τ, where actions are relaxed
    - ``train/grad_norm``: norm of the gradient of the whole loss before clipping
    - ``train/kl``, ``train/step_size``, ``train/damping``: of a natural gradient's step
      (:class:`~sb3_relax.policy_gradient.NaturalGradient`)

    What keeps the estimate unbiased, beside ĉ and η being fixed before the batch: ĉ must know nothing of what came
    after the action. A features extractor with batch normalisation lets a batch's later states into ĉ (and dropout
    makes the policy that is evaluated another than the one that acted): avoid both, as for A2C itself.

    torch's validation of distribution arguments is off during rollouts and updates (a tenth of A2C's time). In its
    place actions are looked at before the environment gets them, rollouts as a whole before any weight changes, and the
    weights after every update. What is not finite there ends training, with an error that says where it is, what has
    probably made it so, and what to do.
    """

    #: spaces this class takes
    action_spaces: ClassVar[tuple[type[spaces.Space], ...]]
    #: the family of policies that this class takes; ``None``: SB3's own
    policy_base: ClassVar[str | None] = None
    #: the class of what it takes beside A2C's arguments
    hyperparameters: ClassVar[type[Hyperparameters]] = Hyperparameters
    #: arguments that a preset does not set, since the class refuses their values
    not_of_presets: ClassVar[tuple[str, ...]] = ()
    #: how it reads policies and rollout buffers
    view_class: ClassVar[type[PolicyView]] = PolicyView
    rollout_class: ClassVar[type[Rollout]] = Rollout
    #: from a policy's distribution to the same one with all its variables in one batch
    batching: ClassVar[staticmethod[[Any], Distribution]] = staticmethod(in_one_batch)

    control_variate: ControlVariate
    cv_learning_rate: float | Schedule
    normalize_advantage: bool | str  # type: ignore[assignment]
    ent_coef: float | Schedule  # type: ignore[assignment]
    vf_coef: float | Schedule  # type: ignore[assignment]
    normalize_observations: bool
    critic_learning_rate: float | Schedule | None
    n_critic_steps: int

    @takes_preset
    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float | Schedule = 0.0,
        vf_coef: float | Schedule = 0.5,
        max_grad_norm: float = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool | str = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        **hyperparameters: Any,
    ):
        refuse_unknown_arguments(type(self), hyperparameters, self.hyperparameters.names())
        values = self.hyperparameters(**hyperparameters)
        try:
            super().__init__(
                policy,
                env,
                learning_rate=learning_rate,
                n_steps=n_steps,
                gamma=gamma,
                gae_lambda=gae_lambda,
                ent_coef=ent_coef,  # type: ignore[arg-type]
                vf_coef=vf_coef,  # type: ignore[arg-type]
                max_grad_norm=max_grad_norm,
                rms_prop_eps=rms_prop_eps,
                use_rms_prop=use_rms_prop,
                use_sde=use_sde,
                sde_sample_freq=sde_sample_freq,
                rollout_buffer_class=rollout_buffer_class,
                rollout_buffer_kwargs=rollout_buffer_kwargs,
                normalize_advantage=normalize_advantage,  # type: ignore[arg-type]
                stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log,
                policy_kwargs=policy_kwargs,
                verbose=verbose,
                seed=seed,
                device=device,
                _init_setup_model=False,
            )
        except AssertionError:
            # SB3 refuses actions with an assertion of its own
            if hasattr(self, "action_space"):
                self.require_action_space(self.action_space)
            raise
        require_policy_family(type(self), self.policy_class)
        values.store(self)
        if _init_setup_model:
            self._setup_model()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # a class with a constructor of its own shows that one
        own = cls.__init__ is not ControlVariateA2C.__init__
        cls.__signature__ = None if own else full_signature(cls)  # type: ignore[attr-defined]

    # -- construction -------------------------------------------------------------------------------------------------

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            raise unknown_policy(type(self), policy_name)
        return super()._get_policy_from_name(policy_name)

    @classmethod
    def require_action_space(cls, action_space: spaces.Space) -> None:
        """Actions that this class takes.

        :raises UsageError: (a ``ValueError``) naming the class to use instead, or what to change in the environment
        """
        require_action_space(cls, action_space)

    def _setup_lr_schedule(self) -> None:
        super()._setup_lr_schedule()
        self.cv_lr_schedule = FloatSchedule(self.cv_learning_rate)

    def _setup_model(self) -> None:
        values = self.check_hyperparameters()
        # SB3 makes networks and buffers for actions as it counts them; the policy acts as the environment counts them
        action_space = self.action_space
        self.action_space = as_sb3_counts(action_space)
        try:
            super()._setup_model()
        finally:
            self.action_space = action_space
        require_extractor_of_parts(type(self), self.policy)  # before anything is put around the extractor
        if self.seed is not None:
            action_space.seed(self.seed)
        self.policy.action_dist = self.batching(self.policy.action_dist)
        act_in(self.policy, action_space)
        # One call per operation instead of one per weight; torch's own default on a GPU
        for group in self.policy.optimizer.param_groups:
            if "foreach" in group and group["foreach"] is None and not group.get("fused"):
                group["foreach"] = True
        if values.initial_action_std is not None:
            set_action_std(self.policy, action_space, values.initial_action_std)
        if values.normalize_observations:
            normalize_observations_in(self.policy)
        self.view = self.view_class(self.policy)
        self.critic = self.make_critic()
        longest = None if values.n_episodes is None else values.n_episodes * values.max_episode_steps
        self.expected_steps = ExpectedSteps(longest).to(self.device)
        self.advantage_scale = AdvantageScale().to(self.device)
        # Making ĉ must not consume a random number that A2C would use; nor may the relaxation's noise later
        with th.random.fork_rng():
            seed = int(th.randint(2**31, ()))
            # nor may ĉ's weights be the numbers that A2C will use, those behind the actions
            th.manual_seed(mixed_seed(seed, "control variate"))
            spec = values.default_control_variate if values.control_variate is None else values.control_variate
            variate = make_control_variate(spec, self.view, values)
            self.control_variate = (
                Guarded(variate).to(self.device, dtype=self.view.dtype) if values.cv_guard else variate
            )
            require_fresh_noise(variate, self.policy, self.use_sde, self.sde_sample_freq)
            if values.n_episodes is None:
                require_long_rollouts(variate, self.n_steps)
            self.update_rule = make_update_rule(values.update_rule, self.view, values)
            self._setup_noise(seed)
        self.view.twice_differentiable = (
            self.control_variate.needs_second_derivative or self.update_rule.needs_second_derivative
        )

    def make_critic(self) -> Critic:
        """The fit of the policy's V."""
        return Critic(self.view, self.hyperparameters.of(self)).to(self.device)

    def check_hyperparameters(self) -> Hyperparameters:
        """All hyper-parameters as they are now.

        :raises UsageError: for a value out of range, or a space that this class does not take
        """
        self.require_action_space(self.action_space)
        require_observation_space(self.observation_space)
        check_a2c(self)
        values = self.hyperparameters.of(self)
        values.check(self.action_space, self.n_envs)
        if values.initial_action_std is not None:
            require_own_std(self.use_sde, self.policy_kwargs)
        return values

    # -- one update ---------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Update policy, V and ĉ from the current rollout (one joint step over the whole batch).

        :raises UsageError: (a ``ValueError``) where a step has made a weight NaN or infinite, naming it and the rate
        """
        if self.view.policy is not self.policy:  # somebody put another policy into the agent
            require_scale(scale_of(self.policy), self.normalize_observations)
            before = self.view.policy
            self.view.follow(self.policy)
            try:
                self.control_variate.forget()
            except UsageError:
                self.view.follow(before)  # so that the next update refuses it as well
                raise
            self.critic = self.make_critic()
            # what a rule has averaged, such as earlier gradients, is of the policy before
            values = self.hyperparameters.of(self)
            self.update_rule = make_update_rule(values.update_rule, self.view, values)
        set_training_mode(self.policy, True)
        now = scheduled_values(self, self._current_progress_remaining)
        update_learning_rate(self.policy.optimizer, now["learning_rate"])
        self.control_variate.set_learning_rate(now["cv_learning_rate"])
        self.critic.set_learning_rate(now.get("critic_learning_rate", now["learning_rate"]))

        with unchecked_distributions():
            rollout = self.rollout_class.of(self.rollout_buffer, self.time_limits)
            self.control_variate.prepare(rollout, self.noise_generator)
            for batch in rollout.batches(self.view.dtype):
                output = self.view.evaluate(batch.observations, batch.actions, **batch.context)
                advantages = self.normalized(batch.advantages)

                # ĝ in the place of A2C's policy loss: ĉ and its share are as earlier batches left them
                variate = self.control_variate
                estimate = checked_gradient(variate, output, advantages, self.noise_generator)
                applied = finite_or_plain(estimate)
                # ĉ learns from the batch it was used on, before the weights move that its objective may run through
                fitted = checked_fit(variate, output, advantages, estimate, self.noise_generator)

                # the rest of A2C's loss, and one step along all of it
                value_loss = self.critic.joint_loss(output, batch)
                entropy_loss = -(-output.log_prob if output.entropy is None else output.entropy).mean()
                loss = now["vf_coef"] * value_loss
                if now["ent_coef"] != 0:
                    loss = loss + now["ent_coef"] * entropy_loss
                divisor = self.expected_steps.divisor(estimate.samples)
                grad_norm = self.update_rule.step(output, applied, loss, divisor, self.max_grad_norm)

                # V's further steps, on weights that the policy does not share
                self.critic.fit(batch, rollout, now["vf_coef"], self.max_grad_norm, self.noise_generator)
                require_finite_step(self, now, self._n_updates + 1)

                # what the next batch may know of this one
                self.critic.remember(batch, rollout, *self.after_rollout())
                variate.observe(estimate)
                self.expected_steps.observe(estimate.samples)
                if self.normalize_advantage == "running":
                    self.advantage_scale.observe(batch.advantages)
        scale = scale_of(self.policy) if self.normalize_observations else None
        if scale is not None:
            # the policy was one and the same throughout its rollout and this update; its next rollout is another's
            scale.observe(rollout.observations)
        forget_graph(self.policy.action_dist)
        if applied is not estimate:
            warn_of(self.control_variate)

        self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        explained = explained_variance(rollout.values.ravel(), rollout.returns.ravel())
        self.logger.record("train/explained_variance", explained)
        self.logger.record("train/entropy_loss", entropy_loss.item())
        self.logger.record("train/policy_loss", -(advantages * output.log_prob.detach()).mean().item())
        self.logger.record("train/value_loss", value_loss.item())
        self.logger.record("train/grad_norm", grad_norm)
        for name, value in now.items():
            # a coefficient that never changes is no curve
            if name.endswith("learning_rate") or callable(getattr(self, name)):
                self.logger.record(f"train/{name}", value)
        for name, value in {**fitted, **gradient_variance(applied), **self.update_rule.measured()}.items():
            self.logger.record(f"train/{name}", value)
        if self.update_rule.note:
            self.logger.info(self.update_rule.note)
            self.update_rule.note = ""
        if hasattr(self.policy, "log_std") and self.policy.log_std.numel() > 0:
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())

    def normalized(self, advantages: th.Tensor) -> th.Tensor:
        """Â of a batch in the units that training takes it in, ``[N]``."""
        unit = advantage_unit(self, advantages)
        if unit is None:
            return advantages
        # ĉ lives in the same units: it is subtracted from, and corrects, the normalised advantage
        return (advantages if self.normalize_advantage == "running" else advantages - advantages.mean()) / unit

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
        if not isinstance(self.action_space, spaces.Discrete):
            actions = actions.reshape(len(actions), -1)
        output: PolicyOutput = self.view.evaluate(observations, actions, **context)  # type: ignore[arg-type]
        advantages = th.as_tensor(advantages, device=self.device).to(output.values.dtype)
        if advantages.shape != output.values.shape:
            raise ValueError(f"advantages must have shape {tuple(output.values.shape)}; got {tuple(advantages.shape)}")
        estimate = checked_gradient(self.control_variate, output, advantages, self.noise_generator)
        named = {name: p for name, p in self.policy.named_parameters() if p.requires_grad}
        gradients = th.autograd.grad(
            estimate.latent.theta,
            list(named.values()),
            estimate.grad / self.expected_steps.divisor(estimate.samples),
            allow_unused=True,
            materialize_grads=True,
        )
        forget_graph(self.policy.action_dist)
        return dict(zip(named, gradients, strict=True))

    def learn(
        self: SelfControlVariateA2C,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfControlVariateA2C:
        """As A2C's; ``tb_log_name`` defaults to the class's name, and the control variate's where that is another.

        With tensorboard, its tab "Custom Scalars" is laid out, and answers first whether the control variate helps.
        """
        require_fresh_noise(self.control_variate, self.policy, self.use_sde, self.sde_sample_freq)  # as they are now
        # without a place for it the callback would do nothing, a little of it at every step
        to_tensorboard = self.tensorboard_log is not None or self._custom_logger
        return super().learn(
            total_timesteps=total_timesteps,
            callback=and_the_answer(callback) if to_tensorboard else callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name or run_name(self),
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )


def advantage_unit(model: ControlVariateA2C, advantages: th.Tensor) -> th.Tensor | float | None:
    """What training divides Â of a batch by, or ``None`` where it is taken as it is.

    :param advantages: of the batch, ``[N]``
    """
    if model.normalize_advantage == "running":
        return model.advantage_scale.value
    if not model.normalize_advantage or len(advantages) <= 1:
        return None  # one alone has no standard deviation, and stays as it is, as in PPO
    return advantages.std() + 1e-8


def require_scale(scale: ObservationScale | None, wanted: bool) -> None:
    """:raises UsageError: for a policy that does not treat observations as the agent it was put into."""
    if wanted != (scale is not None):
        raise UsageError(
            f"the policy that was put into this agent {'does not normalise' if wanted else 'normalises'} observations: "
            f"make the agent with normalize_observations={not wanted}"
        )


def warn_of(control_variate: ControlVariate) -> None:
    """Say, once, that a control variate is left out since its weights are not finite."""
    if not all(bool(value.isfinite().all()) for value in control_variate.state_dict().values()):
        remedy = "" if control_variate.optimizer is None else " with a lower cv_learning_rate"
        warnings.warn(
            "weights or statistics of the control variate are infinite or NaN: it is left out, and training goes on as "
            f"A2C's. Begin with a new agent{remedy}",
            stacklevel=3,
        )


def gradient_variance(estimate: Estimate) -> dict[str, float]:
    """What is logged of an estimate's variance over the steps of its batch, with the control variate and without."""
    variance, without = estimate.moments.variance_at(1), estimate.moments.variance_at(0)
    ratio = variance / without if without > 0 else float("nan")
    return {"grad_variance": variance, "grad_variance_no_cv": without, "grad_variance_ratio": ratio}


def _is_tensor_dict(observations: Any) -> bool:
    return isinstance(observations, dict) and all(isinstance(value, th.Tensor) for value in observations.values())
