"""What latents keep of θ, and for how long."""

import pytest
import torch

from sb3_relax.estimators import GumbelOneHot, KSubset, LogisticBernoulli, make

LATENTS = {"bits": LogisticBernoulli, "classes": GumbelOneHot, "subset": lambda theta: KSubset(theta, 2)}


@pytest.mark.parametrize("name", LATENTS)
def test_a_latent_of_a_leaf_follows_the_steps_of_an_optimizer(name):
    """It may be made once, outside of the loop."""
    theta = torch.zeros(6, 4, 3).requires_grad_() if name == "classes" else torch.zeros(6, 4).requires_grad_()
    q = LATENTS[name](theta)
    optimizer = torch.optim.SGD([theta], 2.0)
    for step in range(3):
        grads = []
        for latent in (q, LATENTS[name](theta)):
            estimate = make("reinforce", latent)(
                latent, lambda b: b.flatten(1).cumsum(1).sum(1), torch.Generator().manual_seed(step)
            )
            grads.append(estimate.grad)
        assert torch.equal(*grads)
        assert torch.equal(q.mean(), LATENTS[name](theta).mean())
        optimizer.zero_grad()
        estimate.backward()
        optimizer.step()


def test_what_has_not_changed_is_computed_once():
    q = LogisticBernoulli(torch.zeros(3))
    assert q.probabilities is q.probabilities
