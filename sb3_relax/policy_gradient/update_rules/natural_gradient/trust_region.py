"""How far a step may go: further where the next batch confirms what the last step promised."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, isfinite, sqrt

import torch as th
from torch import nn

from sb3_relax.policy_gradient.update_rules.natural_gradient.averages import Averages
from sb3_relax.policy_gradient.update_rules.natural_gradient.conjugate_gradients import flat

#: nats of the first step where an action has one variable: where it has D, √D times as many
FIRST_KL = 0.002
#: what the target may become, as a share of the first
LEAST, MOST = 0.1, 5.0
#: the share of its promise that a step of the right length keeps
KEPT = 0.15
#: how fast the logarithm of the target follows, per update, and the largest ratio that it follows
PACE, LARGEST_RATIO = 0.2, 2.0


class TrustRegion(nn.Module):
    """A target of the KL divergence that follows how much of a step's promise the next batch confirms.

    A step Δ_t promises the gain ḡ_tᵀΔ_t, to first order, ḡ_t being the gradient that it was made of. The next batch is
    drawn by the policy after the step. Its gradient g_{t+1} knows nothing of ḡ_t's noise, and has the slope along Δ_t
    that is left::

        ρ = g_{t+1}ᵀ Δ_t / ḡ_tᵀ Δ_t

    ρ is near 1 where the promise was all signal and the objective goes on rising as before: the step was too short. It
    is near 0 where the promise was noise, or where the step went as far as the objective rises, and negative beyond. So

        log κ ← log κ + 0.2 (ρ - 0.15),  ρ cut to [-2, 2]

    and κ stays between a tenth and five times its first value, 0.002 √D for an action of D variables. The ratio is that
    of a trust region (Conn, Gould and Toint 2000), of slopes in the place of values, which a batch does not tell apart;
    that successive gradients agree is what Almeida et al. (1998) lengthen steps by.

    :param variables: D

    Example::

        region = TrustRegion(variables=1)
        region.observe(newest)            # before a step, with the gradient of its batch
        region.promise(step, gradients)   # after it
        region.kl
    """

    target: th.Tensor
    promised: th.Tensor

    def __init__(self, variables: int):
        super().__init__()
        self.first = FIRST_KL * sqrt(variables)
        self.ratio = 0.0
        self.register_buffer("target", th.tensor(self.first, dtype=th.float64))
        self.register_buffer("promised", th.zeros((), dtype=th.float64))
        self.last_step = Averages(decay=0.0)

    @property
    def kl(self) -> float:
        """κ, in nats."""
        return self.target.item()

    def observe(self, newest: Sequence[th.Tensor]) -> None:
        """Take in what a batch says of the step before it.

        :param newest: the batch's own gradient of each weight, for ascent
        """
        promised = self.promised.item()
        if promised <= 0:  # there was no step
            return
        self.ratio = (flat(newest) @ flat(self.last_step.values())).item() / promised
        if not isfinite(self.ratio):
            return
        followed = max(min(self.ratio, LARGEST_RATIO), -LARGEST_RATIO)
        kl = self.kl * exp(PACE * (followed - KEPT))
        self.target.fill_(min(max(kl, LEAST * self.first), MOST * self.first))

    def promise(self, step: Sequence[th.Tensor], gradients: Sequence[th.Tensor]) -> None:
        """Keep a step for the next batch.

        :param step: of each weight
        :param gradients: that it was made of
        """
        self.promised.fill_((flat(gradients) @ flat(step)).item())
        self.last_step.observe([step])
