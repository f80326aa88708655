"""Evolution strategies over weights: the smoothed objective's gradient, and weights that are as they were."""

import pytest
import torch
from torch import nn

from sb3_relax.estimators import Gaussian, Mirrored, Reinforce, check_unbiased, gradient_variance, perturb
from sb3_relax.estimators.perturb import antithetic_slope
from sb3_relax.estimators.proofs.quadrature import normal_rule, product_rule
from tests.estimators import twins
from tests.estimators.problems import leaf

SCALE = 0.3


def polynomial(x):
    return x[..., 0] ** 3 - 2 * x[..., 0] * x[..., 1] + x[..., 1] ** 2 + 5


def smoothed_gradient(theta):
    """Of E[polynomial(θ + σε)] = polynomial(θ) + 3 σ² θ_0 + σ²."""
    x, y = theta.tolist()
    return torch.tensor([3 * x * x - 2 * y + 3 * SCALE**2, -2 * x + 2 * y])


@pytest.mark.parametrize(("fresh", "unbiased"), [(False, True), (True, False)])
def test_by_gauss_hermite_it_is_the_smoothed_gradient(fresh, unbiased, float64):
    """And with a noise of its own on the other side it is not: half of the derivative is gone."""
    theta, total = torch.tensor([0.7, -0.4]), torch.zeros(2)
    for nodes, weights in product_rule(normal_rule(8), 4 if fresh else 2):
        noise, other = nodes[:, :2], nodes[:, -2:]
        up, down = polynomial(theta + SCALE * noise), polynomial(theta - SCALE * other)
        total += (weights * antithetic_slope(up, down, SCALE)) @ noise
    assert ((total - smoothed_gradient(theta)).abs().max() < 1e-10) == unbiased


def test_the_mean_of_many_pairs(float64):
    theta = nn.Parameter(torch.tensor([0.7, -0.4]))
    estimates = [
        perturb(lambda: polynomial(theta), [theta], SCALE, 20, torch.Generator().manual_seed(i)) for i in range(100)
    ]
    grads = torch.stack([estimate.grads[0] for estimate in estimates])
    z = (grads.mean(0) - smoothed_gradient(theta.detach())) / (grads.std(0) / 10)
    assert z.abs().max() < 4.5
    assert estimates[0].value.item() == pytest.approx(polynomial(theta).item(), abs=1)


def test_a_network_learns_from_a_black_box():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)), torch.rand(64, 2)
    target = (x[:, :1] > x[:, 1:]).float()

    def f():
        with torch.inference_mode():
            return float(((net(x) > 0).float() - target).abs().mean()) + 0.1 * (net(x) - target).square().mean().item()

    optimizer, generator, first = torch.optim.Adam(net.parameters(), 0.03), torch.Generator().manual_seed(0), f()
    for _ in range(60):
        optimizer.zero_grad()
        perturb(f, net.parameters(), 0.1, 8, generator).backward()
        optimizer.step()
    assert f() < 0.5 * first


def test_weights_are_put_back_and_frozen_ones_left_alone():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    net[1].requires_grad_(False)
    before, seen = [p.clone() for p in net.parameters()], []

    def f():
        seen.append([p.clone() for p in net.parameters()])
        if len(seen) == 5:
            raise KeyboardInterrupt
        return net(torch.ones(3)).sum()

    with pytest.raises(KeyboardInterrupt):
        perturb(f, net.parameters(), pairs=4)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(seen[0][:2], before[:2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(seen[0][2:], before[2:], strict=True))
    seen.clear()
    calls = perturb(lambda: net(torch.ones(3)), net.parameters(), pairs=1)
    assert len(calls.grads) == 2


def test_loss_and_backward_are_one():
    theta = nn.Parameter(torch.randn(4))
    estimate = perturb(lambda: theta.square().sum(), [theta], pairs=2)
    estimate.backward(weight=0.5)
    by_hand, theta.grad = theta.grad, None
    loss = 0.5 * estimate.loss()
    loss.backward()
    assert torch.allclose(theta.grad, by_hand)
    assert loss.item() == pytest.approx(0.5 * estimate.value.item())


def test_it_comes_before_losses_that_read_the_same_weights():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), torch.ones(2, 3)

    def estimate():
        return perturb(lambda: net(x).sum(), net.parameters(), pairs=1).loss()

    first = estimate()
    (first + net(x).square().mean()).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    late = net(x).square().mean()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (late + estimate()).backward()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: perturb(lambda: 1.0, [p], scale=0.0), ValueError, "scale must be positive"),
        (lambda p: perturb(lambda: 1.0, [p], pairs=0), ValueError, "pairs must be a whole number of at least 1"),
        (lambda p: perturb(lambda: 1.0, [p.detach()]), TypeError, "none of the parameters requires grad"),
        (lambda p: perturb(lambda: p.detach(), [p]), TypeError, r"one number; got a tensor of shape \(2,\)"),
        (lambda p: perturb(lambda: None, [p]), TypeError, "one number; got NoneType"),
        (lambda p: perturb(lambda: float("nan"), [p]), ValueError, "must be finite; got nan"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(nn.Parameter(torch.zeros(2)))


def test_a_mirror_image_with_the_wrong_sign_is_rejected(float64):
    latent = Gaussian(leaf(torch.tensor([0.3, -0.5])), leaf(torch.tensor([-0.2, 0.1])))
    assert check_unbiased(Mirrored(), latent, polynomial, 12).unbiased
    assert check_unbiased(twins.UnmirroredScore(), latent, polynomial, 12).error > 1e-3


def test_mirrored_has_no_noise_of_what_is_even(float64):
    """μ's gradient of an even f is 0, sample by sample, and of a linear one there is no noise of its size."""
    latent = Gaussian(torch.zeros(50, 3), torch.zeros(3))
    grad = Mirrored(center=False)(latent, lambda b: 100 + b.square().sum(-1)).grad
    assert grad[..., 0].abs().max() < 1e-12
    one = Gaussian(torch.zeros(3), torch.zeros(3))

    def f(b):
        return b.sum(-1)

    # a batch's mean counts from the next one on
    estimator = Mirrored()
    first = estimator(latent, lambda b: 100 + b.sum(-1), torch.Generator().manual_seed(0))
    first.learn()
    assert estimator.running_mean.mean.item() == pytest.approx(first.value.mean().item())
    second = estimator(latent, lambda b: 100 + b.sum(-1), torch.Generator().manual_seed(1))
    assert second.grad[..., 1].abs().mean() < 0.1 * first.grad[..., 1].abs().mean()

    ours, theirs = (gradient_variance(e, one, f, 5_000).variance for e in (Mirrored(center=False), Reinforce()))
    assert ours < 0.6 * theirs
