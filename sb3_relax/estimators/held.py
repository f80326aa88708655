"""Tensors that torch.compile computes in the forward pass, and saves for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.library.custom_op("sb3_relax::held", mutates_args=())
def held(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies, none of which is computed anew in the backward pass, as long as one of them is used in the forward pass.

    torch.compile may leave what only the backward pass needs for then, and takes the buffers that it is made of as they
    are by that time. A running mean of f has taken in the batch by then: an estimate that subtracts it would be biased.
    What goes through an operation that is unknown to the compiler is computed once, with all of its inputs.
    """
    return [tensor.clone() for tensor in tensors]


@held.register_fake
def _of_fake(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in tensors]
