"""Softmax over the classes of many variables that have few each: torch's functions, along a dimension that is quick.

On the CPU torch runs through a last dimension of less than a vector register one number at a time. Along the first
dimension it takes as many variables at once as fit, and gives the same up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Fewer classes than this: numbers of 32 bits that fit into a vector register of AVX-512.
FEW = 16
#: Fewer numbers than this are not worth the two views and the copy.
LEAST = 1024

_softmax_backward = torch.ops.aten._softmax_backward_data


def arranged(x: Tensor) -> Tensor:
    """The same numbers, ``[..., K]``, laid out in memory as is quick: where K is small, class after class.

    The functions here keep the layout, and so do torch's on tensors that are laid out alike, which are quicker than
    those on tensors that are not.
    """
    return _classes_first(x).movedim(0, -1) if _is_narrow(x) else x


def arranged_as(like: Tensor, x: Tensor) -> Tensor:
    """``x``, in the layout of ``like``."""
    return arranged(x) if _is_arranged(like) else x


def softmax(x: Tensor) -> Tensor:
    """``x.softmax(-1)``."""
    return _laid_out(_classes_first(x).softmax(0), x) if _is_narrow(x) else x.softmax(-1)


def log_softmax(x: Tensor) -> Tensor:
    """``x.log_softmax(-1)``."""
    return _laid_out(_classes_first(x).log_softmax(0), x) if _is_narrow(x) else x.log_softmax(-1)


def softmax_backward(slope: Tensor, s: Tensor) -> Tensor:
    """s ⊙ (slope - ⟨s, slope⟩) over the last dimension, in one kernel: the derivative at s = softmax(x) in x."""
    if not _is_narrow(s):
        return _softmax_backward(slope, s, -1, s.dtype)
    slope = slope.expand(s.shape)
    return _laid_out(_softmax_backward(_classes_first(slope), _classes_first(s), 0, s.dtype), s)


def logaddexp(x: Tensor, y: Tensor) -> Tensor:
    """``torch.logaddexp(x, y)`` of finite numbers, which torch computes one at a time."""
    if torch.compiler.is_compiling() or not (y.is_cpu and y.numel() >= LEAST):
        return torch.logaddexp(x, y)
    return torch.maximum(x, y) + (x - y).abs().neg().exp().log1p()


def _is_narrow(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False  # sizes may not be known yet, and a compiler chooses its own loops
    return x.is_cpu and x.dim() > 1 and x.shape[-1] < FEW and x.numel() >= LEAST


def _classes_first(x: Tensor) -> Tensor:
    """``[..., K]`` → ``[K, ...]``, contiguous."""
    first = x.movedim(-1, 0)
    return first if first.is_contiguous() else torch.stack(x.unbind(-1))  # quicker than contiguous()


def _is_arranged(x: Tensor) -> bool:
    return x.movedim(-1, 0).is_contiguous()


def _laid_out(first: Tensor, like: Tensor) -> Tensor:
    """``[K, ...]`` → ``[..., K]``: contiguous, as whoever looks at it may expect, unless ``like`` is arranged."""
    return first.movedim(0, -1) if _is_arranged(like) else torch.stack(first.unbind(0), dim=-1)
