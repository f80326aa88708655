"""The VAE's f and training gradients against exact sums over all bits, in float64."""

import math

import pytest
import torch
from torch.distributions import Bernoulli

from sb3_relax.estimators import ESTIMATORS, VIMCO, LogisticBernoulli, layered
from sb3_relax.estimators.proofs.exact import weighted_estimates
from sb3_relax.tasks.vae.cases import CASES, build
from sb3_relax.tasks.vae.model import DiscreteVAE
from sb3_relax.tasks.vae.objective import LogWeight, bound, estimate_gradient
from tests.estimators.problems import lively
from tests.estimators.test_layered import Everywhere

BIASED = {"concrete", "concrete_bits"}


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tiny(layers=1, hidden_layers=0, units=3, pixels=4):
    """A model with parameters that matter, and one image."""
    model = DiscreteVAE(torch.rand(pixels), layers, hidden_layers, units)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape))
    return model, (torch.rand(pixels) < 0.5).double()


def live(name, layers, units):
    """Estimators whose control variates are not at their neutral start."""
    estimators = build(name, layers, units).double()
    for estimator in estimators:
        lively(estimator)
        for parameter in estimator.parameters():
            if parameter.dim() > 1:
                parameter.data.mul_(0.5)  # gentle enough for the quadrature
    return estimators


def everything(model):
    """All values of all layers: b_l each ``[M, units]``."""
    support = LogisticBernoulli(torch.zeros(model.units)).support()
    index = torch.cartesian_prod(*[torch.arange(len(support))] * model.layers).reshape(-1, model.layers)
    return [support[i] for i in index.T]


def log_joint(model, x, b):
    """log p(x, b), written with torch.distributions."""
    total = Bernoulli(logits=model.decode(0, b[0])).log_prob(x).sum(-1)
    for layer in range(1, len(b)):
        total = total + Bernoulli(logits=model.decode(layer, b[layer])).log_prob(b[layer - 1]).sum(-1)
    return total + Bernoulli(logits=model.prior).log_prob(b[-1]).sum(-1)


def log_posterior(model, x, b):
    """log q(b|x), likewise."""
    total = Bernoulli(logits=model.encode(0, x)).log_prob(b[0]).sum(-1)
    for layer in range(1, len(b)):
        total = total + Bernoulli(logits=model.encode(layer, b[layer - 1])).log_prob(b[layer]).sum(-1)
    return total


@pytest.mark.parametrize(("layers", "hidden_layers"), [(1, 0), (2, 0), (1, 2), (3, 1)])
def test_f_is_the_log_weight(layers, hidden_layers):
    model, x = tiny(layers, hidden_layers)
    b = everything(model)
    f = LogWeight(model, x)(*b)
    assert torch.allclose(f, log_joint(model, x, b) - log_posterior(model, x, b), atol=1e-12)
    # Σ_b q(b|x) p(x,b)/q(b|x) is p(x), and the p(x) of all images add up to one
    p = (f + log_posterior(model, x, b)).exp().sum()
    assert torch.allclose(p, log_joint(model, x, b).exp().sum(), atol=1e-12)
    images = LogisticBernoulli(torch.zeros(4)).support()
    total = sum(log_joint(model, image, b).exp().sum() for image in images)
    assert total.item() == pytest.approx(1)


