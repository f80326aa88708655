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
from sb3_relax.control_variates import Guarded, StateBaseline, Trajectory
from sb3_relax.control_variates.learned import NetworkControlVariate
from sb3_relax.control_variates.registry import OF_LATER_ACTIONS, refuse_what_makes_none
from sb3_relax.control_variates.side_by_side import SideBySide, can_stand_side_by_side
from sb3_relax.diagnose.rollout_gradients import RolloutSteps, prepared
from sb3_relax.errors import UsageError
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
    "sde_sample_freq": 1,  # as the steps that are measured, which have a noise matrix each
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
    """:raises UsageError: for a name of no control variate, or two for the step's own action"""
    for name in names:
        refuse_what_makes_none(name)
        first, *others = name.split("+")
        of_own = others if first in OF_LATER_ACTIONS else [first, *others]
        if len(of_own) > 1:
            raise UsageError(
                f"control_variates takes one for the step's own action at a time, such as 'model', or after one of "
                f"later actions, such as 'trajectory+model': leave out {name!r}"
            )
        if "none" in of_own:
            raise UsageError(
                "control_variates need no 'none': every diagnosis has a row of it, and 'trajectory+none' would be "
                f"'trajectory'. Leave it out of {name!r}"
            )


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
) -> None:
    """Train the model's ĉ on Eq 6, and find the share η of it that the training data speak for.

    Four fifths of the steps train φ; the last fifth, unseen by it, gives η as the algorithm's guard does. So η = 0, and
    the estimator A2C's own, where ĉ has learned nothing that holds.

    :param output: all steps of the fitting rollouts, ``[N]``
    :param advantages: their Â at one λ, ``[N]``
    :param n_updates: steps of Adam, at the model's ``cv_learning_rate`` falling to zero
    :param generator: draws the minibatches
    """
    variate, noise, cut = _unguarded(model), model.noise_generator, _cut(advantages)
    _learn_scale(model, output, advantages)
    own = variate.own_step if isinstance(variate, Trajectory) else variate
    for _ in falling_rates(model, 0 if own.optimizer is None else n_updates):
        index = th.randint(cut, (MINIBATCH,), generator=generator).to(advantages.device)
        part, signal = output.at(index), advantages[index]
        variate.fit(part, signal, variate.gradient(part, signal, noise), noise)
    _learn_share(model, output, advantages)


def fit_all(
    models: Sequence[ControlVariateA2C],
    output: PolicyOutput,
    advantages: Tensor,
    n_updates: int,
    generator: th.Generator,
) -> None:
    """:func:`fit` of one kind of control variate for every λ: in one go, where they are small networks.

    Where the square of an advantage is beyond its dtype, each is fitted by itself, as no step is taken then.

    :param models: one for each λ
    :param output: as of :func:`fit`
    :param advantages: Â at each λ, ``[lambdas, N]``
    :param n_updates: of each
    :param generator: draws the minibatches
    """
    variates = [_unguarded(model) for model in models]
    if not (advantages.square().isfinite().all() and all(map(_is_small_network, variates))):
        for model, of_lambda in zip(models, advantages, strict=True):
            fit(model, output, of_lambda, n_updates, generator)
        return
    for model, of_lambda in zip(models, advantages, strict=True):
        _learn_scale(model, output, of_lambda)
    first, noise, cut = variates[0], models[0].noise_generator, _cut(advantages)
    networks = [variate.network for variate in variates]
    together: Any = SideBySide(networks)
    first.network = together
    first.optimize(together.parameters())
    assert first.optimizer is not None
    # a mean over all blocks is that of one, divided by how many there are, and Adam knows of sizes by this alone
    for group in first.optimizer.param_groups:
        group["eps"] /= len(models)
    for _ in falling_rates(models[0], n_updates):
        index = th.randint(cut, (len(models), MINIBATCH), generator=generator).to(advantages.device)
        part, signal = output.at(index.flatten()), advantages.gather(1, index).flatten()
        first.fit(part, signal, first.gradient(part, signal, noise), noise)
    together.hand_back()
    first.network = networks[0]
    first.optimize(networks[0].parameters())
    for model, of_lambda in zip(models, advantages, strict=True):
        _learn_share(model, output, of_lambda)


def _is_small_network(variate: Any) -> bool:
    """Whether a control variate is a network that descends on Eq 6, and on nothing that it keeps of earlier steps."""
    return isinstance(variate, (NetworkControlVariate, StateBaseline)) and can_stand_side_by_side(variate.network)


def _unguarded(model: ControlVariateA2C) -> Any:
    assert isinstance(model.control_variate, Guarded)
    return model.control_variate.variate


def _cut(advantages: Tensor) -> int:
    """Where those steps end that φ is trained on."""
    return advantages.shape[-1] * 4 // 5


def _learn_scale(model: ControlVariateA2C, output: PolicyOutput, advantages: Tensor) -> None:
    """That of Â, first of all."""
    variate, cut = _unguarded(model), _cut(advantages)
    variate.observe(variate.gradient(output.at(th.arange(cut)), advantages[:cut], model.noise_generator))


def _learn_share(model: ControlVariateA2C, output: PolicyOutput, advantages: Tensor) -> None:
    """Of the steps that φ has not seen."""
    guard = model.control_variate
    assert isinstance(guard, Guarded)
    held_out = th.arange(_cut(advantages), len(advantages), device=advantages.device)
    estimate = guard.variate.gradient(output.at(held_out), advantages[held_out], model.noise_generator)
    guard.take_in(estimate.moments)


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
