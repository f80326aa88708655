"""From torch.distributions to the latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    Distribution,
    Gamma,
    Independent,
    LogNormal,
    MixtureSameFamily,
    Normal,
    StudentT,
    VonMises,
)
from torch.distributions import OneHotCategorical as OneHot

from sb3_relax.estimators.latents.base import Latent
from sb3_relax.estimators.latents.bernoulli import LogisticBernoulli
from sb3_relax.estimators.latents.categorical import GumbelOneHot
from sb3_relax.estimators.latents.circular import Circular
from sb3_relax.estimators.latents.gaussian import Gaussian, LogGaussian
from sb3_relax.estimators.latents.implicit import Implicit
from sb3_relax.estimators.latents.mixture import GaussianMixture
from sb3_relax.estimators.latents.students_t import StudentsT
from sb3_relax.estimators.precision import computing_dtype


def as_latent(distribution: Distribution) -> Latent:
    """The latent of a distribution, its θ attached to whatever made the distribution's parameters.

    Batch and event are the distribution's own: its ``batch_shape`` is the batch, and what ``Independent`` declares to
    be one event are the D variables of one sample. So ``Normal(loc, scale)`` of shape [B, D] is B · D samples of one
    number each, and ``Independent(Normal(loc, scale), 1)`` is B samples of D numbers, as everywhere in torch.

    ===================================  ======================  ====================================================
    distribution                         latent                  a sample, with D variables in an event (1 where none)
    ===================================  ======================  ====================================================
    Bernoulli                            LogisticBernoulli       bits, ``[*batch, D]``
    Categorical, OneHotCategorical       GumbelOneHot            one-hots, ``[*batch, D, K]``
    Normal, LogNormal                    Gaussian, LogGaussian   numbers, ``[*batch, D]``
    StudentT of fixed df                 StudentsT               numbers, ``[*batch, D]``
    Gamma, Beta                          Implicit                numbers, ``[*batch, D]``
    Dirichlet                            Implicit                shares, ``[*batch, K]``
    VonMises                             Circular                points of the circle, ``[*batch, D, 2]``
    MixtureSameFamily of Normals         GaussianMixture         numbers, ``[*batch, D]``
    ===================================  ======================  ====================================================

    :param distribution: one of torch.distributions'
    :return: a latent. An event of several dimensions is flattened
    :raises TypeError: for a distribution without a relaxation or a reparameterisation that is known here, listing those
        that have one, and for what is no distribution

    Example::

        q = as_latent(Independent(torch.distributions.Bernoulli(logits=encoder(x)), 1))
    """
    if not isinstance(distribution, Distribution):
        raise TypeError(
            "as_latent takes one of torch.distributions, such as Bernoulli(logits=logits); got "
            f"{type(distribution).__name__}"
        )
    event_ndim = 0
    while isinstance(distribution, Independent):
        event_ndim += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist

    def of_variables(parameter: Tensor, own_ndim: int = 0) -> Tensor:
        """``[*batch, *event, *own]`` → ``[*batch, D, *own]``."""
        end = parameter.dim() - own_ndim
        if event_ndim == 0:
            return parameter.unsqueeze(end)
        return parameter.flatten(end - event_ndim, end - 1)

    if isinstance(distribution, Dirichlet) and event_ndim:
        raise TypeError(
            "several Dirichlets in one event are not known here: give each a name in a Joint, or leave Independent out"
        )
    for kind, make in _LATENTS.items():
        if isinstance(distribution, kind):
            return make(distribution, of_variables)
    raise TypeError(
        f"no relaxation or reparameterisation is known for {type(distribution).__name__}. as_latent takes "
        f"{', '.join(_names())}, and Independent of these (of MixtureSameFamily those of single Normals). For another "
        "one write a subclass of Latent with at(), sample(), log_prob() and score(): RLOO and NVIL need no more"
    )


Reshape = Callable[..., Tensor]


def _implicit(distribution: Gamma | Beta, of_variables: Reshape) -> Implicit:
    if isinstance(distribution, Gamma):
        first, second = distribution.concentration, distribution.rate
    else:
        first, second = distribution.concentration1, distribution.concentration0
    return Implicit(type(distribution)(of_variables(first), of_variables(second), validate_args=False))


def _students_t(distribution: StudentT, of_variables: Reshape) -> StudentsT:
    df, loc, scale = (of_variables(p) for p in (distribution.df, distribution.loc, distribution.scale))
    return StudentsT(df, loc, scale.log())


def _mixture(distribution: MixtureSameFamily, of_variables: Reshape) -> GaussianMixture:
    """:raises TypeError: for a mixture of anything but single normals"""
    parts = distribution.component_distribution
    if not isinstance(parts, Normal):
        raise TypeError(
            f"of mixtures those of Normals alone are known here; got one of {parts!r}. Where several numbers share "
            "their component, draw it in a layer below them: layered([components, numbers], ...)"
        )
    logits = _logits(distribution.mixture_distribution)
    loc, log_scale = parts.loc, parts.scale.log()
    parameters = torch.broadcast_tensors(logits, loc, log_scale)
    return GaussianMixture(*(of_variables(parameter, 1) for parameter in parameters))


#: kind of distribution → its latent, of it and of what brings a parameter into the shape ``[*batch, D, ...]``
_LATENTS: dict[Any, Callable[[Any, Reshape], Latent]] = {
    LogNormal: lambda p, of: LogGaussian(of(p.loc), of(p.scale.log())),
    Normal: lambda p, of: Gaussian(of(p.mean), of(p.stddev.log())),
    Bernoulli: lambda p, of: LogisticBernoulli(of(_logits(p))),
    (Categorical, OneHot): lambda p, of: GumbelOneHot(of(_logits(p), 1)),
    (Gamma, Beta): _implicit,
    Dirichlet: lambda p, of: Implicit(p),
    StudentT: _students_t,
    VonMises: lambda p, of: Circular(of(p.loc), of(p.concentration.log())),
    MixtureSameFamily: _mixture,
}


def _names() -> list[str]:
    """The distributions of :data:`_LATENTS`."""
    return [kind.__name__ for key in _LATENTS for kind in (key if isinstance(key, tuple) else (key,))]


def _logits(distribution: Bernoulli | Categorical | OneHot) -> Tensor:
    """Its logits, of probabilities that were given in float16 or bfloat16 as well.

    torch keeps probabilities from 0 and 1 by the type's rounding, which makes .0078 of one of .001 in bfloat16.
    """
    if isinstance(distribution, OneHot):
        return _logits(distribution._categorical)
    probs = vars(distribution).get("probs")
    # both are there as soon as the other one has been asked for, which MixtureSameFamily does
    if probs is None or distribution._param is not probs or probs.dtype == computing_dtype(probs.dtype):
        return distribution.logits
    wide = type(distribution)(probs=probs.to(computing_dtype(probs.dtype)), validate_args=False)
    return wide.logits.to(probs.dtype)
