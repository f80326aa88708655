"""Concrete, StraightThrough, GumbelRao and ReinMax: their bias is what theory says it is."""

import itertools

import pytest
import torch

from sb3_relax.estimators import (
    Concrete,
    GumbelOneHot,
    GumbelRao,
    LogisticBernoulli,
    ReinMax,
    StraightThrough,
    check_unbiased,
    exact_gradient,
    expected_gradient,
    gradient_variance,
)
from tests.estimators import twins
from tests.estimators.problems import leaf

#: low enough for the bias to be past its changes of sign, and to fall as τ
TEMPERATURES = (0.25, 0.125, 0.0625, 0.03125)
LATENTS = {
    "bit": lambda: LogisticBernoulli(leaf(torch.tensor([0.7]))),
    "classes": lambda: GumbelOneHot(leaf(torch.tensor([[0.3, -0.4]]))),
}


def cubic(b):
    x = b.flatten(-2) if b.shape[-1] == 2 else b
    return (x - 0.2).pow(3).sum(-1) + 2 * x[..., -1].pow(2)


def bias(estimator, latent, f, nodes=800):
    return (expected_gradient(estimator, latent, f, nodes).score - exact_gradient(latent, f).score).abs().max().item()


@pytest.mark.parametrize("name", LATENTS)
def test_concrete_is_biased_and_less_so_at_low_temperature(name, float64):
    latent = LATENTS[name]()
    biases = [bias(Concrete(t), latent, cubic) for t in TEMPERATURES]
    assert biases[0] > 0.02
    assert all(cold < 0.85 * warm for warm, cold in itertools.pairwise(biases))
    # E[f(σ_τ(z))] differs from E[f(b)] by O(τ): in the end the bias halves with τ
    assert biases[-1] / biases[-2] == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("name", LATENTS)
def test_concrete_pays_for_it_in_variance(name, float64):
    latent = LATENTS[name]()
    warm, cold = (
        gradient_variance(Concrete(t), latent, cubic, 20_000, torch.Generator().manual_seed(0)) for t in (1.0, 0.05)
    )
    assert cold.variance - 4 * cold.standard_error > warm.variance + 4 * warm.standard_error


@pytest.mark.parametrize("name", LATENTS)
def test_concrete_with_a_hard_value(name, float64):
    """ĝ is the same, and f's own parameters learn on the very samples that were relaxed, rounded."""
    latent, seen = LATENTS[name]().expand(64), []
    scale = torch.tensor(1.5, requires_grad=True)

    def f(b):
        seen.append(b.detach())
        return scale * cubic(b)

    grads, values = [], []
    for hard in (False, True):
        estimator = Concrete(0.25, hard_value=hard)
        estimate = estimator(latent, f, torch.Generator().manual_seed(0))
        grads.append(estimate.grad)
        values.append(estimate.value)
        assert estimator.evaluations == 1 + hard
    assert len(seen) == 3
    assert torch.equal(grads[0], grads[1])
    relaxed, _, bits = seen
    assert torch.equal(bits, (relaxed > 0.5).double())
    assert 0.01 < (relaxed - bits).abs().max() < 0.5
    for value, b in zip(values, (relaxed, bits), strict=True):
        (found,) = torch.autograd.grad(value.mean(), scale)
        assert torch.allclose(found, cubic(b).mean())


@pytest.mark.parametrize("estimator", [StraightThrough(), GumbelRao(0.5, 1)])
@pytest.mark.parametrize("name", LATENTS)
def test_straight_through_is_right_for_a_linear_f(name, estimator, float64):
    """And its relaxed form for any temperature: E[∂σ_τ(z)/∂θ] is not ∂p/∂θ, so that one is biased even there."""
    latent = LATENTS[name]()

    def linear(b):
        return (b * torch.arange(1.0, 1 + b.shape[-1])).flatten(-latent.sample_ndim).sum(-1)

    found = bias(estimator, latent, linear)
    assert found < 1e-12 if isinstance(estimator, StraightThrough) else found > 1e-4


