"""Every estimator by name, for tests and command lines."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import signature
from typing import Any

from sb3_relax.estimators.base import Estimator, require_is_latent
from sb3_relax.estimators.latents import Latent
from sb3_relax.estimators.methods.arm import ARM
from sb3_relax.estimators.methods.arms import ARMS
from sb3_relax.estimators.methods.carms import CARMS
from sb3_relax.estimators.methods.concrete import Concrete
from sb3_relax.estimators.methods.coupled_categorical import CoupledCategorical
from sb3_relax.estimators.methods.curvature_lax import CurvatureLAX
from sb3_relax.estimators.methods.disarm import DisARM
from sb3_relax.estimators.methods.dlax import DLAX
from sb3_relax.estimators.methods.double_cv import DoubleCV
from sb3_relax.estimators.methods.enumeration import Exact
from sb3_relax.estimators.methods.exact_correction import ExactCorrection
from sb3_relax.estimators.methods.gumbel_rao import GumbelRao
from sb3_relax.estimators.methods.lax import LAX
from sb3_relax.estimators.methods.linearised_reparam import LinearisedReparam
from sb3_relax.estimators.methods.mirrored import Mirrored
from sb3_relax.estimators.methods.muprop import MuProp
from sb3_relax.estimators.methods.nvil import NVIL
from sb3_relax.estimators.methods.rebar import REBAR
from sb3_relax.estimators.methods.reinforce import Reinforce
from sb3_relax.estimators.methods.reinmax import ReinMax
from sb3_relax.estimators.methods.relax import RELAX
from sb3_relax.estimators.methods.relaxed_double_cv import RelaxedDoubleCV
from sb3_relax.estimators.methods.reparam import Reparam
from sb3_relax.estimators.methods.rloo import RLOO
from sb3_relax.estimators.methods.rodeo import RODEO
from sb3_relax.estimators.methods.simple import SIMPLE
from sb3_relax.estimators.methods.straight_through import StraightThrough
from sb3_relax.estimators.methods.unordered_set import UnorderedSet
from sb3_relax.estimators.methods.vimco import VIMCO

#: name → class. A new estimator's one line: every shared test and command line finds it here.
ESTIMATORS: dict[str, type[Estimator]] = {
    "reinforce": Reinforce,
    "mirrored": Mirrored,
    "reparam": Reparam,
    "linearised_reparam": LinearisedReparam,
    "concrete": Concrete,
    "straight_through": StraightThrough,
    "gumbel_rao": GumbelRao,
    "reinmax": ReinMax,
    "simple": SIMPLE,
    "nvil": NVIL,
    "muprop": MuProp,
    "vimco": VIMCO,
    "rloo": RLOO,
    "unordered_set": UnorderedSet,
    "arm": ARM,
    "disarm": DisARM,
    "arms": ARMS,
    "coupled_categorical": CoupledCategorical,
    "carms": CARMS,
    "double_cv": DoubleCV,
    "relaxed_double_cv": RelaxedDoubleCV,
    "rodeo": RODEO,
    "rebar": REBAR,
    "lax": LAX,
    "lax_curvature": CurvatureLAX,
    "dlax": DLAX,
    "relax": RELAX,
    "exact_correction": ExactCorrection,
    "exact": Exact,
}

#: other names of estimators that are in :data:`ESTIMATORS` → their names there
ALIASES = {
    # the gradient of half the variance of K log-weights (Richter et al. 2020) is RLOO's, sample by sample
    "vargrad": "rloo",
}


def estimators_of(latent: Latent) -> list[str]:
    """Names of the estimators that take ``latent``; ``"vimco"`` among them, though its target is a bound, not E[f]."""
    return [name for name, kind in ESTIMATORS.items() if isinstance(latent, kind.latents)]


def settings_of(kind: type[Estimator]) -> list[str]:
    """Names of what :func:`make` takes for one class: its constructor's parameters, and those of its parts."""
    parameters = [*signature(kind.make).parameters.values(), *signature(kind.__init__).parameters.values()]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return list(dict.fromkeys(name for name in names if name not in ("self", "latent")))


def require_known_settings(kind: type[Estimator], settings: Iterable[str]) -> None:
    """Refuse a setting that an estimator does not have.

    :raises TypeError: listing those that it has
    """
    known = settings_of(kind)
    for setting in settings:
        if setting not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise TypeError(f"{kind.__name__} has no setting {setting!r}: {has}")


def make(name: str, latent: Latent, **kwargs: Any) -> Estimator:
    """An estimator by name, with default parts (surrogate, baseline, temperature) fitting ``latent``.

    One name has another target than ∂θ E[f(b)]: ``"vimco"`` takes f for a log-weight, and estimates the gradient of the
    bound E[log 1/K Σ_k exp f(b_k)].

    :param name: a key of :data:`ESTIMATORS`, or ``"vargrad"``, another name of ``"rloo"``
    :param latent: the latent it is for: its event's size, dtype and device are used, not its θ
    :param kwargs: for the class's constructor
    :raises ValueError: for an unknown name, listing those that take ``latent``
    :raises TypeError: for a latent that the estimator does not take, or a setting that it does not have

    Example::

        estimate = make("relax", q)(q, f)
    """
    require_is_latent(latent)
    name = ALIASES.get(name, name)
    if name not in ESTIMATORS:
        raise ValueError(f"unknown estimator {name!r}; for {type(latent).__name__}: {', '.join(estimators_of(latent))}")
    kind = ESTIMATORS[name]
    require_known_settings(kind, kwargs)
    estimator = kind.make(latent, **kwargs)
    estimator.require_latent(latent)
    # φ is trained in single precision at least: a step of Adam is less than bfloat16 resolves
    return estimator.to(latent.theta.device, latent.computing_dtype)
