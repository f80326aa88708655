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
from sb3_relax.estimators.surrogate import value_and_slope
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


class Opaque(torch.nn.Module):
    """A surrogate of which autograd knows all and the core nothing."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def given(self, latent):
        c = self.inner.given(latent) if isinstance(self.inner, ThetaSurrogate) else self.inner
        return lambda z: c(z)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", [MLPSurrogate, ThetaSurrogate])
@pytest.mark.parametrize("latent", ["bits", "classes"])
@pytest.mark.parametrize("case", ["coupled", "independent", "coupled, draws", "independent, draws", "residual"])
def test_backward_pass_by_hand_is_autograds(case, latent, kind, masked, float64):
    """φ's gradient under RELAX's and REBAR's own backward passes, and with a c that has none."""
    if latent == "bits":
        latent = LogisticBernoulli(torch.randn(5, 4))
    else:
        mask = torch.tensor([[True, True, False], [True, True, True]]) if masked else None
        latent = GumbelOneHot(torch.randn(5, 2, 3), mask)
    c = lively(kind.of(latent, (7, 6)))
    torch.nn.init.normal_(c.output.weight)
    weight = torch.randn(latent.theta.shape[1:])

    def f(b):
        return ((b - 0.3) * weight).flatten(-latent.sample_ndim).sum(-1).square()

    def estimate(c):
        torch.manual_seed(1)
        if case == "residual":
            return REBAR(residual=c)(latent, f)
        return RELAX(c, coupled="independent" not in case, draws=3 if "draws" in case else 1)(latent, f)

    phi = list(c.parameters())
    ours, theirs = estimate(c), estimate(Opaque(c))
    assert ours._phi_vjp is not None
    assert theirs._phi_vjp is None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)
    expected = theirs.phi_gradients(phi, retain_graph=True)
    assert all(g is None or g.abs().max() > 0 for g in expected)
    of_objective = torch.autograd.grad(ours.objective, phi, allow_unused=True, retain_graph=True)
    for a, b, o in zip(ours.phi_gradients(phi), expected, of_objective, strict=True):
        assert torch.allclose(a, torch.zeros_like(a) if b is None else b, atol=1e-10)
        assert torch.allclose(o, a, atol=1e-10)


class Doubled(MLPSurrogate):
    """A subclass that redefines c, and no more."""

    def forward(self, z, shift=None):
        return 2 * super().forward(z, shift)


class DoubledInClosedForm(Doubled):
    def value_and_slope(self, z, shift=None):
        value, slope = super().value_and_slope(z, shift)
        return 2 * value, 2 * slope


def gradients_of(estimator, latent, f, read=lambda estimate, phi: estimate.phi_gradients(phi)):
    torch.manual_seed(1)
    return [g for g in read(estimator(latent, f), list(estimator.parameters())) if g is not None]


def eq6(estimate, phi):
    return torch.autograd.grad(estimate.objective, phi, allow_unused=True)


@pytest.mark.parametrize("kind", [Doubled, DoubledInClosedForm, "parametrised", "hooked", "replaced"])
def test_whatever_changes_c_or_its_gradient_is_seen(kind, float64):
    """Subclasses, parametrisations, hooks and functional_call: as autograd has it, or twice c's."""
    latent = LogisticBernoulli(torch.randn(5, 4))

    def f(b):
        return b.sum(-1).square()

    c = lively((kind if isinstance(kind, type) else MLPSurrogate).of(latent, (6,)))
    torch.nn.init.normal_(c.output.weight)
    if kind == "parametrised":
        torch.nn.utils.parametrizations.weight_norm(c.layers[0])
    if kind == "hooked":
        c.output.weight.register_hook(lambda g: 0 * g)
    if kind == "replaced":
        values = {name: (2 * p.detach()).requires_grad_() for name, p in RELAX(c).named_parameters()}
        torch.manual_seed(1)
        estimate = torch.func.functional_call(RELAX(c), values, (latent, f))
        ours = torch.autograd.grad(estimate.objective, list(values.values()), allow_unused=True)
        with torch.no_grad():
            for name, p in RELAX(c).named_parameters():
                p.copy_(values[name])
        ours = [g for g in ours if g is not None and g.abs().max() > 0]
    else:
        ours = gradients_of(RELAX(c), latent, f)
    theirs = [g for g in gradients_of(RELAX(Opaque(c)), latent, f, eq6) if g.abs().max() > 0 or kind == "hooked"]
    ours = [g for g in ours if g.abs().max() > 0 or kind == "hooked"]
    assert len(ours) == len(theirs) >= 2
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


def test_parameters_changed_before_backward_are_refused():
    latent = LogisticBernoulli(torch.randn(5, 4))
    estimator = RELAX(MLPSurrogate.of(latent))
    estimate = estimator(latent, lambda b: b.sum(-1))
    with torch.no_grad():
        estimator.surrogate.layers[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        estimate.backward()


def test_who_trains_phi_alone_has_the_graph():
    latent = LogisticBernoulli(torch.randn(5, 4))
    c = lively(ThetaSurrogate.of(latent))
    torch.nn.init.normal_(c.output.weight)
    function = c.given(latent)
    with pytest.raises(TypeError, match="parameters that would never be trained"):
        RELAX(function)(latent, lambda b: b.sum(-1))
    function.trained_elsewhere = True
    for estimator in (RELAX(function), REBAR(residual=function)):
        objective = estimator(latent, lambda b: b.sum(-1).square()).objective
        assert all(g.abs().max() > 0 for g in torch.autograd.grad(objective, [c.of_theta.weight, c.layers[0].weight]))


def test_theta_surrogate_without_batch():
    latent = LogisticBernoulli(torch.randn(4))
    c = lively(ThetaSurrogate.of(latent))
    torch.nn.init.normal_(c.output.weight)
    ours, theirs = (
        gradients_of(estimator, latent, lambda b: b.sum(-1).square(), read)
        for estimator, read in ((RELAX(c), lambda e, phi: e.phi_gradients(phi)), (RELAX(Opaque(c)), eq6))
    )
    by_shape = {g.shape: g for g in theirs}
    assert torch.allclose(by_shape[c.of_theta.weight.shape], ours[-1], atol=1e-5)


def test_a_look_under_no_grad_takes_no_graph_away():
    latent = LogisticBernoulli(torch.randn(5, 4))
    estimator = RELAX(MLPSurrogate.of(latent))
    estimate = estimator(latent, lambda b: b.sum(-1))
    with torch.no_grad():
        estimate.grad_with_graph.norm()
    estimate.objective.backward()
    assert estimator.surrogate.output.weight.grad.abs().max() > 0


@pytest.mark.parametrize("latent", [LogisticBernoulli(torch.randn(5, 4)), GumbelOneHot(torch.randn(5, 2, 3))])
def test_push_forward_is_the_transpose_of_pull_back(latent):
    v, g = torch.randn(2, *latent.theta.shape)
    assert torch.allclose((latent.push_forward(v) * g).sum(), (v * latent.pull_back(g)).sum(), atol=1e-5)


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
