"""Broken twins: estimators with the bugs found in public code. The checkers must reject every one."""

import torch

from sb3_relax.estimators import (
    ARMS,
    CARMS,
    LAX,
    NVIL,
    REBAR,
    RELAX,
    RLOO,
    SIMPLE,
    CoupledCategorical,
    CurvatureLAX,
    DoubleCV,
    Estimate,
    ExactCorrection,
    GumbelOneHot,
    LinearisedReparam,
    LogisticBernoulli,
    Mirrored,
    Reinforce,
    ReinMax,
    RelaxedDoubleCV,
    UnorderedSet,
)
from sb3_relax.estimators.estimate import expand_to
from sb3_relax.estimators.objective import evaluate_with_slope
from sb3_relax.estimators.surrogate import of_sample_alone, value_and_slope


class DetachedTilde(RELAX):
    """The path of θ through z̃ is cut."""

    def __init__(self, surrogate):
        super().__init__(surrogate, coupled=False)

    def of_value(self, latent, b, value, noise):
        z, z_tilde = latent.conditional(b, noise).detach()
        _, slope = value_and_slope(self.surrogate, z)
        score = latent.score(b)
        grad = expand_to(value - self.surrogate(z_tilde), latent) * score + latent.pull_back(slope)
        return Estimate(latent, value, grad.mean(0), score=score)


class CrossTerm(RELAX):
    """Adds (u - ũ)² of the noises of z and z̃: zero wherever both walk the same nodes, ⅙ in the mean."""

    def __init__(self, surrogate):
        super().__init__(surrogate, coupled=False)

    def of_value(self, latent, b, value, noise):
        estimate = super().of_value(latent, b, value, noise)
        u, other = noise
        return Estimate(latent, value, estimate.grad + (u - other).square().mean(0), score=estimate.score)


class ScoreTermOnly(torch.nn.Module):
    """A surrogate whose correction has no graph: φ is trained on the score term alone."""

    def __init__(self, surrogate):
        super().__init__()
        self.surrogate = surrogate

    def value_and_slope(self, z):
        c, slope = self.surrogate.value_and_slope(z)
        return c, slope.detach()


class ExactOnScoreTermAlone(ExactCorrection):
    """φ is trained on [f(b) - c(b)] ∂θ log p alone: the mean that is added again has no graph."""

    def of_value(self, latent, b, value, noise):
        estimate = super().of_value(latent, b, value, noise)
        c, score = of_sample_alone(self.surrogate, latent)(b), latent.score(b)
        grad = estimate.grad.detach() + expand_to(c.detach() - c, latent) * score
        return Estimate(latent, value, grad, score=score, phi=tuple(self.parameters()))


class _ScaledCorrection(RELAX):
    factor: float

    def of_value(self, latent, b, value, noise):
        estimate = super().of_value(latent, b, value, noise)
        c, _ = value_and_slope(self.surrogate, latent.conditional(b, noise))
        score_part = (expand_to(value - c, latent) * estimate.score).mean(0)
        grad = score_part + self.factor * (estimate.grad - score_part)
        return Estimate(latent, value, grad, score=estimate.score)


class FlippedCorrection(_ScaledCorrection):
    """The correction with the wrong sign."""

    factor = -1.0


class DoubledCorrection(_ScaledCorrection):
    """The correction counted twice (or, the other way round, scaled by 1/N twice)."""

    factor = 2.0


class SameBatchNVIL(NVIL):
    """The running mean taken from the batch it is used on."""

    def of_value(self, latent, b, value, noise):
        score = latent.score(b)
        return Estimate(latent, value, expand_to(value - value.mean(), latent) * score, score=score)


class SameBatchCentre(RELAX):
    """The mean that is subtracted from f taken from the batch it is used on."""

    def centred(self, value):
        return value.detach() - value.detach().mean()


class SameBatchDoubleCV(DoubleCV):
    """α by the least squares of the batch it is used on."""

    def estimate(self, latent, f, b, noise):
        super().estimate(latent, f, b, noise).learn()
        return super().estimate(latent, f, b, noise)


class DistinctRLOO(UnorderedSet):
    """RLOO of samples that were drawn without replacement, as if they were independent."""

    def of_value(self, latent, b, value, noise):
        return RLOO(self.samples).of_value(latent, b, value, noise)


class UndividedARMS(ARMS):
    """RLOO of samples that know something of each other, as if they did not."""

    def of_value(self, latent, b, value, noise):
        return RLOO(self.samples).of_value(latent, b, value, noise)


class UndividedCoupled(CoupledCategorical):
    """The same of one-hots."""

    def of_value(self, latent, b, value, noise):
        return RLOO(self.samples).of_value(latent, b, value, noise)


class HalfReinMax(ReinMax):
    """ReinMax without the term that takes straight-through's own share away again."""

    def estimate(self, latent, f, b, noise):
        value, slope = evaluate_with_slope(f, b, latent.batch_shape, "HalfReinMax")
        halfway = (b + latent.mean()) / 2
        return Estimate(latent, value, 1.5 * latent.relax_gradient(halfway, slope, 1.0), score=latent.score(b))


