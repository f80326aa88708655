"""Broken twins: estimators with the bugs found in public code. The checkers must reject every one."""

import torch

from sb3_relax.estimators import LAX, RELAX, Estimate, GumbelOneHot, LogisticBernoulli
from sb3_relax.estimators.base import expand_to, value_and_slope


class DetachedTilde(RELAX):
    """The path of θ through z̃ is cut."""

    def __init__(self, surrogate):
        super().__init__(surrogate, coupled=False)

    def _independent(self, latent, b, noise):
        theta = latent.theta.detach().expand(1, *latent.theta.shape).clone().requires_grad_()
        leaf = latent.at(theta)
        z = leaf.reparameterised(b, noise[0])
        z_tilde = leaf.conditional(b, noise[1]).detach()
        (correction,) = torch.autograd.grad(self.surrogate(z).sum(), theta, create_graph=True)
        return self.surrogate(z_tilde), correction


class FlippedCorrection(RELAX):
    """The correction with the wrong sign."""

    def _coupled(self, latent, b, noise):
        c, correction = super()._coupled(latent, b, noise)
        return c, -correction


class DoubledCorrection(RELAX):
    """The correction counted twice (or, the other way round, scaled by 1/N twice)."""

    def _coupled(self, latent, b, noise):
        c, correction = super()._coupled(latent, b, noise)
        return c, 2 * correction


class LogPbGumbel(GumbelOneHot):
    """The chosen class's Gumbel located at log p_b instead of 0."""

    def at(self, theta):
        return LogPbGumbel(theta)

    def conditional(self, b, u):
        log_exponential = (-u.clamp(1e-300, 1 - 1e-16).log()).log()
        log_p = self.natural()
        top = (b * (log_p - log_exponential)).sum(-1, keepdim=True)
        return torch.where(b.bool(), top, -torch.logaddexp(-top, log_exponential - log_p))


class WrongSignBernoulli(LogisticBernoulli):
    """The conditional drawn on the other side of zero."""

    def at(self, theta):
        return WrongSignBernoulli(theta)

    def conditional(self, b, u):
        return super().conditional(1 - b, u)


class FreshNoiseLAX(LAX):
    """ĉ at a fresh action instead of the executed one, as in the authors' continuous control."""

    def finish(self, latent, b, value, noise=None, generator=None):
        # a fixed other noise: ε' = -ε has the right law and is not the executed one
        loc = latent.theta.detach()[..., 0]
        other = 2 * loc - b
        c, slope = value_and_slope(self.surrogate, other)
        score = latent.score(b)
        grad = expand_to(value - c, latent) * score + slope.unsqueeze(-1) * latent.path(other)
        return Estimate(latent, value, score, grad)


class FreshCorrectionLAX(LAX):
    """ĉ at the executed action in the score term, at a fresh one in the correction: unbiased, but not LAX."""

    def finish(self, latent, b, value, noise=None, generator=None):
        loc = latent.theta.detach()[..., 0]
        other = 2 * loc - b
        c, _ = value_and_slope(self.surrogate, b)
        _, slope = value_and_slope(self.surrogate, other)
        score = latent.score(b)
        grad = expand_to(value - c, latent) * score + slope.unsqueeze(-1) * latent.path(other)
        return Estimate(latent, value, score, grad)
