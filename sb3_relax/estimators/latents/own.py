"""Whether a latent that somebody else wrote is what :class:`Latent` says, before anything is computed of it."""

from __future__ import annotations

from weakref import WeakSet

import torch
from torch import Tensor

from sb3_relax.estimators.latents.base import ConditionedLatent, Latent
from sb3_relax.estimators.latents.joint import Joint
from sb3_relax.estimators.latents.torch_samples import following

#: classes that were looked at
_looked_at: WeakSet[type] = WeakSet()


def require_contract(latent: Latent) -> None:
    """Look once at every class of latents that is not ours: the shapes of a sample, its log-probability and its score.

    A score that is summed over the variables, or a log-probability of each of them, would fail somewhere else, or
    nowhere. What is drawn for it leaves the estimate's randomness as it is.

    :raises TypeError: where ``event_ndim``, ``sample_ndim`` or ``theta`` is missing
    :raises ValueError: for another shape, naming it and the right one
    """
    if isinstance(latent, Joint):
        for part in latent.parts.values():
            require_contract(part)
    kind = type(latent)
    if kind.__module__.startswith("sb3_relax.") or kind in _looked_at:
        return
    for name in ("event_ndim", "sample_ndim", "theta"):
        if not hasattr(latent, name):
            raise TypeError(f"{kind.__name__} must have {name}, as every Latent: see its documentation")
    with following(torch.Generator(latent.theta.device).manual_seed(0)):
        b = latent.sample().detach()
    batch, theta = latent.batch_shape, latent.theta.shape
    _require_shape(kind, "sample()", b, torch.Size([*batch, *latent.sample_shape]))
    _require_shape(kind, "log_prob(b), which is one number for each sample,", latent.log_prob(b), batch)
    _require_shape(kind, "score(b), which is that of θ,", latent.score(b), theta)
    if isinstance(latent, ConditionedLatent):
        _require_shape(kind, "path_gradient(b, slope), which is that of θ,", latent.path_gradient(b, b), theta)
    _looked_at.add(kind)


def _require_shape(kind: type[Latent], what: str, value: Tensor, shape: torch.Size) -> None:
    if value.shape != shape:
        raise ValueError(f"{kind.__name__}.{what} must have shape {tuple(shape)} here; got {tuple(value.shape)}")
