"""ĉ fitted at the frozen policy, on rollouts that are never measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.algorithm.copies import frozen_copy
from sb3_relax.control_variates import CONTROL_VARIATES, Guarded, Trajectory
from sb3_relax.control_variates.registry import OF_LATER_ACTIONS
from sb3_relax.diagnose.rollout_gradients import RolloutSteps, prepared
from sb3_relax.errors import UsageError, unknown_name
from sb3_relax.estimators.latents import MAX_SUPPORT
from sb3_relax.policy_gradient.hyperparameters import joint_actions
from sb3_relax.policy_gradient.policy_view import PolicyOutput

#: Steps of one minibatch of φ.
MINIBATCH = 256
#: The state baseline ĉ(s) fitted as the others are: what it does needs no action-dependent control variate.
STATE = "ĉ(s)"
#: Whatever the agent was trained with, ĉ is fitted at the algorithms' own rate and applied with their guard.
FITTING: dict[str, Any] = {
    "with_control_variate": False,
    "cv_learning_rate": 3e-3,
    "n_cv_steps": 1,
    "cv_objective": "distribution",
    "cv_guard": True,
    "cv_action_dependent": True,
    "control_variate": None,
}


def variates_of(
    model: OnPolicyAlgorithm, seed: int, further: Sequence[str] = (), n_steps: int | None = None
) -> dict[str, ControlVariateA2C]:
    """A model for each control variate its action space allows, at the same frozen policy, with ĉ = 0.

    ĉ(s), their control; LAX for Box; for discrete actions RELAX (coupled) and, where the joint actions can be
    enumerated, the exact correction.

    :param further: names of :data:`~sb3_relax.control_variates.CONTROL_VARIATES`, as :func:`require_further` takes them
    :param n_steps: of a rollout; the model's where ``None``
    :raises UsageError: for one that does not take the actions, or that learns nothing from so short a rollout
    """
    is_box = isinstance(model.action_space, spaces.Box)
    fitting = {**FITTING, "n_steps": model.n_steps if n_steps is None else n_steps}
    own = fitting if is_box else {**fitting, "correction": "coupled"}
    name = "LAX" if is_box else "RELAX"
    found = {
        STATE: frozen_copy(model, seed, **{**own, "cv_action_dependent": False}),
        name: frozen_copy(model, seed, **own),
    }
    if not is_box and joint_actions(model.action_space) <= MAX_SUPPORT:
        found["exact"] = frozen_copy(model, seed, **{**own, "correction": "exact"})
    return found | {each: frozen_copy(model, seed, **{**own, "control_variate": each}) for each in further}


def require_further(names: Sequence[str]) -> None:
    """:raises UsageError: for a name that is not one of a control variate, or that has two for the step's own action"""
    ours = [name for name in CONTROL_VARIATES if name not in (*OF_LATER_ACTIONS, "none")]
    for name in names:
        first, *others = name.split("+")
        of_own = others if first in OF_LATER_ACTIONS else [first, *others]
        if len(of_own) > 1:
            raise UsageError(
                f"control_variates takes one for the step's own action at a time, such as 'model', or after one of "
                f"later actions, such as 'trajectory+model': leave out {name!r}"
            )
        if any(each not in ours for each in of_own):
            raise unknown_name("control_variates", name, [*ours, *OF_LATER_ACTIONS, "trajectory+relax"])


def see(model: ControlVariateA2C, steps: RolloutSteps, at: int, generator: th.Generator) -> None:
    """Let a control variate see a whole rollout as an update does, before its weights move: what it keeps, it keeps.

    :param steps: of the rollout
    :param at: which of the λ's the advantages are of
    """
    guard, advantages = model.control_variate, prepared(model.control_variate, steps, at, generator)
    guard.fit(steps.output, advantages, guard.gradient(steps.output, advantages, generator), generator)
    if isinstance(guard, Guarded) and isinstance(guard.variate, Trajectory):
        guard.variate.corrected = None  # the rollout is done with: no later batch is one of it


def pooled(batches: Sequence[RolloutSteps]) -> RolloutSteps:
    """Rollouts as one, cut from the policy's graph."""
    steps = [batch.output for batch in batches]
    latent = steps[0].latent.at(th.cat([step.latent.theta.detach() for step in steps]))

    def joined(name: str) -> Tensor:
        return th.cat([getattr(step, name).detach() for step in steps])

    output = PolicyOutput(latent, joined("sample"), joined("features"), joined("values"), joined("log_prob"), None)
    last = batches[-1]
    return RolloutSteps(output, th.cat([batch.advantages for batch in batches], dim=1), last.rollout, last.lambdas)


def fit(
    model: ControlVariateA2C, output: PolicyOutput, advantages: Tensor, n_updates: int, generator: th.Generator
) -> ControlVariateA2C:
    """Train the model's ĉ on Eq 6, and find the share η of it that the training data speak for.

    Four fifths of the steps train φ; the last fifth, unseen by it, gives η as the algorithm's guard does. So η = 0, and
    the estimator A2C's own, where ĉ has learned nothing that holds.

    :param output: all steps of the fitting rollouts, ``[N]``
    :param advantages: their Â at one λ, ``[N]``
    :param n_updates: steps of Adam, at the model's ``cv_learning_rate`` falling to zero
    :param generator: draws the minibatches
    :return: the model
    """
    guard = model.control_variate
    assert isinstance(guard, Guarded)
    variate, noise = guard.variate, model.noise_generator
    cut = len(advantages) * 4 // 5
    variate.observe(variate.gradient(output.at(th.arange(cut)), advantages[:cut], noise))  # Â's scale, first of all
    own = variate.own_step if isinstance(variate, Trajectory) else variate
    for _ in falling_rates(model, 0 if own.optimizer is None else n_updates):
        index = th.randint(cut, (MINIBATCH,), generator=generator).to(advantages.device)
        part, signal = output.at(index), advantages[index]
        variate.fit(part, signal, variate.gradient(part, signal, noise), noise)
    held_out = th.arange(cut, len(advantages), device=advantages.device)
    guard.take_in(variate.gradient(output.at(held_out), advantages[held_out], noise).moments)
    return model


def falling_rates(model: ControlVariateA2C, n_updates: int) -> Iterator[int]:
    """So many updates of φ, at the model's ``cv_learning_rate`` falling to zero."""
    rate = model.cv_lr_schedule(1.0)
    for update in range(n_updates):
        # not by torch's schedulers: an optimizer that one of them listens to takes twice the time for a step
        model.control_variate.set_learning_rate(rate * (1 - update / n_updates))
        yield update


@th.no_grad()
def corrections(model: ControlVariateA2C, output: PolicyOutput, n_draws: int) -> Tensor:
    """h(s, a, u) = ĝ - Â ∂θ log π(a|s), as applied, for ``n_draws`` draws of noise: ``[n_draws, N, *event]``.

    It does not depend on Â, so it is read off at Â = 0.
    """
    zero = th.zeros_like(output.values)
    gradient = model.control_variate.gradient
    return th.stack([gradient(output, zero, model.noise_generator).grad for _ in range(n_draws)])