class UnmirroredScore(Mirrored):
    """The image's value with the score of the sample itself."""

    def estimate(self, latent, f, b, noise):
        image = 2 * latent.mean() - b
        value = f(torch.stack([b, image]))
        return Estimate(latent, value.mean(0), expand_to((value[0] - value[1]) / 2, latent) * latent.score(b))


class Linearised(LinearisedReparam):
    """The linear part is taken off log σ's gradient, and its mean, the diagonal of H, is not put back."""

    def estimate(self, latent, f, b, noise):
        whole = super().estimate(latent, f, b, noise)
        without = LinearisedReparam(diagonal=False).estimate(latent, f, b, noise).grad
        at_mean = LinearisedReparam().estimate(latent, f, latent.mean(), noise).grad  # its noise is 0: diag H alone
        grad = torch.stack([without[..., 0], (whole.grad - at_mean)[..., 1]], dim=-1)
        return Estimate(latent, whole.value, grad)


class IndependentScore(Reinforce):
    """The score of independent bits for bits of which k are one."""

    def of_value(self, latent, b, value, noise):
        score = b - latent.theta.detach().sigmoid()
        return Estimate(latent, value, expand_to(value.detach(), latent) * score, score=score)


class IndependentSIMPLE(SIMPLE):
    """Straight-through as if each bit had a probability of its own."""

    def estimate(self, latent, f, b, noise):
        value, slope = evaluate_with_slope(f, b, latent.batch_shape, "IndependentSIMPLE")
        return Estimate(latent, value, slope * latent.mean() * (1 - latent.mean()), score=latent.score(b))


class LeakyREBAR(REBAR):
    """φ's variance objective by .backward(): it reaches what made f, and θ."""

    def _at(self, *args):
        estimate = super()._at(*args)
        backward = estimate.backward

        def leaky():
            estimate.objective.backward(retain_graph=True)
            for parameter in self.parameters():
                parameter.grad = None
            backward()

        estimate.backward = leaky
        return estimate


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

    def of_value(self, latent, b, value, noise):
        # a fixed other noise: ε' = -ε has the right law and is not the executed one
        loc = latent.theta.detach()[..., 0]
        other = 2 * loc - b
        c, slope = value_and_slope(self.surrogate, other)
        score = latent.score(b)
        grad = expand_to(value - c, latent) * score + latent.path_gradient(other, slope)
        return Estimate(latent, value, grad, score=score)


class FreshCorrectionLAX(LAX):
    """ĉ at the executed action in the score term, at a fresh one in the correction: unbiased, but not LAX."""

    def of_value(self, latent, b, value, noise):
        loc = latent.theta.detach()[..., 0]
        other = 2 * loc - b
        c, _ = value_and_slope(self.surrogate, b)
        _, slope = value_and_slope(self.surrogate, other)
        score = latent.score(b)
        grad = expand_to(value - c, latent) * score + latent.path_gradient(other, slope)
        return Estimate(latent, value, grad, score=score)


class UncoupledDoubleCV(RelaxedDoubleCV):
    """c's slope along z without what z̃ has of it: D is left out."""

    def rest(self, latent, b, noise, score):
        rest, vjp = super().rest(latent, b, noise, score)
        z = latent.conditional(b, noise)
        _, slope = value_and_slope(self.surrogate, z)
        return rest + latent.pull_back(slope * (1 - latent.coupling(b, z))).mean(0).detach(), vjp


class UnweighedCARMS(CARMS):
    """Samples that exclude each other, taken for independent ones."""

    def of_value(self, latent, b, value, noise):
        return RLOO(self.samples).of_value(latent, b, value, noise)


class HalfCurvature(CurvatureLAX):
    """The derivative in σ² for that in log σ, which is twice σ² as much: half of c's curvature."""

    def of_value(self, latent, b, value, noise):
        estimate = super().of_value(latent, b, value, noise)
        score_term = expand_to(self.centred(value) - self.surrogate(b), latent) * estimate.score
        correction = (estimate.grad - score_term) * torch.tensor([1.0, 0.5])
        return Estimate(latent, value, score_term + correction, score=estimate.score)


class UnscaledCurvature(CurvatureLAX):
    """∂²c/∂b² for ∂²c/∂ε²: without σ²."""

    def of_value(self, latent, b, value, noise):
        estimate = super().of_value(latent, b, value, noise)
        score_term = expand_to(self.centred(value) - self.surrogate(b), latent) * estimate.score
        curvature = (-2 * latent.wide_theta.detach()[..., 1]).exp()
        scale = torch.stack([torch.ones_like(curvature), curvature], dim=-1)
        return Estimate(latent, value, score_term + (estimate.grad - score_term) * scale, score=estimate.score)
