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
# # Write your own estimator
#
# An estimator gives ĝ, an estimate of ∂θ E[f(b)] for b ~ p(b|θ). To write one, say what it consumes and what ĝ is;
# whether it is unbiased is then shown by enumeration, without sampling, and what it costs is measured.
#
# The one written here: REINFORCE with **antithetic bits**. For b ~ Bernoulli(σ(l)) and u uniform, 1[u < p] and
# 1[1 - u < p] are both draws of b, and they tend to differ. Each gives a REINFORCE estimate, and the mean of the two is
# unbiased whatever they have to do with each other:
#
# ĝ = ½ Σ_k f(b_k) ∂ log p(b_k|θ),  b_1 = 1[u < p],  b_2 = 1[1 - u < p]
#
# This is a script and a notebook: `jupytext --to notebook own_estimator.py`.

# %%
import torch

from sb3_relax.estimators import Estimate, Estimator, LogisticBernoulli, check_unbiased, gradient_variance, make
from sb3_relax.estimators.functions import evaluate

# %% [markdown]
# ## The estimator
#
# A subclass of [`Estimator`](../estimators.md) declares
#
# - the `latents` it takes, how many independent draws of b it wants (`samples`: none here, both bits are made of u) and
#   how often it calls f (`evaluations`);
# - `noise_shape`: the shape of the uniforms it consumes. They are drawn for it, or handed in by the proof below, which
#   is why an estimator draws nothing itself;
# - `estimate`: the mathematics.
#
# An estimator that needs no more of f than its value, at draws it does not make itself, subclasses `TwoPhaseEstimator`
# instead, writes `finish`, and can be used in reinforcement learning.


# %%
class Antithetic(Estimator):
    """ĝ = ½ Σ_k f(b_k) ∂ log p(b_k|θ) with b_1 = 1[u < p], b_2 = 1[1 - u < p]."""

    latents = (LogisticBernoulli,)
    samples = 0
    evaluations = 2

    def noise_shape(self, latent):
        return tuple(latent.theta.shape)

    def estimate(self, latent, f, b, noise):
        p = torch.sigmoid(latent.theta.detach())
        bits = torch.stack([noise < p, 1 - noise < p]).to(p.dtype)  # [2, *batch, D]
        value = evaluate(f, bits, torch.Size([2, *latent.batch_shape]))
        grad = value.detach().unsqueeze(-1) * latent.score(bits)
        return Estimate(latent, value.mean(0), grad.mean(0))


# %% [markdown]
# ## Is it unbiased?
#
# `check_unbiased` computes the estimator's expectation and compares it with the exact gradient: b by enumeration, uniforms
# by quadrature, in float64. The noise is integrated by a rule for smooth integrands. Ours jumps where u crosses p and
# 1 - p, and a quadrature that does not know of the jumps is not exact:

# %%
torch.manual_seed(0)
logits = torch.tensor([0.4], dtype=torch.float64)


def f(b):
    return (b - 0.3).square().sum(-1)


print("not told of the jumps:", check_unbiased(Antithetic(), LogisticBernoulli(logits), f).error)

# %% [markdown]
# `noise_rule` tells it. Between the jumps ĝ is constant, so one node in each piece, weighted by the piece's length, is
# exact. With several bits the rule is the product over them.


# %%
class Antithetic(Antithetic):  # the class above, with one method more
    def noise_rule(self, latent, nodes, chunk):
        nodes, weights = [], []
        for p in torch.sigmoid(latent.theta.detach()).flatten():
            edges = torch.stack([p * 0, torch.minimum(p, 1 - p), torch.maximum(p, 1 - p), p * 0 + 1])
            nodes.append((edges[1:] + edges[:-1]) / 2)
            weights.append(edges.diff())
        grid = torch.cartesian_prod(*nodes).reshape(-1, len(nodes))
        yield grid, torch.cartesian_prod(*weights).reshape(-1, len(nodes)).prod(1)


logits = torch.tensor([0.4, -1.2, 2.0], dtype=torch.float64)
check = check_unbiased(Antithetic(), LogisticBernoulli(logits), f)
print(f"largest error over three bits: {check.error:.1e}, unbiased: {check.unbiased}")
assert check.unbiased

# %% [markdown]
# ## Would it notice a mistake?
#
# A check that nothing fails shows nothing. Here is one that is easily made: the second bit's score is taken at the first
# bit.


# %%
class Mistaken(Antithetic):
    def estimate(self, latent, f, b, noise):
        right = super().estimate(latent, f, b, noise)
        p = torch.sigmoid(latent.theta.detach())
        bits = torch.stack([noise < p, 1 - noise < p]).to(p.dtype)
        return Estimate(latent, right.value, f(bits).mean(0).unsqueeze(-1) * latent.score(bits[0]))


check = check_unbiased(Mistaken(), LogisticBernoulli(logits), f)
print(f"the mistaken one: error {check.error:.1e}, unbiased: {check.unbiased}")
assert not check.unbiased

# %% [markdown]
# ## What does it cost?
#
# `gradient_variance` measures Σ_i Var(ĝ_i), with a standard error. To compare fairly, multiply by the calls of f: two calls
# could as well be spent on two independent samples.

# %%
q = LogisticBernoulli(torch.linspace(-1, 1, 10))
for name, estimator in {
    "Antithetic": Antithetic(),
    "REINFORCE": make("reinforce", q),
    "RLOO, K = 2": make("rloo", q),
    "DisARM": make("disarm", q),
}.items():
    variance, error = gradient_variance(estimator, q, f, n=20_000)
    calls = estimator.evaluations
    print(f"{name:12} variance × calls: {variance * calls:8.3f} ± {error * calls:.3f}")

# %% [markdown]
# DisARM uses the same pair of bits, and puts their difference to use where the mean of two REINFORCE estimates does not.
#
# ## Where to go from here
#
# In the package, add the class's line to `ESTIMATORS` (`sb3_relax/estimators/registry.py`): `make("name", q)` finds it, and
# every shared test runs on it: unbiasedness, shapes, errors, f's direct dependence on θ. A control variate with parameters
# is a submodule, and `Estimate(..., phi=[*self.parameters()])` trains it by Eq 6.
