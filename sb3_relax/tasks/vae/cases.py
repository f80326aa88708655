"""The estimators of Table 1 and ours, by name, as the VAE uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from sb3_relax.estimators import ESTIMATORS, Estimator, ThetaSurrogate
from sb3_relax.tasks.vae.model import MODELS


class Baseline(nn.Module):
    """C_ψ of NVIL, MuProp and REBAR: a tanh network of the probabilities σ(θ), which stand for x and the bits below."""

    def __init__(self, units: int):
        super().__init__()
        output = nn.Linear(units, 1)
        nn.init.zeros_(output.weight)
        self.network = nn.Sequential(nn.Linear(units, units), nn.Tanh(), output)

    def forward(self, theta: Tensor) -> Tensor:
        return self.network(theta.sigmoid()).squeeze(-1)


def surrogate(units: int) -> ThetaSurrogate:
    """r̂_ρ of the paper: two layers; what stands for x and b_{<l} is θ_l, the encoder's view of them."""
    return ThetaSurrogate(units, (units, units), squash="sigmoid")


class Case(NamedTuple):
    """An estimator as the VAE uses it."""

    build: Callable[[int], Estimator]  #: bits in the layer → the layer's estimator
    description: str  #: in a line


#: f is less its own running mean already (``LogWeight``'s shift), so that no estimator subtracts one of its own
CASES: dict[str, Case] = {
    "concrete": Case(
        lambda units: ESTIMATORS["concrete"](),
        "all of the bound relaxed, decoder and prior included, as its authors have it",
    ),
    "concrete_bits": Case(
        lambda units: ESTIMATORS["concrete"](hard_value=True),
        "Concrete for the encoder alone; the decoder and the prior learn on bits, as with every estimator below",
    ),
    "nvil": Case(
        lambda units: ESTIMATORS["nvil"](baseline=Baseline(units)),
        "the score function, less a learned baseline and a running mean of f",
    ),
    "muprop": Case(
        lambda units: ESTIMATORS["muprop"](baseline=Baseline(units)),
        "the score function, less a first-order expansion of f and a learned baseline",
    ),
    "rebar": Case(lambda units: ESTIMATORS["rebar"](center=False), "c(z) = η f(σ_τ(z)): Grathwohl et al.'s Eq 8"),
    "rebar_baseline": Case(
        lambda units: ESTIMATORS["rebar"](baseline=Baseline(units), center=False),
        "REBAR with the baseline that NVIL and MuProp have: Tucker et al.'s",
    ),
    "relax": Case(
        lambda units: ESTIMATORS["rebar"](residual=surrogate(units), center=False),
        "c(z) = η f(σ_τ(z)) + r(z), r a network: what the paper calls RELAX here",
    ),
    "relax_free": Case(
        lambda units: ESTIMATORS["relax"](surrogate=surrogate(units), center=False),
        "c(z) a network alone, and f a black box",
    ),
    # the running baseline is f's shift
    "reinforce": Case(lambda units: ESTIMATORS["reinforce"](), "the score function, less a running mean of f"),
    "rloo": Case(lambda units: ESTIMATORS["rloo"](), "two samples, each the other's baseline"),
    "disarm": Case(lambda units: ESTIMATORS["disarm"](), "two antithetic samples, their order integrated out"),
    "double_cv": Case(
        lambda units: ESTIMATORS["double_cv"](scale=-1.0),
        "RLOO with a first-order expansion of f as a second control variate",
    ),
    "rodeo": Case(lambda units: ESTIMATORS["rodeo"](), "RLOO with Stein control variates from neighbours of a sample"),
    "relaxed_double_cv": Case(
        lambda units: ESTIMATORS["relaxed_double_cv"](surrogate=surrogate(units), scale=-1.0),
        "Double CV with a network of the relaxed samples (ours)",
    ),
    "vimco": Case(
        lambda units: ESTIMATORS["vimco"](), "the bound of two samples, each the other's baseline; one layer alone"
    ),
}


def build(name: str, layers: int, units: int) -> nn.ModuleList:
    """One estimator of :data:`CASES` for each stochastic layer.

    :raises ValueError: for an unknown name, listing those that exist, and for VIMCO with several layers
    """
    if name not in CASES:
        raise ValueError(f"unknown estimator {name!r}; there are {', '.join(CASES)}")
    estimators = [CASES[name].build(units) for _ in range(layers)]
    if layers > 1 and type(estimators[0]).target is not Estimator.target:
        single = ", ".join(model for model, (depth, _) in MODELS.items() if depth == 1)
        raise ValueError(
            f"{name} estimates a bound of several samples, which no single layer can: "
            f"use a model of one layer ({single})"
        )
    return nn.ModuleList(estimators)
