"""The hyper-parameters that are ours, beside A2C's: names, defaults, meaning and limits, once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import Any, NamedTuple, TypeVar

from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import Schedule

from sb3_relax.errors import UsageError, require_choice, require_count, require_rate, require_schedule, require_within
from sb3_relax.estimators.latents import MAX_SUPPORT
from sb3_relax.policy_gradient.action_spaces import as_sb3_counts

SelfHyperparameters = TypeVar("SelfHyperparameters", bound="Hyperparameters")

CV_OBJECTIVES = ("distribution", "weights")
CORRECTIONS = ("coupled", "relaxed", "exact")

#: arguments of A2C that are none of its hyper-parameters
NO_HYPERPARAMETERS = {
    "self", "policy", "env", "stats_window_size", "tensorboard_log", "verbose", "device", "_init_setup_model",
}  # fmt: skip

#: A2C's coefficients that may be schedules here, and the least that each may be
COEFFICIENTS = {"ent_coef": -math.inf, "vf_coef": 0.0}

#: the default of ``target_kl`` in older files, which also hold it where it has no effect
EARLIER_TARGET_KL = 0.005

#: those that an algorithm keeps under another name, since the part that is made of it has its own
ATTRIBUTES = {"control_variate": "control_variate_spec", "update_rule": "update_rule_spec"}


class LogRange(NamedTuple):
    """Searched between two numbers, uniformly in their logarithm."""

    low: float
    high: float


class Choices(NamedTuple):
    """Searched among a few values."""

    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """What every algorithm of this package takes beside A2C's arguments, by keyword.

    The constructors' checks, copies of an agent, the zoo's search, tensorboard's table of hyper-parameters and the
    documentation all read this class. An algorithm keeps each value as an attribute of its own name.

    :param cv_learning_rate: φ's own learning rate (Adam), a number or a schedule; 0 leaves ĉ = 0, which is A2C (with
        ``control_variate``, A2C is ``"none"``). ĉ is scaled by the size of earlier advantages, so one rate serves all
        reward scales
    :param n_cv_steps: steps of φ per update, each with relaxation noise of its own
    :param cv_objective: what trains φ. ``"distribution"``: Σ_t ‖ĝ_t‖² at the distribution's parameters (Eq 6, cheap).
        ``"weights"``: ‖Σ_t ĝ_t‖² at the policy's weights (the paper's), by a second pass through the policy
    :param cv_guard: apply only the share η of ĉ that lowered the variance in earlier batches (still unbiased, since η
        is fixed before the batch); switched off, ĉ is applied in full, as in the paper
    :param cv_action_dependent: ĉ(a, s); switched off, ĉ(s): a state baseline on top of V, without a correction, which
        the objective leads to the variance-optimal E[‖∂ log π‖² Â | s] / E[‖∂ log π‖² | s] (Greensmith et al. 2004;
        the norm at the distribution's parameters or, with ``cv_objective="weights"``, at the policy's weights). It is
        the control without which no gain can be put down to the actions
    :param control_variate: another control variate than the algorithm's own: a name of
        :data:`~sb3_relax.control_variates.CONTROL_VARIATES`, or several with a plus between them, a function of (view,
        hyperparameters) that makes one, such as the class itself, or one of the estimator core's ``TwoPhaseEstimator``
        (the class, or one made, which is copied), whose c reads the action alone, or the action and θ
    :param update_rule: how the estimate becomes a step of the policy's weights: a name of
        :data:`~sb3_relax.policy_gradient.UPDATE_RULES`, or a function of (view, hyperparameters) that makes an
        ``UpdateRule``, such as the class itself. ``"optimizer"`` is A2C's; ``"kfac"`` the natural gradient, in steps of
        ``target_kl``
    :param target_kl: with ``update_rule="kfac"``, the KL divergence of the new policy from the old, in nats, that each
        step is sized for. ``None``: 0.002 √D, for an action of D variables (numbers of a Box, bits, or classes that
        are chosen at once). ``learning_rate`` is then V's; a schedule of it shortens the policy's steps in proportion
    :param momentum: with ``update_rule="kfac"``, how much a gradient counts in comparison with the next one, in the
        average that the policy steps along; 0 for the newest alone. No effect where conjugate gradients take its place
    :param normalize_observations: let the policy normalise Box observations that are no images, as VecNormalize does,
        by the mean and the variance of those that earlier rollouts met. They are part of the policy: saved, loaded and
        exported with it
    :param initial_action_std: the standard deviation of Box actions before training, as a share of half the Box's width
        (of 1 where it has no bounds). It takes the place of ``log_std_init`` in ``policy_kwargs``, which is in the
        units of the actions. No effect on discrete actions, nor where the policy makes it of the state. ``None``:
        ``log_std_init``, or 1
    :param critic_learning_rate: of the weights that V alone depends on, a number or a schedule; they then have an
        optimizer of their own, of the policy's kind, and their gradient is clipped apart. ``None``: ``learning_rate``
    :param normalize_returns: with ``critic_learning_rate``, fit V in the running scale of the returns (PopArt): one
        rate then suits rewards of any size, and V itself stays in the environment's units
    :param critic_batch_size: the further steps of V are on minibatches of this size. ``None``: on all steps together
    :param critic_replay: the further steps of V are on this many of the last rollouts together. Targets of earlier ones
        are computed anew at every update, by V and the policy of today (V-trace's λ-returns); the newest one keeps its
        own. Needs ``n_critic_steps`` above 1. An agent that is loaded begins with no earlier rollouts, unless it was
        saved with ``exact=True``
    :param critic_lambda: λ of those targets of earlier rollouts, which go on from one rollout into the next; ``None``:
        ``gae_lambda``. Near 1, V learns faster what lies far ahead, and from noisier targets
    :param n_critic_steps: steps of V per update. The first is A2C's joint step; the others move only what the action
        distribution does not depend on, so neither the policy's weights nor its optimizer state notice
    :param n_episodes: update after this many whole episodes, without bootstrapping, instead of after ``n_steps``
        (which is then ignored). At least one for every environment. The policy's gradient is divided by the number of
        steps that earlier updates lead to expect; the first, which has none before it, moves V and ĉ but hardly the
        policy, unless the optimizer scales its gradient up
    :param bootstrap_truncated: in that mode, add γV(s_T) where a time limit cut the episode, as SB3 does.
        Switched off, a time limit is an end like any other
    :param max_episode_steps: in that mode, an episode longer than this is an error
    """

    cv_learning_rate: float | Schedule = field(default=3e-3, metadata={"search": LogRange(1e-4, 3e-2)})
    n_cv_steps: int = field(default=1, metadata={"search": Choices((1, 3, 5))})
    cv_objective: str = "distribution"
    cv_guard: bool = True
    cv_action_dependent: bool = True
    control_variate: Any = None
    update_rule: str | Callable[..., Any] = field(
        default="optimizer", metadata={"search": Choices(("optimizer", "kfac"))}
    )
    target_kl: float | None = field(default=None, metadata={"search": LogRange(5e-4, 2e-2)})
    momentum: float = 0.9
    normalize_observations: bool = False
    initial_action_std: float | None = None
    critic_learning_rate: float | Schedule | None = field(default=None, metadata={"search": LogRange(1e-4, 1e-2)})
    normalize_returns: bool = field(default=False, metadata={"search": Choices((False, True))})
    critic_batch_size: int | None = None
    # not searched: recurrent policies refuse it
    critic_replay: int = 1
    critic_lambda: float | None = None
    n_critic_steps: int = field(default=1, metadata={"search": Choices((1, 5, 10, 20))})
    n_episodes: int | None = None
    bootstrap_truncated: bool = True
    max_episode_steps: int = 100_000

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of all of them, in order."""
        return tuple(own.name for own in fields(cls))

    @classmethod
    def search_spaces(cls) -> dict[str, LogRange | Choices]:
        """Of those that a search may choose, in order."""
        return {own.name: own.metadata["search"] for own in fields(cls) if "search" in own.metadata}

    @classmethod
    def schedules(cls) -> tuple[str, ...]:
        """Names of those that may be schedules."""
        return tuple(own.name for own in fields(cls) if "Schedule" in str(own.type))

    @classmethod
    def of(cls: type[SelfHyperparameters], algorithm: object) -> SelfHyperparameters:
        """Those that an algorithm has; defaults for those that it lacks, or had as a default (an older file's)."""
        attributes = {name: ATTRIBUTES.get(name, name) for name in cls.names()}
        values = {name: getattr(algorithm, at) for name, at in attributes.items() if hasattr(algorithm, at)}
        if values.get("update_rule") == "optimizer" and values.get("target_kl") == EARLIER_TARGET_KL:
            del values["target_kl"]
        return cls(**values)

    @classmethod
    def extending(cls: type[SelfHyperparameters], values: Hyperparameters) -> SelfHyperparameters:
        """The same values, and defaults for what ``values`` does not have."""
        return cls(**{name: getattr(values, name) for name in values.names() if name in cls.names()})

    def store(self, algorithm: object) -> None:
        """Make each an attribute of the algorithm, where :meth:`of` finds it again."""
        for name in self.names():
            setattr(algorithm, ATTRIBUTES.get(name, name), getattr(self, name))

    @property
    def default_control_variate(self) -> str:
        """The name of the control variate where ``control_variate`` is not set."""
        return "lax" if self.cv_action_dependent else "state"

    def check(self, action_space: spaces.Space, n_envs: int) -> None:
        """:raises UsageError: for a value out of range, or one that does not go with the others."""
        require_schedule("cv_learning_rate", self.cv_learning_rate)
        if self.critic_learning_rate is not None:
            require_schedule("critic_learning_rate", self.critic_learning_rate)
        elif self.normalize_returns:
            raise UsageError("normalize_returns=True is of V's own optimizer: set critic_learning_rate, such as 1e-3")
        if self.initial_action_std is not None:
            require_within("initial_action_std", self.initial_action_std, 1e-6, 1e6)
        if self.critic_batch_size is not None:
            require_count("critic_batch_size", self.critic_batch_size)
        require_count("n_cv_steps", self.n_cv_steps)
        require_count("n_critic_steps", self.n_critic_steps)
        require_count("critic_replay", self.critic_replay)
        if self.critic_lambda is not None:
            require_within("critic_lambda", self.critic_lambda, 0, 1)
            if self.critic_replay == 1:
                raise UsageError("critic_lambda is of earlier rollouts: set critic_replay, such as 8, or leave it out")
        if self.critic_replay > 1 and self.n_critic_steps == 1:
            raise UsageError(
                f"critic_replay={self.critic_replay} is of V's further steps, and n_critic_steps=1 has none: leave it "
                "out, or set n_critic_steps, such as 10"
            )
        require_choice("cv_objective", self.cv_objective, CV_OBJECTIVES)
        if self.target_kl is not None:
            require_within("target_kl", self.target_kl, 1e-8, 1.0)
        require_within("momentum", self.momentum, 0, 0.9999)
        require_count("max_episode_steps", self.max_episode_steps)
        if self.control_variate not in (None, "state") and not self.cv_action_dependent:
            raise UsageError(
                f"control_variate={self.control_variate!r} decides by itself what ĉ reads: leave out "
                "cv_action_dependent=False, or use control_variate='state'"
            )
        for name in ("target_kl", "momentum"):
            if self.update_rule == "optimizer" and getattr(self, name) != getattr(type(self), name):
                raise UsageError(
                    f"{name}={getattr(self, name)} has no effect on update_rule='optimizer': leave it out, or set "
                    "update_rule='kfac'"
                )
        if self.n_episodes is not None:
            require_count("n_episodes", self.n_episodes)
            if self.n_episodes < n_envs:
                raise UsageError(
                    f"n_episodes must be at least {n_envs}, one for each environment; got {self.n_episodes}: set it "
                    "higher, or use fewer environments"
                )
        elif not self.bootstrap_truncated:
            raise UsageError(
                "bootstrap_truncated=False needs whole episodes: set n_episodes. "
                "With n_steps, truncated episodes are bootstrapped as SB3 does"
            )


@dataclass(frozen=True, kw_only=True)
class DiscreteHyperparameters(Hyperparameters):
    """What the algorithms for discrete actions take besides.

    :param correction: how E[ĉ] is corrected. ``"coupled"``: one relaxed draw as the value of z and z̃, in closed form
        (the default: it takes every action space, and where all three could be measured none was clearly better).
        ``"relaxed"``: z and z̃ drawn independently, as in the paper. ``"exact"``: Σ_a π(a|s) ĉ(a, s) over at most 4096
        joint actions, without relaxation
    :param n_relaxed: relaxed draws per step, averaged; they cost no environment step (no effect on ``"exact"``)
    :param init_temperature: τ of softmax(z/τ) and sigmoid(z/τ) at the start; learned with φ
    """

    # "exact" is not searched: it is refused where the joint actions are many, which a search cannot see
    correction: str = field(default="coupled", metadata={"search": Choices(("coupled", "relaxed"))})
    n_relaxed: int = field(default=1, metadata={"search": Choices((1, 4))})
    init_temperature: float = field(default=0.5, metadata={"search": LogRange(0.1, 2.0)})

    @property
    def default_control_variate(self) -> str:
        if not self.cv_action_dependent:
            return "state"
        return "exact" if self.correction == "exact" else "relax"

    def check(self, action_space: spaces.Space, n_envs: int) -> None:
        super().check(action_space, n_envs)
        require_choice("correction", self.correction, CORRECTIONS)
        require_count("n_relaxed", self.n_relaxed)
        allowed = {"relax": ("coupled", "relaxed"), "exact": ("coupled", "exact")}.get(str(self.control_variate))
        if self.control_variate is not None and self.correction not in (allowed or ("coupled",)):
            raise UsageError(
                f"control_variate={self.control_variate!r} has a correction of its own: leave out "
                f"correction={self.correction!r}, or leave out control_variate"
            )
        require_within("init_temperature", self.init_temperature, 1e-3, 1e3)
        if self.correction == "exact" and joint_actions(action_space) > MAX_SUPPORT:
            raise UsageError(
                f"correction='exact' enumerates joint actions, and {action_space} has {joint_actions(action_space)}, "
                f"more than {MAX_SUPPORT}: use correction='coupled'"
            )


def joint_actions(action_space: spaces.Space) -> float:
    """How many actions a space has; infinitely many where it is a Box."""
    action_space = as_sb3_counts(action_space)
    if isinstance(action_space, spaces.MultiBinary):
        return 2 ** get_action_dim(action_space)
    if isinstance(action_space, spaces.MultiDiscrete):
        return math.prod(map(int, action_space.nvec))
    return int(action_space.n) if isinstance(action_space, spaces.Discrete) else math.inf


def hyperparameters_of(algorithm: Any) -> dict[str, Any]:
    """Every hyper-parameter of an algorithm by name, A2C's and, where it has them, ours: for tables and copies.

    :param algorithm: any of SB3's
    """
    names = [name for name in signature(A2C.__init__).parameters if name not in NO_HYPERPARAMETERS]
    found = {name: getattr(algorithm, name) for name in [*names, "n_envs"] if hasattr(algorithm, name)}
    kind = getattr(algorithm, "hyperparameters", None)
    return found | (vars(kind.of(algorithm)) if kind is not None else {})


def check_a2c(owner: Any) -> None:
    """A2C's own arguments, which SB3 does not check.

    :param owner: the algorithm, which has them as attributes
    :raises UsageError: for a value out of range
    """
    require_count("n_steps", owner.n_steps)
    require_within("gamma", owner.gamma, 0, 1)
    require_within("gae_lambda", owner.gae_lambda, 0, 1)
    if owner.normalize_advantage not in (False, True, "running"):
        raise UsageError(
            'normalize_advantage must be False, True (by each batch, as SB3 does) or "running" (by earlier batches); '
            f"got {owner.normalize_advantage!r}"
        )
    for name, low in COEFFICIENTS.items():
        require_schedule(name, getattr(owner, name), low)
    require_within("max_grad_norm", owner.max_grad_norm, 0)
    require_schedule("learning_rate", owner.learning_rate)


def value_at(value: float | Schedule, progress_remaining: float) -> float:
    """A number, or what a schedule makes of the share of training that remains."""
    return value(progress_remaining) if callable(value) else value


def scheduled_values(owner: Any, progress_remaining: float) -> dict[str, float]:
    """Everything of an algorithm that may be a schedule and is set, by name: rates and coefficients as they are now.

    :param owner: the algorithm, which has them as attributes
    :param progress_remaining: the share of training that remains. It is below 0 after a last rollout that ends after
        ``total_timesteps``; schedules are asked for 0 then, since they may have no value there
    :raises UsageError: where one is out of range
    """
    progress = max(progress_remaining, 0.0)
    # SB3 keeps the learning rate as a schedule of that name, which callbacks replace
    kept = {"learning_rate": "lr_schedule", "cv_learning_rate": "cv_lr_schedule"}
    values = {}
    for name in ("learning_rate", *owner.hyperparameters.schedules()):
        value = getattr(owner, kept.get(name, name))
        if value is not None:
            values[name] = require_rate(name, value_at(value, progress))
    for name, low in COEFFICIENTS.items():
        values[name] = require_rate(name, value_at(getattr(owner, name), progress), low)
    return values
