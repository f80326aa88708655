"""NVIL (Mnih and Gregor 2014)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sb3_relax.estimators.base import TwoPhaseEstimator
from sb3_relax.estimators.baselines import BaselineEstimator, baseline_of
from sb3_relax.estimators.centred import fade_in
from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import Latent


class NVIL(BaselineEstimator, TwoPhaseEstimator):
    """ĝ = (f(b) - C_ψ - m) ∂θ log p(b|θ) / max(1, √v): a learned and a running baseline.

    C_ψ is a function of the input, fitted by squared error; m and v are running averages over *earlier* batches of the
    mean and variance of f - C_ψ, updated by ``Estimate.backward()``.
    When to use it: one evaluation of an f that is no more than a number. When not: f may be called twice (RLOO).
    arXiv:1402.0030.

    :param baseline: C_ψ of the context, or, where none is given, of the detached θ, which then stands for the input:
        ``[*batch, ...]`` → ``[*batch]``. ``None``: none. ``make("nvil", q, context=64)`` makes a network of 64 numbers
    :param normalise: divide by max(1, √v), as the paper; then E[ĝ] is the gradient over a positive number, and not the
        gradient. Off by default, so that the estimator is unbiased
    :param decay: weight of the past in m and v

    Example::

        estimate = NVIL()(LogisticBernoulli(logits), f)
    """

    latents = (Latent,)
    context_parts = ("baseline",)
    mean: Tensor
    variance: Tensor
    seen: Tensor

    def __init__(self, baseline: nn.Module | None = None, normalise: bool = False, decay: float = 0.8):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1); got {decay}")
        self.baseline = baseline
        self.normalise = normalise
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        signal = value.detach()
        phi_loss = None
        with torch.enable_grad():
            if self.baseline is not None:
                signal = signal - baseline_of(self.baseline, latent)
            centred = signal - self.mean.to(signal.dtype)
            if self.baseline is not None:
                phi_loss = centred.square().mean()
        weight = centred.detach()
        if self.normalise:
            weight = weight / self.variance.to(signal.dtype).sqrt().clamp(min=1)
        score = latent.score(b)
        return Estimate(
            latent,
            value,
            expand_to(weight, latent) * score,
            score=score,
            phi=tuple(self.parameters()),
            phi_loss=phi_loss,
            learn=lambda: self.take_in(signal.detach()),
        )

    @torch.no_grad()
    def take_in(self, signal: Tensor) -> None:
        """Let m and v take in f - C_ψ of one batch, but for one whose variance is not finite."""
        if signal.numel() == 0:
            return
        keep = torch.where(self.seen, self.decay, 0.0)
        mean, variance = signal.mean(), signal.var(correction=0)
        known = variance.isfinite()
        keep = torch.where(known, keep, 1.0)
        fade_in(self.mean, torch.where(known, mean, 0.0), keep)
        fade_in(self.variance, torch.where(known, variance, 0.0), keep)
        self.seen.logical_or_(known)
