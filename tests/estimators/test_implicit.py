"""Gamma, Beta and Dirichlet: torch's implicit derivatives, to torch's accuracy."""

import pytest
import torch
from torch.distributions import Beta, Dirichlet, Gamma

from sb3_relax.estimators import LAX, Implicit, MLPSurrogate, Reparam
from tests.estimators.problems import lively

N = 100_000
#: θ and ∂θ E[f] in closed form for f(b) = Σ b²
CASES = {
    # E[b²] = α(α+1)/β²
    "gamma": (lambda t: Implicit(Gamma(t[..., 0], t[..., 1])), [[2.0, 1.5]], lambda a, b: a * (a + 1) / b**2),
    # E[b²] = a(a+1) / ((a+c)(a+c+1))
    "beta": (
        lambda t: Implicit(Beta(t[..., 0], t[..., 1])),
        [[1.5, 2.5]],
        lambda a, c: a * (a + 1) / ((a + c) * (a + c + 1)),
    ),
    # E[Σ b²] = Σ a(a+1) / (s(s+1))
    "dirichlet": (
        lambda t: Implicit(Dirichlet(t)),
        [1.0, 2.0, 3.0],
        lambda *a: sum(x * (x + 1) for x in a) / (sum(a) * (sum(a) + 1)),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", ["reparam", "lax", "score"])
def test_gradient_of_the_second_moment(name, method, float64):
    of, theta, moment = CASES[name]
    theta = torch.tensor(theta, requires_grad=True)
    (exact,) = torch.autograd.grad(moment(*theta.flatten()), theta)
    latent = of(theta).detach().expand(N)

    def f(b):
        return b.square().sum(-1)

    generator = torch.Generator().manual_seed(0)
    if method == "score":
        b = latent.sample(generator)
        grad = (f(b) - exact.norm()).reshape(-1, *[1] * theta.dim()) * latent.score(b)
    else:
        estimator = Reparam() if method == "reparam" else lively(LAX(MLPSurrogate.of(latent)))
        grad = estimator(latent, f, generator).grad
    z = (grad.mean(0) - exact) / (grad.std(0) / N**0.5 + 1e-3 * exact.abs())
    assert z.abs().max() < 4.5
    assert exact.abs().min() > 0.01


@pytest.mark.parametrize("name", CASES)
def test_path_gradient_is_that_of_rsample(name, float64):
    """Given b, the derivative is the one torch's own rsample would have passed back."""
    of, theta, _ = CASES[name]
    theta = torch.tensor(theta).expand(50, *torch.tensor(theta).shape).clone().requires_grad_()
    latent = of(theta)
    direction = torch.randn(latent.sample().shape)
    if name == "gamma":
        b = Gamma(theta[..., 0], theta[..., 1]).rsample()
    else:
        # Beta's own rsample is the first of a Dirichlet's
        b = (Beta(theta[..., 0], theta[..., 1]) if name == "beta" else Dirichlet(theta)).rsample()
    (expected,) = torch.autograd.grad((b * direction).sum(), theta)
    assert torch.allclose(latent.path_gradient(b.detach(), direction), expected, atol=1e-8)


def test_sampling_follows_the_generator():
    latent = Implicit(Gamma(torch.ones(5, 2), torch.ones(5, 2)))
    a, b, c = (latent.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    before = torch.get_rng_state()
    latent.sample(torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state())  # the global generator is left alone


@pytest.mark.parametrize("name", CASES)
def test_log_probabilities_are_those_of_torch(name, float64):
    of, theta, _ = CASES[name]
    latent = of(torch.tensor(theta)).expand(4)
    b = latent.sample(torch.Generator().manual_seed(0))
    distribution = {
        "gamma": lambda t: Gamma(t[..., 0], t[..., 1]),
        "beta": lambda t: Beta(t[..., 0], t[..., 1]),
        "dirichlet": Dirichlet,
    }[name](torch.tensor(theta))
    log_prob = distribution.log_prob(b)
    torch.testing.assert_close(latent.log_prob(b), log_prob if name == "dirichlet" else log_prob.sum(-1))
    assert latent.log_prob(b).shape == (4,)
