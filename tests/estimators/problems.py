"""Small problems on which expectations are known exactly."""

import math

import torch
from torch import nn

from sb3_relax.estimators import NVIL, Gaussian, GumbelOneHot, LogisticBernoulli
from sb3_relax.estimators.centred import CentredEstimator


def random_net(inputs: int, scale: float = 1.0):
    """A smooth random function of the flattened event, ``[..., *event]`` → ``[...]``."""
    net = nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, 1))

    def c(x, event_ndim):
        return scale * net(x.flatten(-event_ndim)).squeeze(-1)

    c.net = net
    return c


def event_size(latent):
    return latent.sample_shape.numel()


class Net(nn.Module):
    """A surrogate with parameters: of the relaxed sample where there is a temperature, else of b as it is."""

    def __init__(self, latent, scale=3.0, temperature=None):
        super().__init__()
        self.event_ndim = latent.sample_ndim
        self.one_hot = isinstance(latent, GumbelOneHot)
        self.scale = scale
        c = random_net(event_size(latent))
        self.net = c.net
        self.log_temperature = None if temperature is None else nn.Parameter(torch.tensor(temperature).log())

    def forward(self, z):
        if self.log_temperature is not None:
            z = z / self.log_temperature.exp()
            z = z.softmax(-1) if self.one_hot else z.sigmoid()
        return self.scale * self.net(z.flatten(-self.event_ndim)).squeeze(-1)


def relaxed_net(latent, scale: float = 3.0, temperature: float = 0.7):
    return Net(latent, scale, temperature)


def hard_net(latent, scale: float = 3.0):
    return Net(latent, scale)


gaussian_net = hard_net


def reparameterised(latent, b, u):
    """z given b, with its noise recovered and then held fixed, so that ∂z/∂θ is the unconditional one."""
    natural = latent.natural()
    return natural + (latent.conditional(b, u) - natural).detach()


def black_box(bits):
    """No graph, no smoothness: torch never sees it."""
    return math.sin(100 * sum((i + 1) * bit for i, bit in enumerate(bits)))


def of_event(latent, g):
    """g of the flattened event, any leading shape."""
    return lambda b: g(b.flatten(-latent.sample_ndim))


def weights(x):
    return 1 + torch.arange(x.shape[-1], dtype=x.dtype)


def untouched(latent):
    """A black box: rows through plain Python, no graph."""

    def f(b):
        rows = b.detach().flatten(-latent.sample_ndim)
        values = [black_box(row) for row in rows.reshape(-1, rows.shape[-1]).tolist()]
        return torch.tensor(values).reshape(rows.shape[:-1])

    return f


def with_theta(latent):
    """f(b, θ): a direct term on top (Eq 11)."""
    net = random_net(latent.sample().numel(), 2.0)

    def f(b):
        x = b.flatten(-latent.sample_ndim)
        return net(b, latent.sample_ndim) + (x.sum(-1) + 1) * latent.theta.clamp(-50, 50).sin().sum()

    return f


#: name → latent → f. All but the black box are differentiable in b.
OBJECTIVES = {
    "constant": lambda latent: of_event(latent, lambda x: 3 + 0 * x.sum(-1)),
    "linear": lambda latent: of_event(latent, lambda x: (x * weights(x)).sum(-1)),
    "quadratic": lambda latent: of_event(latent, lambda x: (x - 0.4 * weights(x)).square().sum(-1)),
    "network": lambda latent: hard_net(latent, 5.0),
    "with θ": with_theta,
    "black box": untouched,
}

#: name → (latent, quadrature nodes a dimension that bring the error below 2e-11, of every estimator)
DISCRETE = {
    "one bit": (lambda: LogisticBernoulli(leaf(torch.tensor([0.7]))), 60),
    "two bits": (lambda: LogisticBernoulli(leaf(torch.randn(2))), 60),
    "three bits": (lambda: LogisticBernoulli(leaf(torch.randn(3))), 36),
    "two classes": (lambda: GumbelOneHot(leaf(torch.randn(1, 2))), 60),
    "three classes": (lambda: GumbelOneHot(leaf(torch.randn(1, 3))), 40),
    "masked classes": (lambda: GumbelOneHot(leaf(torch.randn(1, 3)), torch.tensor([True, False, True])), 36),
}


def leaf(theta):
    return theta.requires_grad_()


def gaussian():
    return Gaussian(leaf(torch.randn(2)), leaf(0.3 * torch.randn(2)))


@torch.no_grad()
def lively(estimator):
    """Parts that matter: default ones start at zero. Small enough for quadrature to converge."""
    for name, parameter in estimator.named_parameters():
        if name in ("output.weight", "surrogate.output.weight", "network.2.weight", "residual.output.weight"):
            parameter.normal_(std=0.4)
        elif name.endswith("log_temperature"):
            parameter.fill_(math.log(0.7))
        elif name.endswith("scale"):
            parameter.add_(0.3)
    if isinstance(estimator, NVIL):
        estimator.mean.fill_(0.4)
        estimator.variance.fill_(2.0)
    if isinstance(estimator, CentredEstimator) and estimator.center:
        estimator.running_mean.mean.fill_(0.4)
    return estimator
