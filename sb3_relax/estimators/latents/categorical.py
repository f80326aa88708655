"""One-hot variables, relaxed by Gumbel noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sb3_relax.estimators.checks import is_checked, require_tensors
from sb3_relax.estimators.kept import kept_of_theta
from sb3_relax.estimators.latents.base import RelaxedLatent, check_support, joint_choices, masked_logit, open_unit
from sb3_relax.estimators.latents.few_classes import arranged_as, log_softmax, logaddexp, softmax, softmax_backward


def require_class(mask: Tensor) -> None:
    """Refuse a mask under which a variable could be nothing.

    :param mask: True where a class may be drawn, ``[..., D, K]``
    :raises ValueError: where a variable has no such class
    """
    if is_checked() and not bool(mask.any(-1).all()):
        raise ValueError("the mask leaves a variable without any class; at least one must be allowed")


class GumbelOneHot(RelaxedLatent):
    """D independent one-hot variables of K classes, relaxed by Gumbel noise: z = log p + G, b = onehot(argmax z).

    The relaxation lives in normalised log-probabilities, where the Gumbel of the chosen class has location 0
    (not log p_b, a known bug); gradients are carried back to ``logits`` by the softmax's Jacobian, so they sum to
    zero over the classes of a variable.

    :param logits: ``[*batch, D, K]``, normalised or not
    :param mask: ``True`` where a class may be drawn, broadcastable to ``logits``; ``None`` allows all
    :raises ValueError: where a variable has no class left
    """

    event_ndim = 2
    sample_ndim = 2

    def __init__(self, logits: Tensor, mask: Tensor | None = None):
        require_tensors(logits=logits)
        if logits.dim() < 2:
            raise ValueError(
                f"logits must be [*batch, D, K], variables and classes last; got shape {tuple(logits.shape)}: "
                "for one variable, logits.unsqueeze(-2)"
            )
        if mask is not None:
            require_tensors(mask=mask)
            mask = arranged_as(logits, mask)
            require_class(mask)
            never = torch.full((), masked_logit(logits.dtype), dtype=logits.dtype, device=logits.device)
            logits = torch.where(mask, logits, never)
        self.theta = logits
        self.mask = mask

    def at(self, theta: Tensor) -> GumbelOneHot:
        latent = GumbelOneHot(theta)
        latent.mask = self.mask  # theta carries the masked logits already
        return latent

    def _apart(self) -> GumbelOneHot:
        latent = self.at(self.theta.unsqueeze(-2))
        if self.mask is not None:
            latent.mask = self.mask.expand(self.theta.shape).unsqueeze(-2)
        return latent

    def select(self, index: Tensor | int) -> GumbelOneHot:
        latent = self.at(self.theta[index])
        if self.mask is not None:
            latent.mask = self.mask.expand(self.theta.shape)[index]
        return self._keeping_context(latent, lambda context: context[index])

    @kept_of_theta
    def probabilities(self) -> Tensor:
        """p(class), shape of θ, detached."""
        return softmax(self.wide_theta.detach())

    @property
    def probs(self) -> Tensor:
        return softmax(self.wide_theta)

    def natural(self) -> Tensor:
        return log_softmax(self.wide_theta)

    def pull_back(self, g: Tensor) -> Tensor:
        if self.mask is not None:
            # the relaxation gives a masked class noise of its own, which must not move its logit
            g = torch.where(self.mask, g, 0.0)
        return torch.addcmul(g, self.probabilities, g.sum(-1, keepdim=True), value=-1)

    def push_forward(self, v: Tensor) -> Tensor:
        change = v - (self.probabilities * v).sum(-1, keepdim=True)
        return change if self.mask is None else torch.where(self.mask, change, 0.0)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            classes = self.theta.shape[-1]
            # the random numbers are drawn in the order of memory, which must not depend on the layout
            flat = self.probabilities.contiguous().reshape(-1, classes)
            index = torch.multinomial(flat, 1, generator=generator).reshape(self.theta.shape[:-1])
            return F.one_hot(index, classes).to(self.computing_dtype)

    def log_prob(self, b: Tensor) -> Tensor:
        return (b * self.natural()).sum((-2, -1))

    def kl(self, other: GumbelOneHot) -> Tensor:
        natural = self.natural()
        return (natural.exp() * (natural - other.natural())).sum((-2, -1))

    def entropy(self) -> Tensor:
        natural = self.natural()
        return -(natural.exp() * natural).sum((-2, -1))

    def mode(self) -> Tensor:
        return self.hard(self.wide_theta.detach())

    def score(self, b: Tensor) -> Tensor:
        return b - self.probabilities

    def hard(self, z: Tensor) -> Tensor:
        return F.one_hot(z.contiguous().argmax(-1), z.shape[-1]).to(z.dtype)

    def conditional(self, b: Tensor, u: Tensor) -> Tensor:
        log_exponential = (-open_unit(arranged_as(self.theta, u)).log()).log()
        # the drawn class: a Gumbel located at logsumexp of the normalised logits, which is 0
        minus_top = (b * log_exponential).sum(-1, keepdim=True)
        minus_rest = logaddexp(minus_top, log_exponential - self.natural())
        # rounding may tie a likely class with the drawn one; H(z̃) = b must hold for every sample
        above = torch.nextafter(minus_top, minus_top.new_full((), torch.inf))  # neither holds any θ
        return -torch.where(b.bool(), minus_top, torch.maximum(minus_rest, above))

    def conditional_noise(self, b: Tensor, u: Tensor) -> Tensor:
        # as above; a masked class keeps the noise that its logit of -1e8 would swallow
        log_exponential = (-open_unit(arranged_as(self.theta, u)).log()).log()
        minus_top = (b * log_exponential).sum(-1, keepdim=True)
        natural = self.natural()
        return torch.where(b.bool(), -minus_top - natural, -logaddexp(minus_top + natural, log_exponential))

    def base_noise(self, u: Tensor) -> Tensor:
        return -(-open_unit(u).log()).log()

    def base_score(self, noise: Tensor) -> Tensor:
        return -torch.expm1(-noise)

    def relax(self, z: Tensor, temperature: Tensor | float) -> Tensor:
        return softmax(z / temperature)

    def relax_gradient(self, relaxed: Tensor, slope: Tensor, temperature: Tensor | float) -> Tensor:
        return softmax_backward(slope, relaxed) / temperature

    def relax_curvature(self, relaxed: Tensor, slope: Tensor, direction: Tensor, temperature: Tensor | float) -> Tensor:
        around = slope - (relaxed * slope).sum(-1, keepdim=True)
        along = (relaxed * direction).sum(-1, keepdim=True)
        return torch.addcmul(direction * around, slope, along, value=-1) / temperature

    def mean(self) -> Tensor:
        return self.probabilities

    def mean_gradient(self, slope: Tensor) -> Tensor:
        return self.pull_back(self.probabilities * slope)

    def coupling(self, b: Tensor, z: Tensor) -> Tensor:
        return (z - z.amax(-1, keepdim=True)).exp()

    def support(self) -> Tensor:
        dim, classes = self.theta.shape[-2:]
        choices: Sequence[Sequence[int]] = (range(classes),) * dim
        if self.mask is not None:
            # a class is left out only where no sample of the batch may draw it
            rows = self.mask.expand(self.theta.shape).reshape(-1, dim, classes)
            if len(rows):
                choices = [row.nonzero().flatten().tolist() for row in rows.any(0).cpu()]
        check_support(math.prod(map(len, choices)))
        index = joint_choices(tuple(map(tuple, choices))).to(self.theta.device)
        return F.one_hot(index, classes).to(self.computing_dtype)
