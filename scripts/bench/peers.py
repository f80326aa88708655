"""Other libraries' RELAX on the same problem, where the person running this has installed them.

Neither is a dependency: storchastic is AGPL. They are called through their public interfaces alone.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch

from sb3_relax.estimators import RELAX, MLPSurrogate
from scripts.bench.problems import Problem


class Step(NamedTuple):
    """One estimate and its backward, of a batch mean."""

    run: Callable[[], None]
    theta: torch.Tensor  #: leaf ``[batch, D]``: the gradient of each row, over ``batch``, is in ``.grad`` afterwards


Steps = dict[str, Step]


def ours(problem: Problem, batch: int, surrogate: MLPSurrogate, coupled: bool = True) -> Steps:
    """This package's RELAX, in the same form."""
    theta = _leaf(problem, batch)
    estimator = RELAX(surrogate, coupled, center=False)
    parameters = [theta, *estimator.parameters()]

    def run() -> None:
        for parameter in parameters:
            parameter.grad = None
        estimator(problem.latent.at(theta), problem.f).backward()

    return {"sb3_relax relax" + ("" if coupled else ", independent"): Step(run, theta)}


def _leaf(problem: Problem, batch: int) -> torch.Tensor:
    theta = problem.latent.theta.detach()
    return theta.expand(batch, *theta.shape).clone().requires_grad_()


def storchastic(problem: Problem, batch: int, surrogate: MLPSurrogate) -> Steps:
    """storch.method.RELAX."""
    import storch
    from torch.distributions import Bernoulli

    theta = _leaf(problem, batch)
    relax = storch.method.RELAX("b", c_phi=surrogate, in_dim=problem.latent.theta.shape[-1])
    parameters = [theta, *relax.parameters()]

    def run() -> None:
        for parameter in parameters:
            parameter.grad = None
        b = relax(Bernoulli(logits=storch.denote_independent(theta, 0, "batch")))
        storch.add_cost(storch.deterministic(problem.f)(b), "f")
        storch.backward()

    return {"storchastic relax": Step(run, theta)}


def pydrobert(problem: Problem, batch: int, surrogate: MLPSurrogate) -> Steps:
    """pydrobert.torch.estimators.relax, for one bit: it gives every bit an f of its own, so a joint f needs one bit."""
    if problem.latent.theta.shape[-1] > 1:
        return {}
    from pydrobert.torch.estimators import relax, to_b, to_z

    theta = _leaf(problem, batch)
    phi = list(surrogate.parameters())

    def run() -> None:
        for parameter in (theta, *phi):
            parameter.grad = None
        z = to_z(theta, "bern")
        b = to_b(z, "bern")
        g = relax(problem.f(b).unsqueeze(-1), b, theta, z, lambda z: surrogate(z).unsqueeze(-1), "bern")
        theta.backward(g.detach() / batch)
        for parameter, gradient in zip(phi, torch.autograd.grad(g.square().sum() / batch, phi), strict=True):
            parameter.grad = gradient

    return {"pydrobert-pytorch relax": Step(run, theta)}


#: module → what it brings
PEERS: dict[str, Callable[[Problem, int, MLPSurrogate], Steps]] = {"storch": storchastic, "pydrobert": pydrobert}


def installed() -> list[str]:
    """The peers that can be imported here."""
    return [name for name in PEERS if find_spec(name) is not None]
