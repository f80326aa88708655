"""A fit by gradient descent on rows that are drawn anew for every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch as th

from sb3_relax.control_variates.learned import descend, fits_adam


def descend_on(
    draw: Callable[[], tuple[th.Tensor, ...]],
    loss_of: Callable[..., th.Tensor],
    parameters: Sequence[th.nn.Parameter],
    optimizer: th.optim.Optimizer | None,
    n_steps: int,
) -> float | None:
    """So many steps of these parameters, each down the loss of other rows.

    It ends where a gradient is too large to be squared: the parameters stay as they are then.

    :param draw: gives rows; none at all where there are none
    :param loss_of: of rows, a scalar
    :param parameters: none at all is no error
    :param optimizer: of these parameters, and maybe others, which stay as they are
    :return: the loss before the first step; ``None`` where there was none
    """
    first = None
    for step in range(n_steps if parameters else 0):
        rows = draw()
        if not rows:
            break
        loss = loss_of(*rows)
        if step == 0:
            first = loss.item()
        gradients = th.autograd.grad(loss, parameters, allow_unused=True)
        if not fits_adam(gradients):
            break
        assert optimizer is not None  # as long as there are weights to fit
        descend(optimizer, parameters, gradients)
    return first
