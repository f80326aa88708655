"""Small problems on which expectations are known exactly."""

import torch
from torch import nn

from sb3_relax.estimators import Gaussian, GumbelOneHot, LogisticBernoulli


def random_net(inputs: int, scale: float = 1.0):
    """A smooth random function of the flattened event, ``[..., *event]`` → ``[...]``."""
    net = nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, 1))

    def c(x, event_ndim):
        return scale * net(x.flatten(-event_ndim)).squeeze(-1)

    c.net = net
    return c


def relaxed_net(latent, scale: float = 3.0, temperature: float = 0.7):
    """A surrogate of the relaxed sample, with parameters."""
    c = random_net(latent.theta.shape[-latent.event_ndim :].numel(), scale)
    log_temperature = nn.Parameter(torch.tensor(temperature).log())

    def surrogate(z):
        z = z / log_temperature.exp()
        return c(z.softmax(-1) if isinstance(latent, GumbelOneHot) else z.sigmoid(), latent.event_ndim)

    surrogate.parameters = [*c.net.parameters(), log_temperature]
    return surrogate


def hard_net(latent, scale: float = 3.0):
    c = random_net(latent.theta.shape[-latent.event_ndim :].numel(), scale)

    def surrogate(b):
        return c(b, latent.event_ndim)

    surrogate.parameters = list(c.net.parameters())
    return surrogate


def gaussian_net(latent, scale: float = 3.0):
    c = random_net(latent.theta.shape[-2], scale)

    def surrogate(b):
        return c(b, 1)

    surrogate.parameters = list(c.net.parameters())
    return surrogate


#: name → (latent, quadrature nodes a dimension that bring the error below 1e-10)
DISCRETE = {
    "one bit": (lambda: LogisticBernoulli(torch.tensor([0.7])), 60),
    "two bits": (lambda: LogisticBernoulli(torch.randn(2)), 60),
    "three bits": (lambda: LogisticBernoulli(torch.randn(3)), 48),
    "two classes": (lambda: GumbelOneHot(torch.randn(1, 2)), 60),
    "three classes": (lambda: GumbelOneHot(torch.randn(1, 3)), 52),
    "masked classes": (lambda: GumbelOneHot(torch.randn(1, 3), torch.tensor([True, False, True])), 52),
}


def gaussian():
    return Gaussian(torch.randn(2), 0.3 * torch.randn(2))
