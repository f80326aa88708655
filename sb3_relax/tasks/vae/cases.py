"""The estimators of Table 1 and ours, by name, as the VAE uses them."""

from __future__ import annotations

from collections.abc import Callable

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


#: name → bits in the layer → the layer's estimator
CASES: dict[str, Callable[[int], Estimator]] = {
    # all of the bound relaxed, decoder and prior included, as its authors have it
    "concrete": lambda units: ESTIMATORS["concrete"](),
    # the encoder's gradient alone; the others learn on bits, as with every estimator below
    "concrete_bits": lambda units: ESTIMATORS["concrete"](hard_value=True),
    "nvil": lambda units: ESTIMATORS["nvil"](baseline=Baseline(units)),
    "muprop": lambda units: ESTIMATORS["muprop"](baseline=Baseline(units)),
    # Grathwohl et al.'s Eq 8
    "rebar": lambda units: ESTIMATORS["rebar"](),
    # Tucker et al.'s, who give it the baseline that NVIL and MuProp have
    "rebar_baseline": lambda units: ESTIMATORS["rebar"](baseline=Baseline(units)),
    # c(z) = η f(σ_τ(z)) + r̂(z): what the paper calls RELAX here
    "relax": lambda units: ESTIMATORS["rebar"](residual=surrogate(units)),
    # c(z) a network alone, and f a black box
    "relax_free": lambda units: ESTIMATORS["relax"](surrogate=surrogate(units)),
    # the running baseline is f's shift
    "reinforce": lambda units: ESTIMATORS["reinforce"](),
    "rloo": lambda units: ESTIMATORS["rloo"](),
    "disarm": lambda units: ESTIMATORS["disarm"](),
    "double_cv": lambda units: ESTIMATORS["double_cv"](),
    "rodeo": lambda units: ESTIMATORS["rodeo"](),
    "relaxed_double_cv": lambda units: ESTIMATORS["relaxed_double_cv"](surrogate=surrogate(units)),
    "vimco": lambda units: ESTIMATORS["vimco"](),
}


def build(name: str, layers: int, units: int) -> nn.ModuleList:
    """One estimator of :data:`CASES` for each stochastic layer.

    :raises ValueError: for an unknown name, listing those that exist, and for VIMCO with several layers
    """
    if name not in CASES:
        raise ValueError(f"unknown estimator {name!r}; there are {', '.join(CASES)}")
    estimators = [CASES[name](units) for _ in range(layers)]
    if layers > 1 and type(estimators[0]).target is not Estimator.target:
        single = ", ".join(model for model, (depth, _) in MODELS.items() if depth == 1)
        raise ValueError(
            f"{name} estimates a bound of several samples, which no single layer can: "
            f"use a model of one layer ({single})"
        )
    return nn.ModuleList(estimators)
