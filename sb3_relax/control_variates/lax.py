"""LAX (Eq 5, 9): a control variate for Box actions, corrected along the action's path."""

from __future__ import annotations

from sb3_relax.control_variates.learned import NetworkControlVariate
from sb3_relax.control_variates.network import AtStates
from sb3_relax.estimators import LAX, ReparameterisedLatent


class LAXControlVariate(NetworkControlVariate):
    """ĝ = [Â - ĉ(a, s)] ∂θ log π(a|s) + ∂θ ĉ(a(ε, s, θ), s), with the noise ε of the action that was executed.

    Unbiased given the advantage estimator, for any ĉ. The action enters ĉ as it is before any tanh.
    Grathwohl et al. 2018, https://arxiv.org/abs/1711.00123.
    """

    latents = (ReparameterisedLatent,)

    def estimator(self, c: AtStates) -> LAX:
        return LAX(c, center=False)  # V centres Â
