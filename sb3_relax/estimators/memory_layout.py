"""Gradients as they lie in memory: torch's fused optimizers read them so."""

from __future__ import annotations

import torch
from torch import Tensor


def laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """A gradient with the strides of its parameter, of the same values.

    ``torch.autograd.grad`` may give a transposed one, as of ``x @ weight.mT`` in batches, where ``backward()`` would
    not. A fused Adam or SGD walks both from their first entry to the last, and would step the wrong weights.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, dtype=gradient.dtype).copy_(gradient)
