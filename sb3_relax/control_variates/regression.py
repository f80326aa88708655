"""A fit to recent steps by gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch as th

from sb3_relax.control_variates.learned import descend, fits_adam
from sb3_relax.control_variates.recent_steps import RecentSteps


def fit_to_recent(
    recent: RecentSteps,
    loss_of: Callable[..., th.Tensor],
    parameters: Sequence[th.nn.Parameter],
    optimizer: th.optim.Optimizer | None,
    n_steps: int,
    generator: th.Generator,
) -> float | None:
    """So many steps of these parameters, each down the loss of rows that are drawn anew.

    It ends where a gradient is too large to be squared: the parameters stay as they are then.

    :param recent: the rows
    :param loss_of: of rows as they were added, a scalar
    :param parameters: none at all is no error
    :param optimizer: of these parameters, and maybe others, which stay as they are
    :param generator: draws the rows
    :return: the loss before the first step; ``None`` where there was none
    """
    first = None
    for step in range(n_steps if parameters and len(recent) else 0):
        loss = loss_of(*recent.draw(generator))
        if step == 0:
            first = loss.item()
        gradients = th.autograd.grad(loss, parameters, allow_unused=True)
        if not fits_adam(gradients):
            break
        assert optimizer is not None  # as long as there are weights to fit
        descend(optimizer, parameters, gradients)
    return first
