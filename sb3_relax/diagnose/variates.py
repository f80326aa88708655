"""ĉ fitted at the frozen policy, on rollouts that are never measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from sb3_relax.common.frozen import frozen_copy
from sb3_relax.common.rollout_gradients import Batch
from sb3_relax.common.surrogate_a2c import Evaluation, SurrogateA2C
from sb3_relax.estimators.latents import MAX_SUPPORT
from sb3_relax.estimators.moments import change_moments

#: Steps of one minibatch of φ.
MINIBATCH = 256
#: The state baseline ĉ(s) fitted as the others are: what it does needs no action-dependent control variate.
STATE = "ĉ(s)"
#: Whatever the agent was trained with, ĉ is fitted at the algorithms' own rate and applied with their guard.
FITTING = {"cv_learning_rate": 3e-3, "cv_guard": True, "cv_action_dependent": True}


def variates_of(model: OnPolicyAlgorithm, seed: int) -> dict[str, SurrogateA2C]:
    """A model for each control variate its action space allows, at the same frozen policy, with ĉ = 0.

    ĉ(s), their control; LAX for Box; for discrete actions RELAX (coupled) and, where the joint actions can be
    enumerated, the exact correction.
    """
    is_box = isinstance(model.action_space, spaces.Box)
    own = FITTING if is_box else {**FITTING, "correction": "coupled"}
    name = "LAX" if is_box else "RELAX"
    found = {
        STATE: frozen_copy(model, seed, **{**own, "cv_action_dependent": False}),
        name: frozen_copy(model, seed, **own),
    }
    if not is_box and found[name]._joint_actions() <= MAX_SUPPORT:  # type: ignore[attr-defined]
        found["exact"] = frozen_copy(model, seed, **{**own, "correction": "exact"})
    return found


def pooled(batches: Sequence[Batch]) -> Batch:
    """Rollouts as one, cut from the policy's graph."""
    steps = [batch.step for batch in batches]
    latent = steps[0].latent.at(th.cat([step.latent.theta.detach() for step in steps]))

    def joined(name: str) -> Tensor:
        return th.cat([getattr(step, name).detach() for step in steps])

    step = Evaluation(latent, joined("sample"), joined("features"), joined("values"), joined("log_prob"), None)
    return Batch(step, th.cat([batch.advantages for batch in batches], dim=1))


def _part(step: Evaluation, index: Tensor) -> Evaluation:
    return step._replace(
        latent=step.latent.at(step.latent.theta[index]), sample=step.sample[index], features=step.features[index]
    )


def fit(
    model: SurrogateA2C, step: Evaluation, advantages: Tensor, n_updates: int, generator: th.Generator
) -> SurrogateA2C:
    """Train the model's ĉ on Eq 6, and find the share η of it that the training data speak for.

    Four fifths of the steps train φ; the last fifth, unseen by it, gives η as the algorithm's guard does. So η = 0, and
    the estimator A2C's own, where ĉ has learned nothing that holds.

    :param step: all steps of the fitting rollouts, ``[N]``
    :param advantages: their Â at one λ, ``[N]``
    :param n_updates: steps of Adam, at the model's ``cv_learning_rate`` falling to zero
    :param generator: draws the minibatches
    :return: the model
    """
    cut = len(advantages) * 4 // 5
    statistics = model.control_variate.statistics
    statistics.scale = max(advantages[:cut].square().mean().sqrt().item(), 1e-8)
    schedule = th.optim.lr_scheduler.LinearLR(model.cv_optimizer, 1.0, 0.0, total_iters=n_updates)
    for _ in range(n_updates):
        index = th.randint(cut, (MINIBATCH,), generator=generator).to(advantages.device)
        estimate = model._estimate(_part(step, index), advantages[index])
        model._set_cv_gradient(estimate.objective)
        model.cv_optimizer.step()
        schedule.step()
    held_out = th.arange(cut, len(advantages), device=advantages.device)
    estimate = model._estimate(_part(step, held_out), advantages[held_out])
    moments = change_moments(estimate.score_term, estimate.grad, step.latent.event_ndim)
    statistics.update(statistics.scale**2, moments, estimate.samples)
    return model


@th.no_grad()
def corrections(model: SurrogateA2C, step: Evaluation, n_draws: int) -> Tensor:
    """h(s, a, u) = ĝ - Â ∂θ log π(a|s), as applied, for ``n_draws`` draws of noise: ``[n_draws, N, *event]``.

    It does not depend on Â, so it is read off at Â = 0.
    """
    zero = th.zeros_like(step.values)
    return th.stack([model._applied(model._estimate(step, zero)) for _ in range(n_draws)])


def is_noisy(model: SurrogateA2C, step: Evaluation) -> bool:
    """Whether the estimator draws noise of its own."""
    return model._estimator(model.control_variate.bind(step.latent, step.features)).noise_shape(step.latent) is not None
