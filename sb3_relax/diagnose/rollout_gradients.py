"""The policy gradient of whole rollouts at a frozen policy, rollout after rollout."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv

from sb3_relax.algorithm.a2c import ControlVariateA2C
from sb3_relax.control_variates import ControlVariate
from sb3_relax.diagnose.streams import advance, restart, streams, streams_of
from sb3_relax.estimators.estimate import expand_to
from sb3_relax.policy_gradient.policy_view import PolicyOutput
from sb3_relax.policy_gradient.rollout import Rollout, by_environment


class RolloutSteps(NamedTuple):
    """One rollout, flattened to N steps."""

    output: PolicyOutput  #: θ attached to the policy's weights
    advantages: th.Tensor  #: Â for every λ as GAE gives it, ``[lambdas, N]``
    rollout: Rollout  #: the steps in time order; its advantages are those of the last λ
    lambdas: Sequence[float]  #: of GAE

    def at(self, i: int) -> Rollout:
        """The rollout at the i-th λ, with arrays of its own where a control variate may put others."""
        rollout = copy.copy(self.rollout)
        rollout.buffer = copy.copy(rollout.buffer)
        rollout.buffer.gae_lambda = self.lambdas[i]
        rollout.advantages = self.advantages[i].cpu().numpy().reshape(rollout.shape[::-1]).T
        rollout.returns = rollout.advantages + rollout.values
        return rollout


#: ĝ per step at the distribution's parameters, of a rollout at the i-th λ.
StepGradient = Callable[[RolloutSteps, int], th.Tensor]


def rollouts(
    model: ControlVariateA2C, env: VecEnv, n_rollouts: int, lambdas: Sequence[float], warm_up: int = 0
) -> Iterator[RolloutSteps]:
    """``n_rollouts`` rollouts of the model's own kind from a reset on, one after the other, as in training.

    :param model: a :func:`~sb3_relax.algorithm.copies.frozen_copy`; its weights stay as they are
    :param env: as many environments as the model trains with
    :param lambdas: of the advantages; V and bootstrapping are the model's
    :param warm_up: steps of every environment before the first rollout
    """
    callback = restart(model, env)
    buffer = model.rollout_buffer
    advance(model, env, callback, warm_up)
    for _ in range(n_rollouts):
        model.collect_rollouts(env, callback, buffer, model.n_steps)
        if model.n_episodes is None:
            ends = np.asarray(model._last_episode_starts)
            with th.no_grad():
                last_values = model.policy.predict_values(model.policy.obs_to_tensor(model._last_obs)[0])  # type: ignore[arg-type]
        else:
            last_values, ends = th.zeros(1), np.array([True])
        advantages = []
        for gae_lambda in lambdas:
            buffer.gae_lambda = gae_lambda
            buffer.compute_returns_and_advantage(last_values, ends)
            rollout = model.rollout_class.of(buffer, model.time_limits)
            # of one environment it is the buffer's own array, which the next λ is written into
            advantages.append(by_environment(rollout.advantages).copy())
        batch = rollout.batch(np.arange(rollout.values.size), model.view.dtype)
        output = model.view.evaluate(batch.observations, batch.actions)
        yield RolloutSteps(output, buffer.to_torch(np.stack(advantages)).to(model.view.dtype), rollout, lambdas)


def gradients_by_stream(
    model: ControlVariateA2C,
    env: VecEnv,
    groups: np.ndarray,
    lambdas: Sequence[float],
    estimators: dict[str, StepGradient],
    seed: int,
) -> Iterator[dict[str, list[list[th.Tensor]]]]:
    """The batch gradients of all rollouts at the policy's weights, one independent stream of them after the other.

    Consecutive rollouts share episodes, so they come in streams (see
    :func:`~sb3_relax.diagnose.streams.streams`). All estimators see the same rollouts.

    :param groups: each rollout's stream, ``[n_rollouts]``
    :param estimators: name → ĝ per step
    :param seed: of the streams' environments; actions come from torch's generator
    :return: for each stream: name → for each λ: the gradients of the stream's rollouts, each flat
    """
    warm_ups = streams(model, env, int(groups.max()) + 1, seed)
    for warm_up, size in zip(warm_ups, np.bincount(groups), strict=True):
        kept: dict[str, list[list[th.Tensor]]] = {name: [[] for _ in lambdas] for name in estimators}
        for steps in rollouts(model, env, int(size), lambdas, warm_up):
            divisor = model.expected_steps.divisor(steps.advantages.shape[1])
            for name, estimator in estimators.items():
                for i in range(len(lambdas)):
                    at_weights = th.autograd.grad(
                        steps.output.latent.theta,
                        model.view.actor_weights,
                        estimator(steps, i) / divisor,
                        retain_graph=True,
                    )
                    kept[name][i].append(th.cat([part.flatten() for part in at_weights]))
        yield kept


def gradient_grams(
    model: ControlVariateA2C,
    env: VecEnv,
    n_rollouts: int,
    lambdas: Sequence[float],
    estimators: dict[str, StepGradient],
    seed: int,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """⟨ĝ_i, ĝ_j⟩ of all gradients of :func:`gradients_by_stream`, and which rollouts are independent.

    :return: name → ``[lambdas, n_rollouts, n_rollouts]``, and each rollout's stream, ``[n_rollouts]``
    """
    groups = streams_of(n_rollouts)
    of_streams = list(gradients_by_stream(model, env, groups, lambdas, estimators, seed))
    grams = {
        name: np.stack(
            [gram(chain.from_iterable(stream[name][i] for stream in of_streams)) for i in range(len(lambdas))]
        )
        for name in estimators
    }
    return grams, groups


def gram(gradients: Iterable[th.Tensor]) -> np.ndarray:
    """⟨x_i, x_j⟩ of N flat gradients, ``[N, N]``."""
    stacked = th.stack([*gradients]).double()
    return (stacked @ stacked.T).cpu().numpy()


def score_term(output: PolicyOutput, advantages: th.Tensor) -> th.Tensor:
    """Â ∂θ log π(a|s): A2C's own."""
    return expand_to(advantages, output.latent) * output.latent.score(output.sample)


def prepared(control_variate: ControlVariate, steps: RolloutSteps, i: int, generator: th.Generator) -> th.Tensor:
    """Â of a rollout at the i-th λ, ``[N]``, as a control variate's ``prepare()`` leaves it.

    :param generator: of noise that is drawn for it
    """
    rollout = steps.at(i)
    control_variate.prepare(rollout, generator)
    return rollout.buffer.to_torch(by_environment(rollout.advantages)).to(steps.advantages.dtype)
