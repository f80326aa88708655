"""Surrogates' slopes against autograd, and what they see."""

import pytest
import torch

from sb3_relax.estimators import (
    REBAR,
    RELAX,
    GumbelOneHot,
    LogisticBernoulli,
    MLPSurrogate,
    RelaxedDoubleCV,
    ThetaSurrogate,
    check_unbiased,
)
from sb3_relax.estimators.functions import value_and_slope
from tests.estimators.problems import lively


@pytest.mark.parametrize("latent", [LogisticBernoulli(torch.randn(5, 4)), GumbelOneHot(torch.randn(5, 2, 3))])
@pytest.mark.parametrize("kind", [MLPSurrogate, ThetaSurrogate])
def test_slope(kind, latent):
    c = lively(kind.of(latent, (7, 6)))
    torch.nn.init.normal_(c.output.weight)
    z = torch.randn(3, *latent.theta.shape, requires_grad=True)
    value, slope = value_and_slope(c, z, latent)
    function = c.given(latent) if kind is ThetaSurrogate else c
    assert torch.equal(value, function(z))
    assert torch.allclose(slope, torch.autograd.grad(function(z).sum(), z)[0], atol=1e-6)


def test_theta_surrogate_sees_theta_and_keeps_it_fixed():
    theta = torch.randn(5, 4, requires_grad=True)
    latent = LogisticBernoulli(theta)
    c = ThetaSurrogate.of(latent)
    torch.nn.init.normal_(c.output.weight)
    z = torch.randn(5, 4)
    value, slope = value_and_slope(c, z, latent)
    other, _ = value_and_slope(c, z, LogisticBernoulli(theta + 1))
    assert (value - other).abs().max() > 1e-3
    assert torch.autograd.grad(value.sum() + slope.sum(), theta, allow_unused=True) == (None,)


@pytest.mark.parametrize(
    "estimator", [RELAX, lambda c: REBAR(residual=c), RelaxedDoubleCV], ids=["RELAX", "REBAR", "RelaxedDoubleCV"]
)
def test_unbiased_with_theta_surrogate(estimator):
    torch.manual_seed(0)
    latent = LogisticBernoulli(torch.randn(2, dtype=torch.float64))
    c = ThetaSurrogate.of(latent, (5,))
    made = lively(estimator(c)).double()
    torch.nn.init.normal_(c.output.weight)
    assert check_unbiased(made, latent, lambda b: (b - 0.3).square().sum(-1) + b.prod(-1), nodes=60).unbiased
