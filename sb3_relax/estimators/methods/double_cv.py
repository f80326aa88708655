"""Double control variates (Titsias and Shi 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sb3_relax.estimators.base import leave_one_out_mean
from sb3_relax.estimators.estimate import VJP, Estimate, expand_to
from sb3_relax.estimators.latents import GumbelOneHot, Latent, LogisticBernoulli, RelaxedLatent
from sb3_relax.estimators.objective import Objective, evaluate_with_slope
from sb3_relax.estimators.several_samples import OfSeveralSamples

#: batches whose least squares α starts from
WARM_UP = 10


class DoubleCV(OfSeveralSamples):
    """ĝ = mean_k (h_k - mean_{j≠k} h_j) ∂θ log p(b_k|θ) - α ḡ·∂θ μ, with h_k = f(b_k) + α ḡ_{-k}·(b_k - μ).

    ḡ is the mean of ∇f(b_k), ḡ_{-k} that of the other samples: a leave-one-out baseline whose f is itself corrected by
    its linear part (α = -1 removes a linear f whole). α is learned. For one-hots as well, where the paper has bits.

    How much of f the slopes at the corners explain is not known at the start, and α = -1 can have several times
    REINFORCE's variance. ĝ is g + α d, where the mean of d is zero, so that its variance is least at
    α = -E⟨g, d⟩ / E‖d‖². So without a ``scale`` α = α₀ + φ: α₀ is that ratio over the first ``WARM_UP`` batches, as
    far as they have been used, shrunk to 0 by one sample's weight more in the denominator; φ starts at 0 and descends
    on Eq 6. The first batch has α = 0, where ĝ is :class:`RLOO`'s. α is fixed before a batch is drawn, so that ĝ is
    unbiased.

    When to use it: K evaluations of a differentiable f. arXiv:2111.05300.

    :param samples: K, at least 2
    :param scale: α at the start, from which it is learned on Eq 6 alone, as in the paper; ``None``: as above
    :raises ValueError: for fewer samples

    Example::

        estimate = DoubleCV(samples=2)(LogisticBernoulli(logits), f)
    """

    needs_grad_f = True
    latents = (LogisticBernoulli, GumbelOneHot)
    products: Tensor

    def __init__(self, samples: int = 2, scale: float | None = None):
        super().__init__(samples)
        self.scale = nn.Parameter(torch.tensor(0.0 if scale is None else float(scale)))
        # Σ⟨g, d⟩ and Σ‖d‖² over the samples seen, their number, and the batches still to be looked at
        self.register_buffer("products", torch.tensor([0.0, 0.0, 0.0, WARM_UP if scale is None else 0.0]))

    def estimate(self, latent: Latent, f: Objective, b: Tensor | None, noise: Tensor | None) -> Estimate:
        assert b is not None
        assert isinstance(latent, RelaxedLatent)
        value, slope = evaluate_with_slope(f, b, torch.Size([self.samples, *latent.batch_shape]), type(self).__name__)
        linear = latent.inner(leave_one_out_mean(slope), b - latent.mean())
        score = latent.score(b)
        plain, change = (
            (expand_to(x - leave_one_out_mean(x), latent) * score).mean(0) for x in (value.detach(), linear)
        )
        change = change - latent.mean_gradient(slope.mean(0))
        with torch.no_grad():
            grad = plain + (self.scale + self.least_squares.to(plain.dtype)) * change
        rest, rest_vjp = self.rest(latent, b, noise, score)

        def vjp(grad_bar: Tensor) -> list[tuple[Tensor, Tensor]]:
            return [(self.scale, (grad_bar * change).sum()), *rest_vjp(grad_bar)]

        with torch.enable_grad():
            grad = grad + rest
        return Estimate(
            latent,
            value.mean(0),
            grad,
            phi=tuple(self.parameters()),
            phi_vjp=vjp,
            learn=lambda: self.take_in(plain, change, max(latent.batch_shape.numel(), 1)),
        )

    def rest(self, latent: RelaxedLatent, b: Tensor, noise: Tensor | None, score: Tensor) -> tuple[Tensor | float, VJP]:
        """What else is added to ĝ, and its backward pass to φ where it has no graph: nothing here."""
        return 0.0, lambda grad_bar: []

    @torch.no_grad()
    def take_in(self, plain: Tensor, change: Tensor, batch: int) -> None:
        """Let α₀ learn from the first batches, after they were used, but for one whose squares are not finite.

        :param plain: g, what ĝ is at α = 0, of θ's shape
        :param change: d, by which α moves it
        :param batch: number of gradients
        """
        newest = torch.stack([(plain * change).sum(), change.square().sum()]).to(self.products.dtype)
        after = self.products + torch.cat([newest, newest.new_tensor([batch, -1])])
        learns = (self.products[3] > 0) & after.isfinite().all()
        self.products.copy_(torch.where(learns, after, self.products))

    @property
    def least_squares(self) -> Tensor:
        """α₀: 0 before the first batch, and where ``scale`` was given."""
        along, square, seen, _ = self.products.unbind()
        # one sample's weight more, of none
        return -along / (square * (1 + 1 / seen.clamp(min=1))).clamp(min=torch.finfo(square.dtype).tiny)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        if prefix + "scale" in state_dict and prefix + "products" not in state_dict:
            # saved by a version that had no warm-up: α is what it was
            state_dict = state_dict if isinstance(state_dict, dict) else dict(state_dict)
            state_dict[prefix + "products"] = torch.zeros_like(self.products)
        super()._load_from_state_dict(state_dict, prefix, *others)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "products" not in self._buffers:  # pickled by such a version
            self.register_buffer("products", torch.zeros(4, dtype=self.scale.dtype, device=self.scale.device))
