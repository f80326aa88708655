"""E[ĝ] equals the exact gradient to 1e-10: b enumerated, noise integrated, no sampling. Broken twins do not."""

import math

import pytest
import torch

from sb3_relax.estimators import (
    LAX,
    RELAX,
    ExactCorrection,
    GumbelOneHot,
    LogisticBernoulli,
    Reinforce,
    exact_gradient,
    expected_gradient,
)
from tests.estimators import twins
from tests.estimators.problems import DISCRETE, gaussian, gaussian_net, hard_net, relaxed_net

TOLERANCE = 1e-10


def black_box(bits):
    """No graph, no smoothness: torch never sees it."""
    return math.sin(100 * sum((i + 1) * bit for i, bit in enumerate(bits)))


OBJECTIVES = {
    "constant": lambda latent: lambda b: torch.full((len(b),), 3.0),
    "linear": lambda latent: lambda b: b.flatten(1).sum(1),
    "quadratic": lambda latent: lambda b: (b.flatten(1) - 0.4).square().sum(1),
    "network": lambda latent: hard_net(latent, 5.0),
    "black box": lambda latent: lambda b: torch.tensor([black_box(row.flatten().tolist()) for row in b]),
}


def error(estimator, latent, f, nodes):
    return (expected_gradient(estimator, latent, f, nodes) - exact_gradient(latent, f)).abs().max().item()


def estimators_for(latent):
    return {
        "reinforce": Reinforce(),
        "relax coupled": RELAX(relaxed_net(latent)),
        "relax independent": RELAX(relaxed_net(latent), coupled=False),
        "exact correction": ExactCorrection(hard_net(latent)),
    }


@pytest.mark.parametrize("problem", DISCRETE)
@pytest.mark.parametrize("name", ["reinforce", "relax coupled", "relax independent", "exact correction"])
@pytest.mark.parametrize("objective", ["network", "black box"])
def test_discrete(problem, name, objective, float64):
    make, nodes = DISCRETE[problem]
    latent = make()
    f = OBJECTIVES[objective](latent)
    assert exact_gradient(latent, f).abs().max() > 1e-3
    assert error(estimators_for(latent)[name], latent, f, nodes) < TOLERANCE


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", ["relax coupled", "relax independent", "exact correction"])
def test_objectives(objective, name, float64):
    make, nodes = DISCRETE["two bits"]
    latent = make()
    assert error(estimators_for(latent)[name], latent, OBJECTIVES[objective](latent), nodes) < TOLERANCE


def polynomial(b):
    return (b**3).sum(-1) - 2 * b.prod(-1) + 0.5 * b[..., 0] ** 2


def test_lax_with_a_polynomial_objective(float64):
    latent = gaussian()
    f = polynomial
    estimator = LAX(gaussian_net(latent, 1.0))
    errors = [
        (expected_gradient(estimator, latent, f, n) - exact_gradient(latent, f, n)).abs().max().item() for n in (20, 80)
    ]
    # Gauss-Hermite is exact for the polynomial and converges geometrically for the network
    assert errors[1] < TOLERANCE < errors[0]


def test_lax_with_a_polynomial_surrogate_is_exact_with_few_nodes(float64):
    latent = gaussian()
    estimator = LAX(lambda b: (b**4).sum(-1) - b.prod(-1))
    assert error(estimator, latent, polynomial, 8) < TOLERANCE


REJECTED = 1e-3


@pytest.mark.parametrize("twin", [twins.DetachedTilde, twins.FlippedCorrection, twins.DoubledCorrection])
@pytest.mark.parametrize("problem", ["two bits", "three classes"])
def test_broken_relax_is_rejected(twin, problem, float64):
    make, nodes = DISCRETE[problem]
    latent = make()
    f = OBJECTIVES["network"](latent)
    assert error(twin(relaxed_net(latent)), latent, f, nodes) > REJECTED


@pytest.mark.parametrize("coupled", [True, False])
def test_broken_samplers_are_rejected(coupled, float64):
    theta = torch.tensor([[0.5, -1.0, 0.9]])
    f = OBJECTIVES["network"](GumbelOneHot(theta))
    surrogate = relaxed_net(GumbelOneHot(theta))
    assert error(RELAX(surrogate, coupled), GumbelOneHot(theta), f, 52) < TOLERANCE
    assert error(RELAX(surrogate, coupled), twins.LogPbGumbel(theta), f, 52) > REJECTED

    theta = torch.tensor([0.8, -1.5])
    f = OBJECTIVES["network"](LogisticBernoulli(theta))
    surrogate = relaxed_net(LogisticBernoulli(theta))
    assert error(RELAX(surrogate, coupled), LogisticBernoulli(theta), f, 60) < TOLERANCE
    assert error(RELAX(surrogate, coupled), twins.WrongSignBernoulli(theta), f, 60) > REJECTED


def test_fresh_noise_is_rejected(float64):
    latent = gaussian()
    surrogate = gaussian_net(latent)
    assert error(LAX(surrogate), latent, polynomial, 80) < 1e-9
    assert error(twins.FreshNoiseLAX(surrogate), latent, polynomial, 80) > REJECTED


def test_several_draws_keep_the_mean(float64):
    """ĝ with K draws is the mean of K single-draw estimates with the same noise."""
    latent = GumbelOneHot(torch.randn(5, 2, 3))
    for coupled in (True, False):
        surrogate = relaxed_net(GumbelOneHot(torch.zeros(2, 3)))
        b, value = latent.sample(), torch.randn(5)
        several = RELAX(surrogate, coupled, draws=4)
        noise = torch.rand(several.noise_shape(latent))
        singles = noise.unbind(-4)  # draws is the dimension before [*batch, D, K]
        single = RELAX(surrogate, coupled)
        grads = [single.finish(latent, b, value, u.unsqueeze(-4)).grad for u in singles]
        assert torch.allclose(several.finish(latent, b, value, noise).grad, torch.stack(grads).mean(0))
