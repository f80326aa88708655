"""The exact correction: a control variate for discrete actions few enough to be enumerated."""

from __future__ import annotations

from sb3_relax.control_variates.learned import NetworkControlVariate
from sb3_relax.control_variates.network import AtStates
from sb3_relax.estimators import ExactCorrection, RelaxedLatent


class ExactControlVariate(NetworkControlVariate):
    """ĝ = [Â - ĉ(a, s)] ∂θ log π(a|s) + ∂θ Σ_a π(a|s) ĉ(a, s), the sum over at most 4096 joint actions.

    No relaxation and none of its noise: what RELAX must be measured against.
    """

    latents = (RelaxedLatent,)

    def estimator(self, c: AtStates) -> ExactCorrection:
        return ExactCorrection(c, center=False)  # V centres Â
