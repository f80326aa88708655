"""LAX with the curvature of c in σ's part: Stein's identity, applied twice (Liu et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from sb3_relax.estimators.estimate import Estimate, expand_to
from sb3_relax.estimators.latents import Gaussian, Latent
from sb3_relax.estimators.surrogate import Surrogate, require_smooth, value_slope_diagonal
from sb3_relax.estimators.surrogate_estimator import SurrogateEstimator


class CurvatureLAX(SurrogateEstimator):
    """ĝ = [f(b) - c_φ(b)] ∂θ log p(b|θ) + (∂c/∂μ, σ² ∂²c/∂b²) of normals b = μ + σε: LAX with the curvature of c.

    Stein's identity gives the mean of c times the score in more than one form. With c's slope along the sample's path
    in all of θ it is :class:`LAX`, sample by sample, and so is the control variate that Liu et al. call Stein's
    (https://arxiv.org/abs/1710.11198, their Eq 8). Applied once more it gives log σ's part as σ² ∂²c/∂b², for each
    variable, where LAX has (b - μ) ∂c/∂b. Both are unbiased. A c that is quadratic has a curvature without noise: where
    f is quadratic, and c has learned it, ĝ has no variance in log σ, and LAX has that of the reparameterisation
    gradient. Of log-normals the same is done to log b.

    When to use it: normals whose σ is learned, a black box, and few variables: c is differentiated once more for each
    of them, and once more again for φ.

    The slope of c must not jump. Autograd's second derivative misses what a jump adds, and ĝ would be biased. Layers
    such as ReLU are refused, where they are modules of the surrogate. A call of a function inside c, such as
    ``torch.relu``, ``abs`` or ``max``, cannot be seen, and is biased.

    :param surrogate: c_φ, ``[*batch, D]`` → ``[*batch]``, twice differentiable. Its parameters are φ
    :param center: whether the mean of f over earlier batches is subtracted from f, so that c need not learn it first
    :raises TypeError: for a surrogate with a layer whose slope jumps, such as ReLU

    Example::

        estimate = CurvatureLAX(MLPSurrogate(D))(Gaussian(loc, log_scale), f)
    """

    latents = (Gaussian,)

    def __init__(self, surrogate: Surrogate, center: bool = True):
        require_smooth("CurvatureLAX", surrogate)
        super().__init__(surrogate, center)

    def of_value(self, latent: Latent, b: Tensor, value: Tensor, noise: Tensor | None) -> Estimate:
        assert isinstance(latent, Gaussian)
        score, scale = latent.score(b), latent.wide_theta.detach()[..., 1].exp()
        fixed = latent.detach()
        epsilon = score[..., 0] * scale  # ∂ log p/∂μ is ε/σ
        with torch.enable_grad():
            c, slope, curvature = value_slope_diagonal(self.surrogate, fixed.at_noise, epsilon, fixed)
            correction = torch.stack([slope / scale, curvature], dim=-1)
            grad = expand_to(self.centred(value) - c, latent) * score + correction
        return Estimate(latent, value, grad, score=score, phi=tuple(self.parameters()), learn=self.learning(value))
