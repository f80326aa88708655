"""Eq 6, what backward() touches, and what it must not."""

import pytest
import torch

from sb3_relax.estimators import (
    LAX,
    NVIL,
    RELAX,
    ExactCorrection,
    LogisticBernoulli,
    Reinforce,
    layered,
    make,
    sample_variance,
)
from sb3_relax.estimators.moments import change_moments
from sb3_relax.estimators.proofs.exact import samples_with_probability
from sb3_relax.estimators.proofs.quadrature import product_rule, unit_interval_rule
from sb3_relax.estimators.proofs.variance import gradient_variance
from tests.estimators.problems import DISCRETE, gaussian_net, relaxed_net


def variance(estimator, latent, f, nodes):
    """tr Cov(ĝ), exactly: b enumerated, noise by quadrature. Differentiable in φ by finite differences alone."""
    b, probability = samples_with_probability(latent)
    first, second = torch.zeros_like(latent.theta), 0.0
    for row, p in zip(b, probability, strict=True):
        for node, weight in product_rule(unit_interval_rule(nodes), latent.theta.numel()):
            wide = latent.at(latent.theta.expand(len(node), *latent.theta.shape))
            noise = node.reshape(1, len(node), *latent.theta.shape)
            grad = estimator.finish(wide, row.expand(len(node), *row.shape), f(row).expand(len(node)), noise).grad
            flat = grad.flatten(1)
            first = first + p * (weight[:, None] * flat).sum(0).reshape(latent.theta.shape)
            second = second + (p * weight * flat.square().sum(1)).sum()
    return (second - first.square().sum()).item()


@pytest.mark.parametrize("problem", ["one bit", "two classes"])
def test_eq_6_is_the_derivative_of_the_variance(problem, float64):
    """E[∂φ ‖ĝ‖²] by enumeration and quadrature against central differences of the exact variance."""
    build, nodes = DISCRETE[problem]
    latent = build()
    surrogate = relaxed_net(latent)
    estimator = RELAX(surrogate)

    def f(b):
        return (b.flatten() - 0.4).square().sum() + b.flatten()[0]

    b, probability = samples_with_probability(latent)
    total = [torch.zeros_like(p) for p in surrogate.parameters()]
    for row, p in zip(b, probability, strict=True):
        for node, weight in product_rule(unit_interval_rule(nodes), latent.theta.numel()):
            wide = latent.at(latent.theta.expand(len(node), *latent.theta.shape))
            noise = node.reshape(1, len(node), *latent.theta.shape)
            estimate = estimator.finish(wide, row.expand(len(node), *row.shape), f(row).expand(len(node)), noise)
            per_sample = estimate.grad_with_graph.flatten(1).square().sum(1)
            for slot, gradient in zip(
                total, torch.autograd.grad((p * weight * per_sample).sum(), list(surrogate.parameters())), strict=True
            ):
                slot += gradient

    step = 1e-5
    for parameter, gradient in zip(surrogate.parameters(), total, strict=True):
        flat, of_flat = parameter.data.view(-1), gradient.view(-1)
        for i in range(min(2, len(flat))):
            before = flat[i].item()
            flat[i] = before + step
            up = variance(estimator, latent, f, nodes)
            flat[i] = before - step
            down = variance(estimator, latent, f, nodes)
            flat[i] = before
            assert of_flat[i].item() == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-8)


def test_closed_form_slope_is_used_where_offered():
    class Quadratic:
        def __call__(self, z):
            return z.square().sum(-1)

        def value_and_slope(self, z):
            self.asked = True
            return self(z), 2 * z

    latent = LogisticBernoulli(torch.randn(5, 3))
    b, value, noise = latent.sample(), torch.randn(5), torch.rand(1, 5, 3)
    offered = Quadratic()
    with_closed_form = RELAX(offered).finish(latent, b, value, noise).grad
    assert offered.asked
    assert torch.allclose(with_closed_form, RELAX(offered.__call__).finish(latent, b, value, noise).grad)


def test_bad_calls_are_refused():
    bits = LogisticBernoulli(torch.zeros(4, 3))
    with pytest.raises(
        TypeError,
        match=r"LAX takes ReparameterisedLatent; got LogisticBernoulli, which these take: .*Concrete.*, Reinforce",
    ):
        LAX(gaussian_net)(bits, lambda b: b.sum(-1))
    with pytest.raises(ValueError, match=r"batch's shape \(4,\); got \(4, 3\)"):
        Reinforce().finish(bits, bits.sample(), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"noise must have shape \(1, 4, 3\)"):
        RELAX(lambda z: z.sum(-1)).finish(bits, bits.sample(), torch.zeros(4), torch.rand(4, 3))
    with pytest.raises(ValueError, match="draws must be a whole number of at least 1"):
        RELAX(lambda z: z.sum(-1), draws=0)


def test_backward_without_anything_to_learn_is_refused():
    bits = LogisticBernoulli(torch.zeros(4, 3))
    for name in ("reinforce", "exact", "rloo"):
        with pytest.raises(RuntimeError, match="neither the latent's parameters θ, nor f, nor the control variate"):
            make(name, bits)(bits, lambda b: b.sum(-1)).backward()
    relax = make("relax", bits).requires_grad_(False)
    with pytest.raises(RuntimeError, match="nowhere to put a gradient"):
        relax(bits, lambda b: b.sum(-1)).backward()
    with pytest.raises(RuntimeError, match="nowhere to put a gradient"):
        layered([lambda: bits], [Reinforce()], lambda b: b.sum(-1)).backward()


