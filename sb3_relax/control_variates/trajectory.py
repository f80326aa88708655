"""A control variate for the actions that come after a step: what they add to its advantage beside what was expected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_relax.control_variates.base import ControlVariate, checked_fit, checked_gradient
from sb3_relax.control_variates.centred import CentredAction, LinearInScore
from sb3_relax.control_variates.from_estimator import FromEstimator
from sb3_relax.control_variates.learned import one_optimizer
from sb3_relax.control_variates.recent_steps import RecentSteps
from sb3_relax.control_variates.regression import descend_on
from sb3_relax.control_variates.share import LearnedShare
from sb3_relax.estimators import Estimate, Reinforce
from sb3_relax.policy_gradient.advantage_scale import AdvantageScale
from sb3_relax.policy_gradient.hyperparameters import Hyperparameters
from sb3_relax.policy_gradient.policy_view import PolicyOutput, PolicyView
from sb3_relax.policy_gradient.rollout import Rollout


@dataclass(frozen=True)
class Corrected:
    """What a rollout was corrected by, and what the next correction may learn of it.

    :param known: what ã is computed of, one row a step, environment after environment
    :param target: Â as it was used, ``[N]``, of the same steps
    :param plain: Â as it came, ``[N]``
    :param square: batch mean of ‖Â ∂ log π‖²
    :param cross: that of its product with the change, ⟨Â ∂ log π, d⟩
    :param change: that of the change, ‖d‖² for d = -(Σ_l (γλ)^l ã_{t+l}) ∂ log π
    :param share: of ã that was taken out: 0 where it was not finite
    """

    known: tuple[th.Tensor, ...]
    target: th.Tensor
    plain: th.Tensor
    square: float
    cross: float
    change: float
    share: float


class Trajectory(ControlVariate):
    """Takes the luck of later actions out of every step's advantage, and leaves the step's own action to another.

    With δ_t = r_t + γ V(s_{t+1}) - V(s_t) and any function ã(s, a) whose mean over the policy's actions is zero,

        Â_t = δ_t + Σ_{l≥1} (γλ)^l [δ_{t+l} - ã(s_{t+l}, a_{t+l})]

    has the same mean as GAE's advantage given state and action, since every ã that is subtracted has mean zero given
    the state it is in (Cheng et al. 2019, https://arxiv.org/abs/1908.03263; Huang and Jiang 2020,
    https://arxiv.org/abs/1910.09066). V's target is corrected alike, its own action included. So it reaches what V
    cannot know, and no function of the step's own action can: which actions will be drawn later.

    ã is fitted by regression on the advantages of recent steps. A share of it is applied, as earlier rollouts speak for
    it (:class:`~sb3_relax.control_variates.share.LearnedShare`); without ``cv_guard`` all of it.

    With ``gae_lambda=0`` or ``n_steps=1`` an advantage has no later actions, and the share stays 0. gSDE needs
    ``sde_sample_freq=1``: noise that lasts for several steps has, given the past, a mean that is not zero.

    The steps that are kept are saved with ``save(..., exact=True)`` alone: any other agent that is loaded begins with
    none.

    :param view: of the policy
    :param hyperparameters: ``cv_guard``, ``n_cv_steps``
    :param own_step: a control variate for the step's own action; ``None``: the score function alone
    :param centred: ã; ``None``: :class:`~sb3_relax.control_variates.centred.LinearInScore`

    Example::

        RELAXA2C("MlpPolicy", "CartPole-v1", control_variate="trajectory+relax")
    """

    needs_fresh_noise = True

    def __init__(
        self,
        view: PolicyView,
        hyperparameters: Hyperparameters,
        own_step: ControlVariate | None = None,
        centred: CentredAction | None = None,
    ):
        super().__init__()
        self.view = view
        self.own_step = FromEstimator(Reinforce(), view, hyperparameters) if own_step is None else own_step
        self.centred = LinearInScore(view) if centred is None else centred
        self.scale = AdvantageScale()
        self.learned_share = LearnedShare() if hyperparameters.cv_guard else None
        self.n_steps = hyperparameters.n_cv_steps
        self.recent = RecentSteps()
        self.corrected: Corrected | None = None
        self.latents, self.draws_noise = self.own_step.latents, self.own_step.draws_noise
        self.needs_second_derivative = self.own_step.needs_second_derivative
        self.phi = list(self.centred.parameters())
        self.optimizer = one_optimizer(self.own_step.optimizer, self.phi)

    @property
    def share(self) -> float:
        """How much of ã is taken out, fixed before the rollout."""
        return 1.0 if self.learned_share is None else self.learned_share.share

    @property
    def unit(self) -> float:
        """What ã is multiplied by to have the unit of the advantages, fixed before the rollout."""
        return self.scale.value

    def prepare(self, rollout: Rollout, generator: th.Generator) -> None:
        batch, plain = rollout.as_acted(self.view)[0], rollout.advantages
        luck = luck_in(self, rollout, generator)
        share = self.share if np.isfinite(luck.from_here).all() else 0.0
        if share > 0:
            rollout.advantages = plain - (share * luck.later).astype(plain.dtype)
            rollout.returns = rollout.returns - (share * luck.from_here).astype(rollout.returns.dtype)

        def in_batch_order(array: np.ndarray) -> th.Tensor:
            return th.as_tensor(array.ravel()[batch.index]).to(batch.advantages)

        own, others = in_batch_order(rollout.advantages), in_batch_order(plain)
        self.corrected = Corrected(luck.known, own, others, luck.square, luck.cross, luck.change, share)
        self.own_step.prepare(rollout, generator)

    def gradient(self, output: PolicyOutput, signal: th.Tensor, generator: th.Generator) -> Estimate:
        return checked_gradient(self.own_step, output, signal, generator)

    def fit(
        self, output: PolicyOutput, signal: th.Tensor, estimate: Estimate, generator: th.Generator
    ) -> dict[str, float]:
        log = checked_fit(self.own_step, output, signal, estimate, generator)
        done = self.corrected
        if done is None:  # a batch of nobody's rollout
            return log
        share = log["trajectory_share"] = done.share
        change = 2 * share * done.cross + share**2 * done.change if share > 0 else 0.0  # 0 · NaN would be NaN
        log["trajectory_ratio"] = 1 + change / done.square if done.square > 0 else float("nan")
        log |= self.learn(done, generator)
        return log

    def learn(self, done: Corrected, generator: th.Generator) -> dict[str, float]:
        """Let ã learn from a rollout, after it was corrected: here by regression on Â.

        :param generator: of all noise that is drawn here
        :return: what to log, by name
        """
        self.scale.observe(done.plain)
        self.centred.observe(*done.known)
        if all(bool(part.isfinite().all()) for part in (*done.known, done.target)):
            self.recent.add(*done.known, done.target)
        return self.descend(generator)

    def descend(self, generator: th.Generator) -> dict[str, float]:
        """``n_cv_steps`` steps of ã on :meth:`loss`, of rows that it has kept.

        :param generator: draws them
        :return: what to log, by name
        """
        return descend_of(self, partial(self.recent.draw, generator))

    def loss(self, *rows: th.Tensor) -> th.Tensor:
        """What ã descends on, of rows as :meth:`learn` keeps them."""
        *known, target = rows
        return (self.centred(*known) - target / self.unit).square().mean()

    def observe(self, estimate: Estimate) -> None:
        done, self.corrected = self.corrected, None
        if done is not None and self.learned_share is not None:
            self.learned_share.learn_share(done.square, done.cross, done.change)
        self.own_step.observe(estimate)

    def forget(self) -> None:
        self.recent = RecentSteps()
        self.own_step.forget()

    def between_updates(self) -> Any:
        return {"recent": self.recent, "own_step": self.own_step.between_updates()}

    def set_between_updates(self, state: Any) -> None:
        self.recent = state["recent"]
        self.own_step.set_between_updates(state["own_step"])


class Luck(NamedTuple):
    """What ã says of a rollout, in full, whatever share of it is applied.

    :param known: what ã is computed of, one row a step, environment after environment
    :param from_here: Σ_{l≥0} (γλ)^l ã_{t+l}, in the unit of the advantages, ``[T, E]``
    :param later: Σ_{l≥1} (γλ)^l ã_{t+l}, which is subtracted from Â, ``[T, E]``
    :param square: mean over the steps of ‖Â ∂ log π‖²
    :param cross: that of its product with the change, ⟨Â ∂ log π, d⟩
    :param change: that of the change, ‖d‖² for d = -later ∂ log π
    """

    known: tuple[th.Tensor, ...]
    from_here: np.ndarray
    later: np.ndarray
    square: float
    cross: float
    change: float


def luck_in(variate: Trajectory, rollout: Rollout, generator: th.Generator) -> Luck:
    """What a control variate's ã says of a rollout, which is left as it is, and so is the control variate.

    :param variate: of the policy that acted
    :param rollout: whose advantages are those of A2C
    :param generator: of noise that ã draws
    """
    batch, output = rollout.as_acted(variate.view)
    known, of_action = in_advantages(variate, output, generator)
    with th.no_grad():
        score = output.latent.score(output.sample).flatten(1).square().sum(1)
    of_step = batch.in_time_order(of_action)
    from_here = discounted_sums(of_step, rollout)
    later = from_here - of_step
    weight, plain = batch.in_time_order(score).astype(np.float64), rollout.advantages
    square = float((weight * np.square(plain, dtype=np.float64)).mean())
    cross, change = float(-(weight * plain * later).mean()), float((weight * later**2).mean())
    return Luck(known, from_here, later, square, cross, change)


@th.no_grad()
def in_advantages(
    variate: Trajectory, output: PolicyOutput, generator: th.Generator
) -> tuple[tuple[th.Tensor, ...], th.Tensor]:
    """What a control variate computes ã of, and ã in the unit of the advantages, ``[N]``.

    :param output: a pass of the policy over N steps
    :param generator: of noise that ã draws
    :raises ValueError: for a ã that is not one number for each step
    """
    known = variate.centred.read(output, generator)
    of_action = variate.centred(*known)
    if of_action.shape != output.values.shape:
        raise ValueError(
            f"{type(variate.centred).__name__} must give one number for each step, of shape "
            f"{tuple(output.values.shape)}; it gave {tuple(of_action.shape)}"
        )
    return known, variate.unit * of_action


def descend_of(variate: Trajectory, draw: Callable[[], tuple[th.Tensor, ...]]) -> dict[str, float]:
    """``n_cv_steps`` steps of a control variate's ã on its loss.

    :param draw: gives rows for it
    :return: what to log, by name
    """
    loss = descend_on(draw, variate.loss, variate.phi, variate.optimizer, variate.n_steps)
    return {} if loss is None else {"trajectory_loss": loss}


def discounted_sums(of_steps: np.ndarray, rollout: Rollout) -> np.ndarray:
    """Σ_{l≥0} (γλ)^l x_{t+l} up to the end of the episode or of the rollout, ``[T, E]``, in float64.

    :param of_steps: x, ``[T, E]``
    :param rollout: the same steps
    """
    sums, goes_on = of_steps.astype(np.float64), continuation(rollout)
    for step in reversed(range(len(sums) - 1)):
        sums[step] += goes_on[step] * sums[step + 1]
    return sums


def continuation(rollout: Rollout) -> np.ndarray:
    """γλ where a step's sum goes on with the next one's, and 0 where episode or rollout end with it, ``[T, E]``."""
    goes_on = np.zeros(rollout.shape)
    goes_on[:-1] = 1.0 - rollout.episode_starts[1:]
    return rollout.buffer.gamma * rollout.buffer.gae_lambda * goes_on
