"""Surrogates whose slope jumps, which an estimator with their second derivative refuses."""

import pytest
import torch
from torch import nn

from sb3_relax.estimators import LAX, CurvatureLAX, Gaussian, bias_z_scores
from sb3_relax.estimators.surrogate import KINKED, require_smooth

#: layers that map number to number
ELEMENTWISE = {
    **{
        name: getattr(nn, name)
        for name in nn.modules.activation.__all__
        if name not in ("GLU", "MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "LogSoftmax", "Threshold")
    },
    "Threshold": lambda: nn.Threshold(0.1, 0.0),
    "ELU of another alpha": lambda: nn.ELU(0.5),
}
POOLS = [kind for kind in KINKED if kind.__module__ == "torch.nn.modules.pooling"]


def refuses(layer):
    try:
        require_smooth("it", layer)
    except TypeError:
        return True
    return False


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_what_is_refused_is_what_autograd_does_not_know(name, float64):
    """It integrates to its antiderivative from the left end to every x, or the layer is refused."""
    layer = ELEMENTWISE[name]().eval()  # RReLU's slope is random in training
    x = torch.linspace(-8.0007, 8.0011, 200_001, requires_grad=True)
    value = layer(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    curvature = torch.zeros_like(x)
    if slope.requires_grad and name != "Hardsigmoid":  # torch has no second derivative of it
        (curvature,) = torch.autograd.grad(slope.sum(), x, allow_unused=True, materialize_grads=True)
    known = [
        torch.allclose(torch.cumulative_trapezoid(rate, x), whole[1:] - whole[0], atol=1e-3)
        for whole, rate in ((value, slope), (slope, curvature))
    ]
    assert refuses(layer) == (not all(known))


@pytest.mark.parametrize("kind", POOLS)
def test_a_maximum_is_refused(kind):
    assert refuses(nn.Sequential(kind(2)))


class Net(nn.Module):
    """Of two numbers."""

    def __init__(self, activation):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 8), activation, nn.Linear(8, 1))

    def forward(self, z):
        return self.inner(z).squeeze(-1)


def test_the_error_names_the_layer_and_the_remedy():
    with pytest.raises(TypeError, match=r"CurvatureLAX .* LeakyReLU.* \(layer 'inner.1' .* Use Tanh, Softplus or SiLU"):
        CurvatureLAX(Net(nn.LeakyReLU()))
    LAX(Net(nn.LeakyReLU()))
    for activation in (nn.Tanh(), nn.Softplus(), nn.SiLU()):
        CurvatureLAX(Net(activation))


def test_a_call_of_relu_is_not_seen_and_is_biased(float64):
    """As the docstring says: E[b²] has the slopes 2μ and 2σ² in μ and log σ."""
    latent = Gaussian(torch.tensor([0.3]), torch.tensor([-0.2]))
    exact = torch.stack([2 * latent.theta[..., 0], 2 * (2 * latent.theta[..., 1]).exp()], dim=-1)
    z = {
        kind: bias_z_scores(
            kind(lambda b: 3 * b.relu().sum(-1), center=False),
            latent,
            lambda b: b.square().sum(-1),
            exact,
            20_000,
            torch.Generator().manual_seed(0),
        )
        for kind in (CurvatureLAX, LAX)
    }
    assert z[LAX].abs().max() < 4.5
    assert z[CurvatureLAX][..., 0].abs().max() < 4.5
    assert z[CurvatureLAX][..., 1].abs().min() > 20
