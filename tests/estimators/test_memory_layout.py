"""Gradients that a fused optimizer reads as they are meant."""

import torch

from sb3_relax.estimators import ExactCorrection, GumbelOneHot
from sb3_relax.estimators.memory_layout import laid_out_as


def test_a_transposed_gradient_gets_the_strides_of_its_parameter():
    parameter, gradient = torch.zeros(2, 3), torch.arange(6.0).reshape(3, 2).T
    laid = laid_out_as(parameter, gradient)
    assert torch.equal(laid, gradient)
    assert laid.stride() == parameter.stride()
    assert laid_out_as(parameter, laid) is laid


class InBatches(torch.nn.Module):
    """A c whose weights have a gradient that autograd gives transposed."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Parameter(torch.randn(1, 5, 6))
        self.last = torch.nn.Parameter(torch.randn(5))

    def forward(self, z):
        hidden = torch.tanh(z.flatten(-2).unflatten(-2, (1, -1)) @ self.first.mT).flatten(-3, -2)
        return hidden @ self.last


def test_a_fused_optimizer_steps_as_any_other():
    """A surrogate of one's own, trained by backward() of its estimate."""
    after = []
    for fused in (True, False):
        torch.manual_seed(0)
        logits, surrogate = torch.zeros(7, 2, 3, requires_grad=True), InBatches()
        optimizer = torch.optim.SGD(surrogate.parameters(), lr=0.1, fused=fused)
        estimate = ExactCorrection(surrogate)(
            GumbelOneHot(logits), lambda b: b[..., 0].sum(-1), torch.Generator().manual_seed(1)
        )
        estimate.backward()
        optimizer.step()
        after.append([parameter.detach() for parameter in surrogate.parameters()])
    for fused, plain in zip(*after, strict=True):
        torch.testing.assert_close(fused, plain)