def test_straight_through_has_the_bias_of_its_closed_form(float64):
    """One bit: E[ĝ] = [p f'(1) + (1-p) f'(0)] p(1-p), where f(1) - f(0) belongs."""
    latent = LATENTS["bit"]()
    p = latent.theta.detach().sigmoid()
    slope = {x: 3 * (x - 0.2) ** 2 + 4 * x for x in (0.0, 1.0)}
    closed_form = (p * slope[1.0] + (1 - p) * slope[0.0]) * p * (1 - p)
    check = check_unbiased(StraightThrough(), latent, cubic)
    assert torch.allclose(check.expected, closed_form)
    assert not check.unbiased


def test_gumbel_rao_goes_to_the_trapezoid_rule(float64):
    """As τ → 0 one bit's E[ĝ] goes to ½ [f'(0) + f'(1)] p(1-p): right for a quadratic, not for a cubic."""
    latent = LATENTS["bit"]()
    p = latent.theta.detach().sigmoid()
    trapezoid = 0.5 * (3 * 0.2**2 + 3 * 0.8**2 + 4) * p * (1 - p)
    errors = [
        (expected_gradient(GumbelRao(t, 1), latent, cubic, 800).score - trapezoid).abs().item() for t in TEMPERATURES
    ]
    assert all(cold < 0.85 * warm for warm, cold in itertools.pairwise(errors))
    quadratic = [bias(GumbelRao(t, 1), latent, lambda b: (b - 0.3).square().sum(-1), 800) for t in TEMPERATURES]
    assert all(cold < 0.85 * warm for warm, cold in itertools.pairwise(quadratic))
    assert bias(GumbelRao(0.125, 1), latent, cubic, 800) > 0.01


SEVERAL = {
    "bits": lambda: LogisticBernoulli(leaf(torch.tensor([0.7, -1.1, 0.2]))),
    "classes": lambda: GumbelOneHot(leaf(torch.tensor([[0.3, -0.4, 1.0], [1.2, 0.0, -0.5]]))),
    "masked": lambda: GumbelOneHot(
        leaf(torch.tensor([[0.3, -0.4, 1.0], [1.2, 0.0, -0.5]])), torch.tensor([True, False, True])
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_reinmax_is_right_for_every_quadratic(name, float64):
    """Of all variables together, cross terms and all; straight-through is not, nor is another temperature."""
    latent = SEVERAL[name]()
    size = latent.sample().numel()
    matrix, vector = torch.randn(size, size), torch.randn(size)

    def quadratic(b):
        x = b.flatten(-latent.sample_ndim)
        return ((x @ matrix) * x).sum(-1) + x @ vector

    assert bias(ReinMax(), latent, quadratic) < 1e-12
    for other in (StraightThrough(), ReinMax(2.0), twins.HalfReinMax()):
        assert bias(other, latent, quadratic) > 1e-3


def test_reinmax_has_the_bias_of_the_trapezoid_rule(float64):
    """One bit: E[ĝ] = ½ [f'(0) + f'(1)] p(1-p), where f(1) - f(0) belongs; GumbelRao's as τ → 0."""
    latent = LATENTS["bit"]()
    p = latent.theta.detach().sigmoid()
    trapezoid = 0.5 * (3 * 0.2**2 + 3 * 0.8**2 + 4) * p * (1 - p)
    check = check_unbiased(ReinMax(), latent, cubic)
    assert torch.allclose(check.expected, trapezoid)
    assert not check.unbiased


def test_gumbel_rao_averages_its_own_noise_away(float64):
    """The same mean, less variance: Rao and Blackwell."""
    latent = LATENTS["classes"]()
    means = [expected_gradient(GumbelRao(0.5, draws), latent, cubic, 80).score for draws in (1, 7)]
    assert torch.allclose(*means, atol=1e-10)
    one, many = (
        gradient_variance(GumbelRao(0.5, draws), latent, cubic, 20_000, torch.Generator().manual_seed(0))
        for draws in (1, 50)
    )
    assert many.variance + 4 * many.standard_error < one.variance - 4 * one.standard_error
