"""What the policy gets where a control variate is not finite."""

from __future__ import annotations

import math

from sb3_relax.estimators import Estimate


def finite_or_plain(estimate: Estimate) -> Estimate:
    """The estimate, or the plain score term Â ∂θ log π where ĝ is not finite, or has no finite square as that has.

    A number that is NaN or infinite has no mean, and would make every weight of the policy NaN. Of a gradient that no
    float can square, clipping by its norm leaves zeros. A batch with either is taken as A2C takes it.

    Most networks of this package are bounded functions of the state and the action, with bounds that are fixed before
    the batch (:meth:`~sb3_relax.control_variates.network.ScaledNetwork.output_scale`). Nothing of theirs is replaced
    but where weights of φ, or advantages, are no numbers or beyond float32, and so no batch is chosen by its actions.

    Two have no such bound: the quadratic form of ``"stein_quadratic"``
    (:class:`~sb3_relax.control_variates.stein.QuadraticNetwork`), which grows with the action, and the q of a learned
    model (:class:`~sb3_relax.control_variates.one_step_model.OneStepModel`), which has the policy's V of a predicted
    state. Where they are beyond float32 for some of a state's actions and not for others, the actions decide which
    batch is replaced, and the mean of those batches is not the score function's.
    """
    # of moments that are logged in any case
    plain, *of_change = map(math.isfinite, estimate.moments.square)
    if all(of_change) or (not plain and bool(estimate.grad.isfinite().all())):
        return estimate
    return Estimate(estimate.latent, estimate.value, estimate.score_term, score=estimate.score)
