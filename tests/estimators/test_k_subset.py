"""Subsets of k: Z, marginals, samples and what is made of them, against the list of all subsets."""

import pytest
import torch

from sb3_relax.estimators import (
    NVIL,
    RLOO,
    SIMPLE,
    Exact,
    KSubset,
    PerVariable,
    Reinforce,
    bias_z_scores,
    check_unbiased,
    exact_gradient,
    expected_gradient,
)
from tests.estimators import twins
from tests.estimators.problems import OBJECTIVES, leaf

SIZES = [(4, 1), (4, 2), (5, 3), (3, 3)]


@pytest.fixture(params=SIZES, ids=str)
def latent(request, float64):
    size, k = request.param
    return KSubset(leaf(1.5 * torch.randn(size)), k)


def probabilities(latent, theta):
    return (latent.support() @ theta).softmax(0)


def test_everything_is_what_the_list_says(latent):
    theta, support = latent.theta, latent.support()
    p = probabilities(latent, theta)
    assert torch.allclose(latent.expand(len(support)).log_prob(support).exp(), p)
    assert torch.allclose(latent.mean(), p.detach() @ support)
    assert torch.allclose(latent.probs, p @ support)
    assert torch.allclose(latent.entropy(), -(p * p.log()).sum())
    assert torch.equal(latent.mode(), support[p.argmax()])
    other = KSubset(torch.randn_like(theta), latent.k)
    q = probabilities(other, other.theta)
    assert torch.allclose(latent.kl(other), (p * (p / q).log()).sum())
    slope = torch.randn_like(theta)
    (expected,) = torch.autograd.grad((p @ support) @ slope, theta, retain_graph=True)
    assert torch.allclose(latent.mean_gradient(slope), expected, atol=1e-12)
    (score,) = torch.autograd.grad(latent.log_prob(support[0]), theta)
    assert torch.allclose(latent.score(support[0]), score, atol=1e-12)
    wrong = torch.ones_like(theta) if latent.k < len(theta) else torch.zeros_like(theta)
    assert latent.log_prob(wrong) == -torch.inf


def test_samples_come_as_often_as_they_should(latent):
    draws = 30_000
    b = latent.detach().expand(draws).sample(torch.Generator().manual_seed(0))
    support = latent.support()
    counts = (b.unsqueeze(1) == support).all(-1).sum(0)
    assert counts.sum() == draws
    p = probabilities(latent, latent.theta.detach())
    z = (counts - draws * p) / (draws * p * (1 - p)).sqrt().clamp(min=1e-3)
    assert z.abs().max() < 4.5


def test_black_boxes_are_unbiased(float64):
    latent = KSubset(leaf(torch.randn(4)), 2)
    for objective in ("network", "with θ", "black box"):
        f = OBJECTIVES[objective](latent)
        for estimator in (Reinforce(), NVIL(), RLOO(2), Exact()):
            assert check_unbiased(estimator, latent, f).error < 1e-10
    assert check_unbiased(twins.IndependentScore(), latent, OBJECTIVES["network"](latent)).error > 1e-3


def test_simple_is_right_for_a_linear_f_and_has_the_bias_of_its_closed_form(float64):
    """E[ĝ] = Cov(b) E[∂f/∂b]; straight-through of independent bits is wrong for a linear f."""
    latent = KSubset(leaf(torch.randn(5)), 2)
    linear = OBJECTIVES["linear"](latent)
    exact = exact_gradient(latent, linear).score
    assert torch.allclose(expected_gradient(SIMPLE(), latent, linear).score, exact, atol=1e-12)
    assert not torch.allclose(expected_gradient(twins.IndependentSIMPLE(), latent, linear).score, exact, atol=1e-3)

    def cubic(b):
        return (b - 0.2).pow(3).sum(-1) + b[..., 0] * b[..., 1]

    support, p = latent.support(), probabilities(latent, latent.theta.detach())
    x = support.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(cubic(x).sum(), x)
    found = expected_gradient(SIMPLE(), latent, cubic).score
    assert torch.allclose(found, latent.mean_gradient(p @ slopes))
    assert (found - exact_gradient(latent, cubic).score).abs().max() > 1e-3


def test_in_single_precision_with_extreme_logits():
    latent = KSubset(torch.tensor([90.0, -90.0, 0.0, 0.1, -80.0]).expand(50, 5), 2)
    assert (latent.sample().sum(-1) == 2).all()
    assert torch.allclose(latent.mean().sum(-1), torch.tensor(2.0))
    estimate = SIMPLE()(latent, lambda b: b.square().sum(-1))
    assert estimate.grad.isfinite().all()


@pytest.mark.parametrize(("size", "k", "offset"), [(1000, 500, 0.0), (200, 20, 100.0), (200, 20, -1000.0)])
def test_many_things_in_single_precision(size, k, offset):
    """Marginals were up to 1.0005, and off by .009 where all logits had the same offset."""
    theta = torch.randn(size, generator=torch.Generator().manual_seed(0)) + offset
    latent, exact = KSubset(theta, k), KSubset(theta.double(), k)
    assert latent.marginals.dtype == latent.log_prob(latent.mode()).dtype == latent.entropy().dtype == torch.float32
    assert latent.marginals.max() <= 1
    assert latent.marginals.double().sum().item() == pytest.approx(k, abs=1e-4)
    assert torch.allclose(latent.marginals.double(), exact.marginals, rtol=0, atol=1e-6)
    assert latent.entropy().item() == pytest.approx(exact.entropy().item(), rel=1e-6)
    assert latent.log_prob(latent.mode()).item() == pytest.approx(exact.log_prob(exact.mode()).item(), rel=1e-6)
    shifted = KSubset(theta - offset, k)
    assert latent.kl(shifted).abs().item() < 1e-6
    one, other = (q.expand(20).sample(torch.Generator().manual_seed(1)) for q in (latent, shifted))
    assert torch.equal(one, other)
    assert (one.sum(-1) == k).all()


def test_a_thing_that_is_hardly_drawn_is_untestable():
    latent = KSubset(torch.tensor([0.0, 0.3, -0.2, -20.0]), 2)
    weight = torch.arange(4.0)
    exact = latent.mean_gradient(weight)
    z = bias_z_scores(RLOO(2), latent, lambda b: b @ weight, exact, 2_000, torch.Generator().manual_seed(0))
    assert z.isnan().tolist() == [False, False, False, True]
    every = KSubset(torch.tensor([0.1, 2.0, -3.0]), 3)
    z = bias_z_scores(Reinforce(), every, lambda b: b.sum(-1), torch.zeros(3), 2_000)
    assert z.isfinite().all()


def test_errors():
    for k in (0, 4, 1.0):
        with pytest.raises(ValueError, match="k a whole number from 1 to D; got shape"):
            KSubset(torch.zeros(2, 3), k)
    with pytest.raises(TypeError, match="depend on each other: they are one variable"):
        PerVariable(RLOO())(KSubset(torch.zeros(2, 3), 1), lambda b: b)
    with pytest.raises(ValueError, match="enumeration would visit"):
        KSubset(torch.zeros(40), 20).support()
