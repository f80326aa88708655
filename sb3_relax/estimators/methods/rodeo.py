"""RODEO: control variates from a discrete Stein operator (Shi et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sb3_relax.estimators.base import Estimator, require_samples
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.functions import Objective, evaluate_with_slope
from sb3_relax.estimators.latents import Latent, LogisticBernoulli


class RODEO(Estimator):
    """ĝ = 1/K Σ_k {[f(b_k) - mean_{j≠k} (f(b_j) + β (A h_j)(b_j))] s(b_k) + γ (A [h_k s])(b_k)}, s = ∂θ log p.

    (A h)(x) = Σ_i q(flip_i) [h(x^i) - h(x)] has mean zero for every h (x^i is x with bit i flipped; q(flip_i) the
    probability of the flipped bit). It serves as a baseline's correction and as a control variate of the whole. The
    surrogates h_k(y) = mean_{j≠k} H(f(b_j), ∇f(b_j)·(y - b_j)) know the other samples alone, and cost no evaluation.
    H is the Taylor term plus a small network that starts at zero; it, β and γ are learned. With H the Taylor term,
    β = 1 removes the baseline's noise for a linear f, and what one bit's gradient hears of the others is least, as
    (1 - 2γ)² + γ²/(K-1), at γ = 2/(4 + 1/(K-1)), where it starts.
    When to use it: K evaluations of a differentiable f with many bits; memory and time grow as K² D.
    arXiv:2202.09497 (there A is a mean over i, a constant that β, γ and H absorb).

    :param samples: K, at least 2
    :param hidden: width of H's hidden layer
    :raises ValueError: for fewer samples

    Example::

        estimate = RODEO(samples=2)(LogisticBernoulli(logits), f)
    """

    needs_grad_f = True
    latents = (LogisticBernoulli,)
    samples = 2
    evaluations = 2

    def __init__(self, samples: int = 2, hidden: int = 16):
        super().__init__()
        self.samples = self.evaluations = require_samples(samples)
        self.network = nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.baseline_scale = nn.Parameter(torch.tensor(1.0))
        self.global_scale = nn.Parameter(torch.tensor(2 / (4 + 1 / (samples - 1))))

    def surrogate(self, value: Tensor, taylor: Tensor) -> Tensor:
        """H(f(b_j), ∇f(b_j)·(y - b_j)), elementwise."""
        value, taylor = torch.broadcast_tensors(value, taylor)
        return taylor + self.network(torch.stack([value, taylor], dim=-1)).squeeze(-1)

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        samples = self.samples
        value, slope = evaluate_with_slope(f, b, torch.Size([samples, *latent.batch_shape]), "RODEO")
        constant = value.detach()
        # [K, K-1]: row k lists the other samples
        others = torch.tensor([[j for j in range(samples) if j != k] for k in range(samples)], device=b.device)
        taylor = latent.inner(slope[others], b.unsqueeze(1) - b[others])  # [K, K-1, *batch]
        flip = 1 - 2 * b  # what a flip adds to a bit
        flipped = taylor.unsqueeze(-1) + slope[others] * flip.unsqueeze(1)  # [K, K-1, *batch, D]
        p = latent.wide_theta.detach().sigmoid()
        prob_flip = p + b * (1 - 2 * p)
        score = latent.score(b)
        with torch.enable_grad():
            h = self.surrogate(constant[others], taylor).mean(1)  # h_k(b_k), [K, *batch]
            h_flipped = self.surrogate(constant[others].unsqueeze(-1), flipped).mean(1)  # h_k(b_k^i), [K, *batch, D]
            stein = (prob_flip * (h_flipped - h.unsqueeze(-1))).sum(-1)
            baseline = (constant + self.baseline_scale * stein)[others].mean(1)
            # A[h s]: s changes with the flip of its own bit alone
            stein_score = expand_to(stein, latent) * score + prob_flip * h_flipped * flip
            grad = (expand_to(constant - baseline, latent) * score + self.global_scale * stein_score).mean(0)
        return Estimate(latent, value.mean(0), grad, phi=tuple(self.parameters()))
