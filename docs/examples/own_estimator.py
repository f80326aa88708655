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
from sb3_relax.estimators.objective import evaluate

# %% [markdown]
# ## The estimator
#
# A subclass of [`Estimator`](../estimators.md) declares
#
# - the `latents` it takes, how many independent draws of b it wants (`samples`: none here, both bits are made of u) and
#   how often it calls f (`evaluations`);
# - `noise_shape`: the shape of the uniforms it consumes. They are drawn for it, or handed in by the proof below, which
#   is why an estimator draws nothing itself;
# - `estimate`: the mathematics;
# - where ĝ jumps as the uniforms vary, `noise_rule`: points and weights that integrate over them for the proof. Ours
#   jumps where u crosses p and 1 - p and is constant between, so one point in each piece, weighted by the piece's
#   length, is exact.
#
# An estimator that needs no more of f than its value, at draws it does not make itself, subclasses `TwoPhaseEstimator`
# instead, writes `of_value`, and can be used in reinforcement learning.


# %%
class Antithetic(Estimator):
    """ĝ = ½ Σ_k f(b_k) ∂ log p(b_k|θ) with b_1 = 1[u < p], b_2 = 1[1 - u < p]."""

    latents = (LogisticBernoulli,)
    samples = 0
    evaluations = 2

    def noise_shape(self, latent):
        return tuple(latent.theta.shape)

    def estimate(self, latent, f, b, noise):
        p = latent.probabilities
        bits = torch.stack([noise < p, 1 - noise < p]).to(p.dtype)  # [2, *batch, D]
        value = evaluate(f, bits, torch.Size([2, *latent.batch_shape]))
        grad = value.detach().unsqueeze(-1) * latent.score(bits)
        return Estimate(latent, value.mean(0), grad.mean(0))

    def noise_rule(self, latent, nodes, chunk):
        points, lengths = [], []
        for p in latent.probabilities.flatten():
            edges = torch.stack([0 * p, torch.minimum(p, 1 - p), torch.maximum(p, 1 - p), 0 * p + 1])
            points.append((edges[1:] + edges[:-1]) / 2)
            lengths.append(edges.diff())
        size = len(points)
        yield (
            torch.cartesian_prod(*points).reshape(-1, size),
            torch.cartesian_prod(*lengths).reshape(-1, size).prod(1),
        )


# %% [markdown]
# ## Is it unbiased?
#
# `check_unbiased` computes the estimator's expectation and compares it with the exact gradient, in float64 and without
# sampling: b by enumeration, uniforms by quadrature over `noise_rule`.

# %%
torch.manual_seed(0)
q = LogisticBernoulli(torch.tensor([0.4, -1.2, 2.0], dtype=torch.float64))


def f(b):
    return (b - 0.3).square().sum(-1)


check = check_unbiased(Antithetic(), q, f)
print(f"largest error over three bits: {check.error:.1e}, unbiased: {check.unbiased}")
assert check.unbiased

# %% [markdown]
# The rule that `Estimator` has to offer is for smooth integrands. With jumps inside it is close, but no proof:


# %%
class SmoothRule(Antithetic):
    noise_rule = Estimator.noise_rule


one_bit = LogisticBernoulli(torch.tensor([0.4], dtype=torch.float64))
print(f"error with the rule for smooth integrands, one bit: {check_unbiased(SmoothRule(), one_bit, f).error:.1e}")

# %% [markdown]
# ## Would it notice a mistake?
#
# A check that nothing fails shows nothing. Here is a mistake that is easily made: the second bit's score is taken at
# the first bit.


# %%
class Mistaken(Antithetic):
    def estimate(self, latent, f, b, noise):
        right = super().estimate(latent, f, b, noise)
        p = latent.probabilities
        bits = torch.stack([noise < p, 1 - noise < p]).to(p.dtype)
        return Estimate(latent, right.value, f(bits).mean(0).unsqueeze(-1) * latent.score(bits[0]))


check = check_unbiased(Mistaken(), q, f)
print(f"the mistaken one: error {check.error:.1e}, unbiased: {check.unbiased}")
assert not check.unbiased

# %% [markdown]
# ## What does it cost?
#
# `gradient_variance` measures Σ_i Var(ĝ_i), with a standard error. To compare fairly, multiply by the calls of f: two
# calls could as well be spent on two independent samples.

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
# DisARM uses the same pair of bits, and puts their difference to use where the mean of two REINFORCE estimates does
# not.
#
# ## Where to go from here
#
# In the package, add the class's line to `ESTIMATORS` (`sb3_relax/estimators/registry.py`): `make("name", q)` finds it,
# and every shared test runs on it: unbiasedness, shapes, errors, f's direct dependence on θ. A control variate with
# parameters is a submodule, and `Estimate(..., phi=[*self.parameters()])` trains it by Eq 6.
