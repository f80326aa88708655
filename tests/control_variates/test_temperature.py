"""ĉ's learned temperature stays where the derivatives that train φ are numbers."""

import pytest
import torch as th

from sb3_relax.control_variates.network import ControlVariateNetwork
from sb3_relax.estimators import RELAX, GumbelOneHot, LogisticBernoulli

LATENTS = {
    "bits": (lambda: LogisticBernoulli(th.randn(50, 4)), 4),
    "classes": (lambda: GumbelOneHot(th.randn(50, 2, 3)), 6),
    "masked": (lambda: GumbelOneHot(th.randn(50, 2, 3), th.tensor([True, False, True])), 6),
}


@pytest.mark.parametrize("drift", [-200.0, -60.0, -9.0, 9.0, 60.0, 200.0])
@pytest.mark.parametrize("name", LATENTS)
def test_no_weight_is_nan_wherever_it_has_drifted(name, drift):
    build, action_dim = LATENTS[name]
    network = ControlVariateNetwork(5, action_dim, [8], init_temperature=0.5)
    th.nn.init.normal_(network.output_layer.weight)
    th.nn.init.constant_(network.log_temperature, drift)
    latent, phi = build(), list(network.parameters())
    estimate = RELAX(network.at_states(latent, th.randn(50, 5))).finish(latent, latent.sample(), th.randn(50))
    assert estimate.grad.isfinite().all()
    gradients = estimate.phi_gradients(phi)
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
    of_temperature = dict(zip(phi, gradients, strict=True))[network.log_temperature]
    if abs(drift) > 10:  # descent leads back, or nowhere
        assert of_temperature * drift >= 0