def test_backward_with_any_of_its_three_receivers():
    frozen, theta = LogisticBernoulli(torch.zeros(4, 3)), torch.zeros(4, 3, requires_grad=True)
    relax, weight = make("relax", frozen), torch.ones(3, requires_grad=True)
    relax(frozen, lambda b: b.sum(-1)).backward()  # φ at a frozen θ
    assert any(parameter.grad is not None for parameter in relax.parameters())
    layered([lambda: frozen], [make("relax", frozen)], lambda b: b.sum(-1)).backward()
    Reinforce()(frozen, lambda b: b @ weight).backward()  # f's own parameters (Eq 11)
    assert weight.grad is not None
    Reinforce()(LogisticBernoulli(theta), lambda b: b.sum(-1)).backward()
    assert theta.grad is not None
    nvil = NVIL()  # statistics alone
    nvil(frozen, lambda b: b.sum(-1)).backward()
    assert nvil.seen
    layered([lambda: frozen], [nvil], lambda b: b.sum(-1)).backward()


def test_a_value_learned_later_is_checked_too():
    bits = LogisticBernoulli(torch.zeros(3, 2))
    value = torch.tensor([1.0, float("nan"), 2.0])
    for name in ("reinforce", "relax", "nvil", "exact_correction"):
        with pytest.raises(ValueError, match=r"f\(b\) must be finite; got nan at index \(1,\)"):
            make(name, bits).finish(bits, bits.sample(), value)


def test_sample_variance_is_across_samples():
    grad = torch.tensor([[1.0, -1.0], [1.0, -1.0]])  # no variance across samples, much across components
    assert sample_variance(grad, 1) == 0
    grad = torch.randn(1000, 2, 3)
    assert torch.allclose(sample_variance(grad, 2), grad.reshape(1000, 6).var(0).sum())
    assert sample_variance(grad[:1], 2) == 0


def test_gradient_variance_is_the_enumerated_one(float64):
    """To 4.5 of the standard errors that enumeration gives (the seed is fixed), and so is its standard error, to 5%."""
    latent, weight, n = LogisticBernoulli(torch.tensor([0.4, -0.3])), torch.tensor([1.0, 2.0]), 40_000
    b, probability = samples_with_probability(latent)
    grad = (b @ weight).unsqueeze(-1) * latent.expand(4).score(b)
    deviation = (grad - probability @ grad).square().sum(1)
    exact = (probability @ deviation).item()
    error = ((probability @ deviation.square()).item() - exact**2) ** 0.5 / n**0.5
    found = gradient_variance(Reinforce(), latent, lambda b: b @ weight, n, torch.Generator().manual_seed(0))
    assert found.variance == pytest.approx(exact, abs=4.5 * error)
    assert found.standard_error == pytest.approx(error, rel=0.05)
    assert error < 0.01 * exact


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_change_moments_are_those_of_the_mixture(share, float64):
    plain, changed = 2 + torch.randn(50, 2, 3), 1 + torch.randn(50, 2, 3)
    moments = change_moments(plain, changed, 2)
    mixture = torch.lerp(plain, changed, share)
    assert moments.variance_at(share) == pytest.approx(sample_variance(mixture, 2).item())
    assert moments.square_at(share) == pytest.approx(mixture.flatten(1).square().sum(1).mean().item())


def test_change_moments_of_hardly_any_change_keep_their_precision():
    plain, noise = torch.randn(50, 2, 3), torch.randn(50, 2, 3)
    moments = change_moments(plain, plain + 1e-4 * noise, 2)
    assert moments.square[2] == pytest.approx(1e-8 * noise.flatten(1).square().sum(1).mean().item(), rel=1e-2)
    assert change_moments(plain[:1], noise[:1], 2).variance_at(0.5) == 0
    assert change_moments(plain[:0], noise[:0], 2).square_at(0.5) == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_moments_at_a_share_are_those_of_the_mixture(share, float64):
    plain, changed = torch.randn(2, 50, 3)
    ours = change_moments(plain, changed, 1).at_share(share)
    mixed = change_moments(plain, torch.lerp(plain, changed, share), 1)
    assert ours.square == pytest.approx(mixed.square)
    assert ours.covariance == pytest.approx(mixed.covariance)


class Linear(torch.nn.Module):
    """c(b) = w · b."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.4, -0.7]))

    def forward(self, b):
        return (b * self.weight).sum(-1)


class LinearByHand(Linear):
    """With a backward pass of its own, in two halves."""

    def value_vjp(self, b):
        def vjp(value_bar):
            half = (value_bar.unsqueeze(-1) * b).flatten(0, -2).sum(0) / 2
            return [(self.weight, half), (self.weight, half)]

        return self(b).detach(), vjp


def test_a_backward_pass_by_hand_is_that_of_the_graph(float64):
    latent = LogisticBernoulli(torch.randn(30, 2))
    b, value = latent.sample(), torch.randn(30)
    found = []
    for surrogate in (Linear(), LinearByHand()):
        estimator = ExactCorrection(surrogate, center=False)
        estimate = estimator.finish(latent, b, value)
        found.append([estimate.grad.detach(), *estimate.phi_gradients(tuple(estimator.parameters()))])
    for by_graph, by_hand in zip(*found, strict=True):
        torch.testing.assert_close(by_hand, by_graph)
    assert found[0][1].abs().min() > 0
