"""A learned temperature stays where its derivatives are numbers."""

import math

import pytest
import torch

from sb3_relax.estimators import REBAR, GumbelOneHot, LogisticBernoulli, make
from sb3_relax.estimators.temperature import (
    GREATEST_TEMPERATURE,
    LEAST_TEMPERATURE,
    learned_temperature,
    require_temperature,
)

LATENTS = {
    "bits": lambda: LogisticBernoulli(torch.linspace(-20, 20, 300).reshape(100, 3).requires_grad_()),
    "classes": lambda: GumbelOneHot(torch.linspace(-20, 20, 600).reshape(100, 2, 3).requires_grad_()),
    "masked": lambda: GumbelOneHot(torch.randn(100, 2, 3).requires_grad_(), torch.tensor([True, False, True])),
}


@pytest.mark.parametrize("drift", [-200.0, -88.0, -50.0, -20.0, -9.2, 9.2, 20.0, 50.0, 88.0, 200.0])
@pytest.mark.parametrize("name", LATENTS)
@pytest.mark.parametrize("coupled", [True, False])
def test_no_weight_is_nan_wherever_it_has_drifted(drift, name, coupled):
    rebar, event = REBAR(coupled=coupled), LATENTS[name]().sample_ndim
    torch.nn.init.constant_(rebar.log_temperature, drift)
    for _ in range(10):
        latent = LATENTS[name]()
        estimate = rebar(latent, lambda b: (b - 0.3).square().flatten(-event).sum(-1))
        assert estimate.grad.isfinite().all()
        estimate.backward()
    gradient = rebar.log_temperature.grad
    assert gradient.isfinite()
    assert rebar.scale.grad.isfinite()
    if abs(drift) > 10:  # descent leads back, or nowhere
        assert gradient * drift >= 0


def test_it_is_the_exponential_between_the_bounds_and_its_bound_beyond(float64):
    for log_temperature, expected in [(-3.0, math.exp(-3)), (50.0, GREATEST_TEMPERATURE), (-50.0, LEAST_TEMPERATURE)]:
        for up in (1.0, -1.0):  # the sign of the loss's derivative
            x = torch.tensor(log_temperature, requires_grad=True)
            temperature = learned_temperature(x)
            assert temperature.item() == pytest.approx(expected)
            (up * temperature).backward()
            outwards = abs(log_temperature) > 10 and up * log_temperature < 0
            assert x.grad.item() == pytest.approx(0 if outwards else up * expected)
    mapped = torch.func.vmap(torch.func.grad(learned_temperature))(torch.tensor([-3.0, 50.0, -50.0]))
    assert mapped.tolist() == pytest.approx([math.exp(-3), GREATEST_TEMPERATURE, 0.0])


def test_it_comes_back_from_a_bound():
    """Pushed outwards for long, log τ overshoots by Adam's momentum alone, and comes back when the push turns."""
    x = torch.tensor(0.0, requires_grad=True)
    adam = torch.optim.Adam([x], lr=0.1)

    def step(sign):
        adam.zero_grad()
        (sign * learned_temperature(x).log()).backward()
        adam.step()

    for _ in range(1000):
        step(-1)
    assert math.log(GREATEST_TEMPERATURE) <= x.item() < math.log(GREATEST_TEMPERATURE) + 12 * 0.1
    for _ in range(200):
        step(1)
    assert x.item() < math.log(GREATEST_TEMPERATURE)


def test_temperatures_out_of_bounds_are_refused():
    bits = LogisticBernoulli(torch.zeros(2))
    for name in ("rebar", "concrete", "gumbel_rao"):
        for temperature in (1e-30, 1e-5, 1e5):
            with pytest.raises(ValueError, match=r"temperature must be between 0.0001 and 10000; got"):
                make(name, bits, temperature=temperature)
    assert require_temperature(LEAST_TEMPERATURE) == LEAST_TEMPERATURE
    assert require_temperature(GREATEST_TEMPERATURE) == GREATEST_TEMPERATURE
