"""Gradients that are given to parameters by hand."""

import torch as th

from sb3_relax.policy_gradient.gradients import give_gradients


def test_a_transposed_gradient_is_laid_out_as_its_parameter():
    """Torch's fused optimizers would otherwise give its entries to the wrong weights."""
    parameters = [th.nn.Parameter(th.zeros(2, 3)) for _ in range(2)]
    gradient = th.arange(6.0).reshape(3, 2).T
    give_gradients(parameters, [gradient, None])
    assert th.equal(parameters[0].grad, gradient)
    assert parameters[1].grad is None
    th.optim.SGD(parameters, lr=1.0, fused=True).step()
    assert th.equal(parameters[0], -gradient)
