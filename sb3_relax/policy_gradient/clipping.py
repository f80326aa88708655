"""Gradients clipped as A2C clips them, and what is done with those that are not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

import torch as th
from torch import nn

from sb3_relax.errors import UsageError

#: of a loss, or a gradient at the distribution's parameters, that is no larger nothing overflows on the way through a
#: network: its square is far from the largest float32, and so is its product with any sensible weight
LARGE = 1e12


def clip(
    policy: nn.Module, weights: Sequence[nn.Parameter], max_grad_norm: float, too_large: Callable[[], bool]
) -> float:
    """Clip the gradient of some weights; its norm before that.

    Where numbers are so large that the norm overflows, A2C's clipping leaves zeros of a gradient that is finite. They
    are left of every gradient here, so that rewards which are too large to be learned from make no weight NaN.

    :param policy: that has the weights
    :param weights: which may have no gradient
    :param max_grad_norm: the largest norm that is left
    :param too_large: whether what the gradient was made of may have overflowed; asked where the gradient is not finite
    :raises UsageError: for a gradient that is not finite where nothing was too large, naming its weights
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    total = total_norm(gradients)
    norm = total.item()
    if isfinite(norm):
        share = (float(max_grad_norm) / (total + 1e-6)).item()
        if share < 1:
            th._foreach_mul_(gradients, share)
    elif too_large():
        for gradient in gradients:
            gradient.zero_()
    else:
        raise _not_finite(policy, weights)
    return norm


def total_norm(gradients: list[th.Tensor]) -> th.Tensor:
    """The norm of all gradients as one vector: ``nn.utils.get_total_norm()``, which sorts them by device and type.

    :param gradients: of any devices; 0 where there are none
    """
    if not gradients:
        return th.zeros(())
    norms = th._foreach_norm(gradients)
    device = norms[0].device
    return th.linalg.vector_norm(th.stack([norm if norm.device == device else norm.to(device) for norm in norms]))


def not_finite_in(policy: nn.Module) -> list[str]:
    """Names of the weights of a policy that have a NaN or an infinity."""
    return [name for name, weight in policy.named_parameters() if not weight.isfinite().all()]


def _not_finite(policy: nn.Module, weights: Sequence[nn.Parameter]) -> UsageError:
    """The error for a gradient that is not."""
    own = set(weights)
    bad = [
        name
        for name, weight in policy.named_parameters()
        if weight in own and weight.grad is not None and not weight.grad.isfinite().all()
    ]
    spoilt = not_finite_in(policy)
    cause = (
        f"{', '.join(spoilt)} had NaN or infinity before, set from outside by a callback or by hand: load an agent "
        "that was saved before"
        if spoilt
        else "An operation of the policy, such as a square root at 0 in a features extractor of your own, has no "
        "finite derivative where it was evaluated: torch.autograd.set_detect_anomaly(True) finds it"
    )
    return UsageError(
        f"the gradient of the policy's loss must be finite, but it is not at {', '.join(bad)}. These weights were not "
        f"changed. {cause}"
    )
