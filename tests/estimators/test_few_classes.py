"""Softmax over few classes, along a quick dimension: torch's numbers and derivatives."""

import pytest
import torch

from sb3_relax.estimators import RELAX, GumbelOneHot, MLPSurrogate
from sb3_relax.estimators.latents import few_classes

SHAPES = [(20, 40, 2), (400, 1, 3), (2000, 5), (3, 7, 20, 6), (4, 5, 2), (30, 40, 20)]
NARROW = SHAPES[:4]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_they_are_torchs(name, shape):
    torch.manual_seed(0)
    x = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    x.data[..., 0] = -1e8  # as a mask leaves it
    direction = torch.randn_like(x)
    assert getattr(few_classes, name)(x).is_contiguous()
    ours, theirs = getattr(few_classes, name)(x), getattr(torch, name)(x, -1)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-15)
    gradients = [torch.autograd.grad(y, x, direction, create_graph=True)[0] for y in (ours, theirs)]
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-14)
    second = [torch.autograd.grad(g.square().sum(), x)[0] for g in gradients]
    assert torch.allclose(*second, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_derivative_by_hand_is_that_of_the_softmax(shape):
    torch.manual_seed(0)
    x, slope = torch.randn(2, *shape, dtype=torch.float64).unbind()
    s = x.requires_grad_().softmax(-1)
    (expected,) = torch.autograd.grad(s, x, slope)
    assert torch.allclose(few_classes.softmax_backward(slope, s.detach()), expected, atol=1e-14)


def test_logaddexp_is_torchs():
    torch.manual_seed(0)
    x, y = (30 * torch.randn(2, 3000, dtype=torch.float64)).unbind()
    y[0] = 1e8
    assert torch.allclose(few_classes.logaddexp(x, y), torch.logaddexp(x, y), rtol=1e-14, atol=0)


@pytest.mark.parametrize("shape", NARROW, ids=str)
def test_a_latent_keeps_one_layout(shape):
    """Mixed layouts would take several times as long, and nobody would see it."""
    torch.manual_seed(0)
    x = few_classes.arranged(torch.randn(shape))
    latent = GumbelOneHot(x, torch.rand(shape) < 2)
    b = torch.zeros_like(latent.theta).scatter_(-1, latent.theta.argmax(-1, keepdim=True), 1.0)
    z = latent.conditional(b, torch.rand(shape))
    for tensor in (
        latent.theta,
        latent.probabilities,
        latent.natural(),
        b,
        z,
        latent.relax(z, 0.5),
        latent.pull_back(z),
    ):
        assert tensor.movedim(-1, 0).is_contiguous()
    assert torch.equal(latent.theta, x)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("coupled", [False, True])
def test_an_estimate_is_the_same_in_either_layout(coupled, masked, monkeypatch):
    found = []
    for layout, least in ((few_classes.arranged, 1), (torch.Tensor.contiguous, 1), (torch.Tensor.contiguous, 10**9)):
        monkeypatch.setattr(few_classes, "LEAST", least)
        torch.manual_seed(0)
        theta = torch.randn(200, 3, 4, dtype=torch.float64, requires_grad=True)
        mask = torch.arange(4) != 2 if masked else None
        generator = torch.Generator().manual_seed(1)
        latent = GumbelOneHot(layout(theta * 1.0), mask)
        surrogate = MLPSurrogate.of(latent, hidden=[8]).double()
        assert latent.theta.is_contiguous() == (layout is not few_classes.arranged)
        assert latent.sample().is_contiguous()
        assert latent.relax(latent.theta, 0.5).is_contiguous() == latent.theta.is_contiguous()
        estimate = RELAX(surrogate, coupled=coupled)(latent, lambda b: b[..., 0].sum(-1), generator=generator)
        estimate.loss().backward()
        found.append([theta.grad, *(p.grad for p in surrogate.parameters())])
    for *ours, theirs in zip(*found, strict=True):
        for each in ours:
            assert (each is theirs is None) or torch.allclose(each, theirs, rtol=1e-9, atol=1e-12)


def test_under_vmap():
    x = torch.randn(3, 600, 2)
    assert torch.allclose(torch.vmap(few_classes.softmax)(x), x.softmax(-1))
