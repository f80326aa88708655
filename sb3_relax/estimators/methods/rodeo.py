"""RODEO: control variates from a discrete Stein operator (Shi et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sb3_relax.estimators.base import leave_one_out_mean
from sb3_relax.estimators.estimate import VJP, Estimate, expand_to
from sb3_relax.estimators.latents import Latent, LogisticBernoulli
from sb3_relax.estimators.objective import Objective, evaluate_with_slope
from sb3_relax.estimators.several_samples import OfSeveralSamples


class RODEO(OfSeveralSamples):
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

    def __init__(self, samples: int = 2, hidden: int = 16):
        super().__init__(samples)
        self.network = nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.baseline_scale = nn.Parameter(torch.tensor(1.0))
        self.global_scale = nn.Parameter(torch.tensor(2 / (4 + 1 / (samples - 1))))

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        samples = self.samples
        value, slope = evaluate_with_slope(f, b, torch.Size([samples, *latent.batch_shape]), "RODEO")
        # autograd's bookkeeping of what follows would cost more than its arithmetic: the backward pass is written out
        with torch.no_grad():
            constant = value.detach()
            number = torch.arange(samples, device=b.device)
            others = (number.unsqueeze(1) + number[1:]) % samples  # [K, K-1]: row k lists the other samples
            of_others = slope[others]  # [K, K-1, *batch, D]
            taylor = latent.inner(of_others, b.unsqueeze(1) - b[others]).unsqueeze(-1)
            flip = 1 - 2 * b  # what a flip adds to a bit
            # at b_k, and at its D neighbours: [K, K-1, *batch, 1 + D]
            taylor = torch.cat([taylor, torch.addcmul(taylor, of_others, flip.unsqueeze(1))], dim=-1)
            network, network_vjp = self._network_at(constant[others], taylor)
            h = (taylor + network).mean(1)
            h_flipped = h[..., 1:]
            p = latent.wide_theta.detach().sigmoid()
            prob_flip = p + b * (1 - 2 * p)
            score = latent.score(b)
            stein = (prob_flip * (h_flipped - h[..., :1])).sum(-1)
            baseline_scale, global_scale = self.baseline_scale.clone(), self.global_scale.clone()
            baseline = leave_one_out_mean(constant + baseline_scale * stein)
            # A[h s]: s changes with the flip of its own bit alone
            stein_score = expand_to(stein, latent) * score + prob_flip * h_flipped * flip
            grad = (expand_to(constant - baseline, latent) * score + global_scale * stein_score).mean(0)

        def vjp(grad_bar: Tensor) -> list[tuple[Tensor, Tensor]]:
            """The lines above backwards."""
            grad_bar = grad_bar / samples
            along = latent.inner(grad_bar, score)  # what ĝ's cotangent makes of every sample's score, [K, *batch]
            stein_bar = global_scale * along - baseline_scale * leave_one_out_mean(along)
            by_flip = prob_flip * torch.addcmul(stein_bar.unsqueeze(-1), global_scale * grad_bar, flip)
            by_none = -(prob_flip.sum(-1) * stein_bar).unsqueeze(-1)
            return [
                (self.baseline_scale, -(along * leave_one_out_mean(stein)).sum()),
                (self.global_scale, (grad_bar * stein_score).sum()),
                *network_vjp(torch.cat([by_none, by_flip], dim=-1) / (samples - 1)),
            ]

        return Estimate(latent, value.mean(0), grad, phi=tuple(self.parameters()), phi_vjp=vjp)

    def _network_at(self, value: Tensor, taylor: Tensor) -> tuple[Tensor, VJP]:
        """The network of H at f(b_j) and ∇f(b_j)·(y - b_j), shape of ``taylor``, and its backward pass.

        :param value: ``[K, K-1, *batch]``
        :param taylor: ``[K, K-1, *batch, 1 + D]``
        """
        first, _, last = self.network
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        points = torch.stack([value.unsqueeze(-1).expand_as(taylor), taylor, torch.ones_like(taylor)]).flatten(1)
        inner = (torch.cat([first.weight, first.bias.unsqueeze(-1)], dim=-1) @ points).tanh_()  # [hidden, points]
        weight = last.weight.clone()

        def vjp(bar: Tensor) -> list[tuple[Tensor, Tensor]]:
            """:param bar: the cotangent for every sample k, the same for all of the others j: [K, *batch, 1 + D]"""
            bar = bar.unsqueeze(1).expand_as(taylor).reshape(1, -1)
            first_bar = weight.T * (torch.ops.aten.tanh_backward(bar, inner) @ points.T)
            return [
                (first.weight, first_bar[:, :2].contiguous()),
                (first.bias, first_bar[:, 2].contiguous()),
                (last.weight, bar @ inner.T),
                (last.bias, bar.sum(1)),
            ]

        return torch.addmm(last.bias, weight, inner).reshape(taylor.shape), vjp