def test_bound_rises_to_log_p():
    model, x = tiny(2)
    b = everything(model)
    log_p = log_joint(model, x, b).logsumexp(0).item()
    weight = log_posterior(model, x, b).exp()
    elbo = (weight * LogWeight(model, x)(*b)).sum().item()
    generator = torch.Generator().manual_seed(0)
    n = 40_000
    means, errors = [], []
    for samples in (1, 5, 50):
        values = bound(model, x.expand(n // samples, -1), samples, generator, rows=10_000)
        assert values.shape == (n // samples,)
        means.append(values.mean().item())
        errors.append(values.std().item() / math.sqrt(n // samples))
    assert abs(means[0] - elbo) < 4 * errors[0]
    assert means[0] + 4 * errors[0] < means[1] < means[2] < log_p + 4 * errors[2]
    assert log_p - means[2] < 0.4 * (log_p - means[0])
    with pytest.raises(ValueError, match="at least 1"):
        bound(model, x[None], 0)


def exact_gradients(model, x, samples=1):
    """∂ of the ELBO (or of VIMCO's bound) for every parameter, through sums over all b."""
    b = everything(model)
    f, log_q = LogWeight(model, x)(*b), log_posterior(model, x, b)
    if samples == 1:
        objective = (log_q.exp() * f).sum()
    else:
        index = torch.cartesian_prod(*[torch.arange(len(f))] * samples).T
        objective = (log_q[index].sum(0).exp() * VIMCO(samples).target(f[index])).sum()
    return torch.autograd.grad(objective, list(model.parameters()))


@pytest.mark.parametrize("name", sorted(set(CASES) - BIASED))
def test_one_layer_is_unbiased(name):
    model, x = tiny(hidden_layers=1, units=2)
    estimator = live(name, 1, 2)[0]
    f = LogWeight(model, x, shift=torch.tensor(-1.3))
    latent = LogisticBernoulli(f.logits(0))
    score, value = torch.zeros(2), torch.zeros(())
    for estimate, weight in weighted_estimates(estimator, latent, f, 60):
        score += (weight.unsqueeze(-1) * estimate.grad).sum(0)
        value = value + (weight * estimate.value).sum()
    ours = torch.autograd.grad([latent.theta, value], list(model.parameters()), [score, torch.ones(())])
    expected = exact_gradients(model, x, 2 if name == "vimco" else 1)
    for a, b in zip(ours, expected, strict=True):
        assert (a - b).abs().max() < 1e-9
    assert min(g.abs().max() for g in expected) > 0.01


@pytest.mark.parametrize("name", sorted(set(CASES) - BIASED - {"vimco"}))
def test_two_layers_are_unbiased(name):
    model, x = tiny(layers=2, units=1, pixels=3)
    estimators = list(live(name, 2, 1))
    source = Everywhere(48)
    f = LogWeight(model, x.expand(1, -1))
    layered(f.posterior(), estimators, f, randomness=source)
    batch = source.prepare()
    f = LogWeight(model, x.expand(batch, -1))
    estimate = layered(f.posterior(), estimators, f, randomness=source)
    weight = source.weight.detach()
    roots = [e.latent.theta for e in estimate.layers] + [estimate.value]
    vectors = [weight.unsqueeze(-1) * e.grad for e in estimate.layers] + [weight]
    ours = torch.autograd.grad(roots, list(model.parameters()), vectors)
    expected = exact_gradients(model, x)
    for a, b in zip(ours, expected, strict=True):
        assert (a - b).abs().max() < 1e-8
    assert min(g.abs().max() for g in expected) > 1e-3


def test_the_check_sees_concrete():
    """Teeth: the same sums find a biased estimator biased."""
    model, x = tiny(units=2)
    f = LogWeight(model, x)
    latent = LogisticBernoulli(f.logits(0))
    score = torch.zeros(2)
    for estimate, weight in weighted_estimates(live("concrete", 1, 2)[0], latent, f, 60):
        score += (weight.unsqueeze(-1) * estimate.grad).sum(0)
    b = latent.support()
    (exact,) = torch.autograd.grad((latent.expand(4).log_prob(b).exp() * f(b).detach()).sum(), latent.theta)
    assert (score - exact).abs().max() > 1e-3


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", sorted(CASES))
def test_backward_is_the_batch_mean(name, layers):
    """θ's networks get ĝ and the direct term, p's networks the direct term alone, φ Eq 6 alone (or its own loss)."""
    if name == "vimco" and layers == 2:
        pytest.skip("no layer's")
    model, _ = tiny(layers)
    x = (torch.rand(6, 4) < 0.5).double()
    estimators = live(name, layers, 3)

    def estimate():
        return estimate_gradient(model, estimators, x, torch.Generator().manual_seed(1))

    reference = estimate()
    each = [reference] if layers == 1 else reference.layers
    direct = torch.autograd.grad(reference.value.mean(), list(model.parameters()), retain_graph=True)
    if not each:  # Concrete: the relaxed bound is a function of everything
        estimate().backward()
        assert all(torch.allclose(p.grad, g, atol=1e-12) for p, g in zip(model.parameters(), direct, strict=True))
        return
    score = torch.autograd.grad(
        [e.latent.theta for e in each],
        list(model.parameters()),
        [e.grad / 6 for e in each],
        retain_graph=True,
        allow_unused=True,
    )
    phi = [list(e.phi_gradients(list(e.phi), retain_graph=True)) if e.phi else [] for e in each]
    estimate().backward()
    for (key, parameter), a, b in zip(model.named_parameters(), direct, score, strict=True):
        assert torch.allclose(parameter.grad, a if b is None else a + b, atol=1e-12)
        # nothing of ĝ in p's networks
        assert (b is None) == (not key.startswith("encoders"))
    for estimator, gradients in zip(estimators, phi, strict=True):
        for parameter, gradient in zip(estimator.parameters(), gradients, strict=True):
            assert (parameter.grad is None) == (gradient is None)
            assert gradient is None or torch.allclose(parameter.grad, gradient, atol=1e-10)
    if name not in ("nvil",):
        for e, gradients in zip(each, phi, strict=True):
            eq6 = torch.autograd.grad(e.objective, list(e.phi), allow_unused=True) if e.phi else []
            for a, b in zip(eq6, gradients, strict=True):
                assert (a is None) == (b is None)
                assert a is None or torch.allclose(a, b, atol=1e-10)


def test_names():
    assert {ESTIMATORS[n] for n in ("concrete", "nvil", "muprop", "rebar", "reinforce")} <= {
        type(build(n, 1, 2)[0]) for n in CASES
    }
    with pytest.raises(ValueError, match=r"unknown estimator 'rebarr'; there are concrete, concrete_bits, nvil"):
        build("rebarr", 1, 2)
    with pytest.raises(ValueError, match=r"use a model of one layer \(linear1, nonlinear\)"):
        build("vimco", 2, 2)
    with pytest.raises(ValueError, match="unknown model 'linear3'; there are linear1, linear2, nonlinear"):
        DiscreteVAE.of("linear3", torch.rand(3))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        DiscreteVAE(torch.tensor([0.5, 1.5]))
