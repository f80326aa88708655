"""What the policy gets where a control variate is not finite."""

from __future__ import annotations

import math

from sb3_relax.estimators import Estimate


def finite_or_plain(estimate: Estimate) -> Estimate:
    """The estimate, or the plain score term Â ∂θ log π where ĝ is not finite, or has no finite square as that has.

    A number that is NaN or infinite has no mean, and would make every weight of the policy NaN. Of a gradient that no
    float can square, clipping by its norm leaves zeros. A batch with either is taken as A2C takes it.

    The networks of this package are bounded functions of the state and the action, with bounds that are fixed before
    the batch (:meth:`~sb3_relax.control_variates.network.ScaledNetwork.output_scale`). Nothing of theirs is replaced
    but where weights of φ, or advantages, are no numbers or beyond float32, and so no batch is chosen by its actions.
    """
    # of moments that are logged in any case
    plain, *of_change = map(math.isfinite, estimate.moments.square)
    if all(of_change) or (not plain and bool(estimate.grad.isfinite().all())):
        return estimate
    return Estimate(estimate.latent, estimate.value, estimate.score_term, score=estimate.score)
