# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Write your own latent
#
# A latent is a distribution p(b|θ) whose score ∂θ log p(b|θ) is known. With a sample, a log-probability and a score,
# all estimators of any latent take it: `Reinforce`, `NVIL`, `RLOO` and `VIMCO`. Where its sample moves with θ while its
# noise stays, one method more gives `LAX`, `Reparam`, and `RELAX` of a `Joint` that it is a part of.
#
# Two are written here: a **Poisson** count, which has no such path, and a **Laplace** number, which has one.
#
# This is a script and a notebook: `jupytext --to notebook own_latent.py`.

# %%
import math

import torch

from sb3_relax.estimators import (
    Joint,
    Latent,
    LogisticBernoulli,
    ReparameterisedLatent,
    bias_z_scores,
    estimators_of,
    gradient_variance,
    make,
)

# %% [markdown]
# ## Counts
#
# A subclass of [`Latent`](../estimators.md#latents) declares
#
# - `event_ndim` and `sample_ndim`, how many of the last dimensions of θ, and of b, belong to one sample: here both are
#   `[*batch, D]`, D counts a sample;
# - `at(theta)`: the same latent with another θ. Estimators make batches and grids by it;
# - `sample`, `log_prob` and `score`. Samples and scores are detached, `log_prob` is differentiable. All three compute
#   with `self.wide_theta`, which is θ, but in float32 where θ is half precision, and draw from the generator alone.
#
# θ is the logarithm of the rate λ: log p(b|θ) = b θ - exp θ - log b!, and the score is b - exp θ.


# %%
class Poisson(Latent):
    """D independent counts of rates λ = exp(θ).

    :param log_rate: θ, ``[*batch, D]``
    """

    event_ndim = 1
    sample_ndim = 1

    def __init__(self, log_rate):
        self.theta = log_rate

    def at(self, theta):
        return Poisson(theta)

    def sample(self, generator=None):
        return torch.poisson(self.wide_theta.detach().exp(), generator)

    def log_prob(self, b):
        theta = self.wide_theta
        return (b * theta - theta.exp() - torch.lgamma(b + 1)).sum(-1)

    def score(self, b):
        return b - self.wide_theta.detach().exp()


# %% [markdown]
# A baker decides how many loaves to bake. Bread that is left over costs 1 a loaf, and a loaf that is missing costs 3.
# f is a black box:

# %%
torch.manual_seed(0)
wanted = torch.tensor([4.0, 9.0, 2.0])  # on three days


def cost(b):
    return torch.where(b > wanted, b - wanted, 3 * (wanted - b)).sum(-1)


log_rate = torch.tensor([[1.0, 2.0, 0.5]], requires_grad=True)  # one sample of three counts
q = Poisson(log_rate)
print("a Poisson of your own is taken by:", ", ".join(estimators_of(q)))

# %% [markdown]
# ## Is it right?
#
# The score is the one thing that is easily got wrong. It must be the derivative of `log_prob`, and the estimators'
# means must be the gradient. Counts cannot all be visited, but those above 60 hardly ever come, so that the sum over
# the others is the gradient to ten digits. `bias_z_scores` compares a mean of samples with it, in standard errors.


# %%
def exact(log_rate):
    """∂θ E[cost(b)], of every day's counts up to 60."""
    theta = log_rate.detach().double().requires_grad_()
    counts = torch.arange(61, dtype=torch.float64)
    log_p = counts * theta.unsqueeze(-1) - theta.exp().unsqueeze(-1) - torch.lgamma(counts + 1)
    day = wanted.unsqueeze(-1)
    costs = torch.where(counts > day, counts - day, 3 * (day - counts))
    return torch.autograd.grad((log_p.exp() * costs).sum(), theta)[0]


b = q.sample()
(by_autograd,) = torch.autograd.grad(q.log_prob(b).sum(), log_rate)
assert torch.allclose(by_autograd, q.score(b))

one = Poisson(log_rate.detach()[0])
for name in ("reinforce", "nvil", "rloo"):
    z = bias_z_scores(make(name, one), one, cost, exact(one.theta), 100_000, torch.Generator().manual_seed(1))
    print(f"{name:9} is off by {z.abs().max():.1f} standard errors at most")
    assert z.abs().max() < 5

# %% [markdown]
# A mistake would be seen. This score forgets the derivative of the normalising constant. `RLOO` would not show it,
# since what is added to every score falls out of it; REINFORCE does:


# %%
class Mistaken(Poisson):
    def at(self, theta):
        return Mistaken(theta)

    def score(self, b):
        return b


wrong = Mistaken(one.theta)
z = bias_z_scores(make("reinforce", wrong), wrong, cost, exact(one.theta), 100_000, torch.Generator().manual_seed(1))
print(f"the mistaken one is off by {z.abs().max():.0f}")
assert z.abs().max() > 10

# %% [markdown]
# It trains as any other, also with costs of each count (`PerVariable`), in layers, or as a part of a `Joint`:

