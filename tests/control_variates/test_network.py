"""ĉ itself: the networks of (a, s) and of s alone."""

import pytest
import torch as th

from sb3_relax.control_variates.network import ControlVariateNetwork, StateNetwork, control_variate_arch
from sb3_relax.estimators import Gaussian, GumbelOneHot, Joint, LogisticBernoulli

LATENTS = {
    "bits": (lambda: LogisticBernoulli(th.randn(7, 4)), 4, 0.6),
    "classes": (lambda: GumbelOneHot(th.randn(7, 2, 3)), 6, 0.6),
    "hard classes": (lambda: GumbelOneHot(th.randn(7, 2, 3)), 6, None),
    "mixed": (lambda: Joint(a=Gaussian(th.randn(7, 2), th.zeros(2)), b=GumbelOneHot(th.randn(7, 1, 3))), 5, 0.6),
    "gaussian": (lambda: Gaussian(th.randn(7, 4), th.zeros(4)), 4, None),
}


@pytest.mark.parametrize("name", LATENTS)
def test_the_closed_form_slope_is_autograds(name, float64):
    make, action_dim, temperature = LATENTS[name]
    latent = make()
    cv = ControlVariateNetwork(5, action_dim, [8, 7, 9], th.nn.ReLU, temperature)
    th.nn.init.normal_(cv.output_layer.weight)
    cv.scale.fill_(3.0)
    c = cv.at_states(latent, th.randn(7, 5))
    z = th.randn(2, *latent.sample().shape, requires_grad=True)
    value, slope = c.value_and_slope(z)
    assert th.allclose(value, c(z))
    assert slope.shape[:2] == (2, 7)
    (expected,) = th.autograd.grad(c(z).sum(), z, create_graph=True)
    assert th.allclose(slope.reshape(expected.shape), expected, atol=1e-12)
    # and so are its derivatives in φ, which Eq 6 needs
    direction = th.randn_like(expected)
    ours = th.autograd.grad((slope.reshape(expected.shape) * direction).sum(), list(cv.parameters()), allow_unused=True)
    theirs = th.autograd.grad((expected * direction).sum(), list(cv.parameters()), allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert th.allclose(th.zeros(()) if a is None else a, th.zeros(()) if b is None else b, atol=1e-10)


@pytest.mark.parametrize("frozen", [(), ("log_temperature",), ("state_layer.bias", "state_encoder.0.weight")])
@pytest.mark.parametrize("activation", [th.nn.Tanh, th.nn.ReLU])
@pytest.mark.parametrize("name", LATENTS)
def test_the_backward_pass_by_hand_is_autograds(name, activation, frozen, float64):
    make, action_dim, temperature = LATENTS[name]
    latent = make()
    cv = ControlVariateNetwork(5, action_dim, [8, 7, 9], activation, temperature)
    th.nn.init.normal_(cv.output_layer.weight)
    cv.scale.fill_(3.0)
    for parameter, own in cv.named_parameters():
        own.requires_grad_(parameter not in frozen)
    c = cv.at_states(latent, th.randn(7, 5))
    z = th.randn(2, *latent.sample().shape)
    value, slope = c.value_and_slope(z)
    by_hand = c.value_slope_vjp(z)
    assert th.allclose(value, by_hand[0])
    assert th.allclose(slope, by_hand[1])
    value_bar, slope_bar = th.randn_like(value), th.randn_like(slope)
    phi = [parameter for parameter in cv.parameters() if parameter.requires_grad]
    expected = th.autograd.grad([value, slope], phi, [value_bar, slope_bar])
    ours = {id(parameter): bar for parameter, bar in by_hand[2](value_bar, slope_bar)}
    assert len(expected) == len(phi) >= 5
    for parameter, bar in zip(phi, expected, strict=True):
        assert th.allclose(ours[id(parameter)], bar, atol=1e-10)
        assert bar.abs().max() > 0


@pytest.mark.parametrize("activation", [th.nn.Tanh, th.nn.ReLU])
@pytest.mark.parametrize("name", [name for name, (_, _, temperature) in LATENTS.items() if temperature is None])
def test_the_backward_pass_of_the_value_alone_is_autograds(name, activation, float64):
    make, action_dim, _ = LATENTS[name]
    latent = make()
    cv = ControlVariateNetwork(5, action_dim, [8, 7, 9], activation)
    th.nn.init.normal_(cv.output_layer.weight)
    cv.scale.fill_(3.0)
    c = cv.at_states(latent, th.randn(7, 5))
    b = th.randn(2, *latent.sample().shape)
    value, vjp = c.value_vjp(b)
    assert th.allclose(value, c(b))
    value_bar = th.randn_like(value)
    ours = {id(parameter): bar for parameter, bar in vjp(value_bar)}
    for parameter, bar in zip(cv.parameters(), th.autograd.grad(c(b), list(cv.parameters()), value_bar), strict=True):
        assert th.allclose(ours[id(parameter)], bar, atol=1e-10)
        assert bar.abs().max() > 0


@pytest.mark.parametrize("with_actions", [True, False])
def test_it_starts_at_zero_and_scales(with_actions):
    cv = ControlVariateNetwork(3, 2, [4]) if with_actions else StateNetwork(3, [4])
    inputs = [th.randn(6, 3), *([th.randn(6, 2)] if with_actions else [])]
    assert (cv(*inputs) == 0).all()
    th.nn.init.ones_(cv.output_layer.bias)
    cv.scale.fill_(5.0)
    assert (cv(*inputs) == 5).all()


def test_the_scale_is_the_root_mean_square_of_earlier_advantages():
    """Of the first batch alone, and then an average of squares; never zero, where ĉ could not grow again."""
    cv = StateNetwork(3, [4])
    cv.scale_decay = 0.75
    assert cv.scale == 1
    cv.observe(th.tensor([3.0, -3.0, 3.0]))
    assert cv.scale.item() == pytest.approx(3)
    cv.observe(th.tensor([1.0, 7.0]))
    assert cv.scale.item() == pytest.approx((0.75 * 9 + 0.25 * 25) ** 0.5)
    assert cv.seen_batches == 2
    nothing = StateNetwork(3, [4])
    nothing.observe(th.zeros(5))
    assert nothing.scale > 0


def test_arch():
    assert control_variate_arch(dict(pi=[1], vf=[2, 3])) == [2, 3]
    assert control_variate_arch(dict(pi=[1], vf=[2], cv=[4])) == [4]
    assert control_variate_arch([5, 6]) == [5, 6]
    assert control_variate_arch([]) == [64]
    assert control_variate_arch(dict(pi=[], vf=[])) == [64]
    with pytest.raises(ValueError, match="positive layer sizes"):
        control_variate_arch(dict(cv=[0]))
