"""From SB3's actions to the core's latents, and to what the environment receives."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    Distribution,
    SquashedDiagGaussianDistribution,
    TanhBijector,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from torch.distributions import Bernoulli, Categorical, Normal
from torch.nn import functional as F

from sb3_relax.errors import UsageError
from sb3_relax.estimators import Gaussian, GumbelOneHot, Joint, Latent, LogisticBernoulli
from sb3_relax.estimators.latents import masked_logit
from sb3_relax.policy_gradient.action_spaces import as_sb3_counts, to_classes
from sb3_relax.policy_gradient.flat_actions import FlatActions
from sb3_relax.policy_gradient.hybrid_distribution import HybridDistribution
from sb3_relax.policy_gradient.several_categoricals import SeveralCategoricals


def to_latent(distribution: Distribution) -> Latent:
    """The latent of a policy's current distribution, its θ attached to the policy's weights.

    Discrete becomes one variable of K classes, MultiDiscrete D variables padded to the widest (the padding masked),
    MultiBinary D bits, Box (gSDE included) the per-step marginal normal of the action before any tanh. Masks of
    sb3-contrib's maskable distributions become the latent's, or the logits of bits that have one value left. What
    sb3-contrib itself makes of MultiBinary becomes D variables of two classes.
    Actions of several parts become a Joint of the parts' latents, by the parts' names.

    :param distribution: as left by ``policy.evaluate_actions``
    :return: a latent of batch shape ``[N]``
    :raises TypeError: for a distribution made of anything else
    """
    if isinstance(distribution, HybridDistribution):
        return Joint(**{name: to_latent(part) for name, part in distribution.parts.items()})
    if isinstance(distribution, SeveralCategoricals):
        return distribution.latent()
    inner: Any = getattr(distribution, "distribution", None) or getattr(distribution, "distributions", None)
    if isinstance(inner, Normal):
        return Gaussian(inner.mean, inner.stddev.log())
    if isinstance(inner, Bernoulli):
        return LogisticBernoulli(inner.logits)
    if isinstance(inner, Categorical):
        mask = getattr(inner, "masks", None)
        return GumbelOneHot(inner.logits.unsqueeze(-2), None if mask is None else mask.unsqueeze(-2))
    if isinstance(inner, list) and all(isinstance(part, Categorical) for part in inner):
        return _of_several(inner)
    raise TypeError(f"no relaxation or reparameterisation is known for the action distribution {inner!r}")


def _of_several(parts: list[Any]) -> GumbelOneHot:
    """D variables, padded to the widest."""
    sizes = th.tensor([part.logits.shape[-1] for part in parts], device=parts[0].logits.device)
    widest = int(sizes.max())
    never = masked_logit(parts[0].logits.dtype)
    logits = th.stack([F.pad(part.logits, (0, widest - part.logits.shape[-1]), value=never) for part in parts], dim=-2)
    exists = th.arange(widest, device=sizes.device) < sizes.unsqueeze(-1)
    masks = [part.masks for part in parts if getattr(part, "masks", None) is not None]
    if masks:  # sb3-contrib masks all of the parts or none
        padded = [F.pad(mask, (0, widest - mask.shape[-1]), value=False) for mask in masks]
        return GumbelOneHot(logits, mask=th.stack(padded, dim=-2))
    return GumbelOneHot(logits, None if bool(exists.all()) else exists)


def latent_like(policy: ActorCriticPolicy) -> Latent:
    """A latent of the kind and size that :func:`to_latent` makes of a policy's distribution, for one step at θ = 0.

    Logits are 0 up to normalisation.

    :raises TypeError: for an action space that SB3's policies do not take
    """
    space = as_sb3_counts(policy.action_space)
    options: Any = {"dtype": next(policy.parameters()).dtype, "device": policy.device}
    if isinstance(space, FlatActions):
        parts = HybridDistribution(space)
        outputs, log_std = th.zeros(1, sum(parts.n_outputs), **options), th.zeros(sum(parts.n_scales), **options)
        return to_latent(parts.proba_distribution(outputs, log_std)).select(0)
    if isinstance(space, spaces.Box):
        zeros = th.zeros(get_action_dim(space), **options)
        return Gaussian(zeros, zeros)
    if isinstance(space, spaces.Discrete):
        return GumbelOneHot(th.zeros(1, int(space.n), **options))
    if isinstance(space, spaces.MultiDiscrete):
        sizes = th.as_tensor(space.nvec, device=policy.device)
        exists = th.arange(int(sizes.max()), device=policy.device) < sizes.unsqueeze(-1)
        return GumbelOneHot(th.zeros(exists.shape, **options), None if bool(exists.all()) else exists)
    if isinstance(space, spaces.MultiBinary):
        bits = get_action_dim(space)
        # masked ones are of one number each as well, but for those that sb3-contrib itself makes
        if isinstance(getattr(policy, "action_dist", None), (BernoulliDistribution, SeveralCategoricals)):
            return LogisticBernoulli(th.zeros(bits, **options))
        return GumbelOneHot(th.zeros(bits, 2, **options))
    raise TypeError(f"no latent is known for the action space {space}")


def to_sample(distribution: Distribution, latent: Latent, actions: th.Tensor) -> th.Tensor:
    """Actions as SB3 stores them → the latent's b (one-hot, bits, or the action before tanh).

    :param actions: ``[N]`` or ``[N, D]``
    :return: ``[N, D, K]`` for one-hots, else ``[N, D]``, in θ's dtype; of several parts all of them, flattened
    """
    theta = latent.theta
    if isinstance(distribution, HybridDistribution):
        assert isinstance(latent, Joint)
        pieces = distribution.split(actions)
        parts = distribution.parts.items()
        return latent.pack({name: to_sample(part, latent.parts[name], pieces[name]) for name, part in parts})
    if isinstance(latent, GumbelOneHot):
        index = to_classes(distribution, actions).long().reshape(theta.shape[:-1]).unsqueeze(-1)
        return th.zeros_like(theta, requires_grad=False).scatter_(-1, index, 1.0)
    if isinstance(latent, LogisticBernoulli):
        return actions.reshape(theta.shape).to(theta.dtype)
    actions = actions.reshape(theta.shape[:-1]).to(theta.dtype)
    squashed = isinstance(distribution, SquashedDiagGaussianDistribution) or getattr(distribution, "bijector", None)
    return TanhBijector.inverse(actions) if squashed else actions


class ActionsNotFinite(UsageError):
    """A policy gave an action that is not finite, which no environment is to receive."""


def require_finite_actions(actions: np.ndarray) -> None:
    """Actions that an environment may receive.

    :param actions: as a policy gave them, ``[n_envs, ...]``
    :raises ActionsNotFinite: naming the first environment whose action has a NaN or an infinity
    """
    # squares of numbers that are finite may overflow: only then are they looked at one by one
    if actions.dtype.kind == "f" and not isfinite(np.vdot(actions, actions)):
        bad = np.argwhere(~np.isfinite(actions))
        if len(bad):
            raise ActionsNotFinite(
                f"actions must be finite, but the policy gave {actions[tuple(bad[0])]} for environment {bad[0][0]}, "
                "which was not stepped"
            )


def executable(policy: ActorCriticPolicy, actions: np.ndarray) -> Any:
    """What the environment receives for actions as a rollout stores them: unscaled or clipped, or in their parts.

    :raises ActionsNotFinite: for a NaN or an infinity
    """
    require_finite_actions(actions)
    if isinstance(policy.action_space, FlatActions):
        return policy.action_space.unflatten(actions)
    if not isinstance(policy.action_space, spaces.Box):
        return actions
    if policy.squash_output:
        return policy.unscale_action(actions)
    return np.clip(actions, policy.action_space.low, policy.action_space.high)