# %%
optimizer = torch.optim.Adam([log_rate], lr=0.05)
rloo = make("rloo", q, samples=4)
for _ in range(300):
    optimizer.zero_grad()
    rloo(q, cost).backward()
    optimizer.step()
print("rates:", [round(rate, 1) for rate in log_rate.detach().exp()[0].tolist()], "for", wanted.tolist())

# %% [markdown]
# What needs a relaxation, such as `RELAX`, says who takes it:

# %%
try:
    make("lax", q)
except TypeError as error:
    print(error)

# %% [markdown]
# ## Numbers with a path
#
# A [`ReparameterisedLatent`](../estimators.md#latents) is b = T(θ, ε). It writes `path_gradient(b, slope)` as well:
# `slope` · ∂b/∂θ, with the noise ε of this very b held fixed, of θ's shape. What of b moves with θ can then be
# corrected by a learned c(b), whose slope is known where f's is not.
#
# Laplace has b = μ + s ε, where θ is μ and log s: ∂b/∂μ = 1, and ∂b/∂log s = s ε = b - μ. θ has a dimension more than
# b, for the two.


# %%
class Laplace(ReparameterisedLatent):
    """D independent numbers b = μ + s ε, ε of density exp(-|ε|)/2.

    :param loc: μ, ``[*batch, D]``
    :param log_scale: log s, the same
    """

    event_ndim = 2
    sample_ndim = 1

    def __init__(self, loc, log_scale):
        self.theta = torch.stack([loc, log_scale], dim=-1)

    def at(self, theta):
        return Laplace(*theta.unbind(-1))

    def sample(self, generator=None):
        loc, log_scale = self.wide_theta.detach().unbind(-1)
        u = torch.rand(loc.shape, dtype=loc.dtype, device=loc.device, generator=generator) - 0.5
        u = u.clamp(min=torch.finfo(u.dtype).eps - 0.5)  # at -½ the logarithm is infinite
        return loc - log_scale.exp() * u.sign() * torch.log1p(-2 * u.abs())

    def log_prob(self, b):
        loc, log_scale = self.wide_theta.unbind(-1)
        return (-(b - loc).abs() / log_scale.exp() - log_scale - math.log(2)).sum(-1)

    def score(self, b):
        loc, log_scale = self.wide_theta.detach().unbind(-1)
        noise = (b - loc) / log_scale.exp()
        return torch.stack([noise.sign() / log_scale.exp(), noise.abs() - 1], dim=-1)

    def path_gradient(self, b, slope):
        return torch.stack([slope, slope * (b - self.wide_theta.detach()[..., 0])], dim=-1)


# %% [markdown]
# Is the path right? With f smooth, the mean of `Reparam` must be that of REINFORCE. f = b² has E[b²] = μ² + 2 s², and
# so the gradient (2 μ, 4 s²). A new `LAX` has c = 0, and is REINFORCE: a c of random weights tests its path.

# %%
loc, log_scale = torch.tensor([0.7, -0.2]), torch.tensor([-0.5, 0.3])
q = Laplace(loc, log_scale)
truth = torch.stack([2 * loc, 4 * (2 * log_scale).exp()], dim=-1)
for name in ("reinforce", "reparam", "lax"):
    estimator = make(name, q)
    for weight in estimator.parameters():
        torch.nn.init.normal_(weight)
    generator = torch.Generator().manual_seed(1)
    z = bias_z_scores(estimator, q, lambda b: b.square().sum(-1), truth, 100_000, generator)
    print(f"{name:9} is off by {z.abs().max():.1f} standard errors at most")
    assert z.abs().max() < 5

# %% [markdown]
# ## What it is worth
#
# f is a black box with steps. `LAX` learns c while θ stays, and `gradient_variance` says what that leaves:

# %%
batch = Laplace(loc.expand(256, 2), log_scale.expand(256, 2))


def steps(b):
    return b.round().square().sum(-1)


lax = make("lax", batch)
optimizer = torch.optim.Adam(lax.parameters(), lr=0.01)
for _ in range(1_000):
    optimizer.zero_grad()
    lax(batch, steps).backward()
    optimizer.step()
for name, estimator in {"REINFORCE": make("reinforce", q), "LAX": lax}.items():
    variance, error = gradient_variance(estimator, q, steps, n=20_000)
    print(f"{name:9} variance: {variance:7.2f} ± {error:.2f}")

# %% [markdown]
# In a `Joint`, `RELAX` is LAX for such a part and RELAX for bits and one-hots, with one c of all of them:

# %%
mixed = Joint(
    where=Laplace(torch.zeros(64, 1, requires_grad=True), torch.zeros(64, 1)), on=LogisticBernoulli(torch.zeros(64, 1))
)
make("relax", mixed)(mixed, lambda b: (b.round().sum(-1) - 1).abs()).backward()

# %% [markdown]
# ## Where to go from here
#
# `entropy()`, `mean()`, `mode()` and `kl(other)` are for those who use a latent, and no estimator above needs them. A
# discrete latent with a relaxation of its own is a `RelaxedLatent`, with the methods that `LogisticBernoulli` has; as a
# part of a `Joint`, `RELAX` takes it.
