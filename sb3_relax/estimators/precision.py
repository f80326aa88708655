"""The floating-point type that estimators compute in, whatever the types of θ and f, and with or without autocast."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which a latent whose θ has type ``dtype`` is sampled and scored, and in which ĝ is computed.

    That is θ's own type, but for float16 and bfloat16 it is float32. A uniform number in bfloat16 is a multiple of
    2^-8, with which a bit of probability .001 would not be drawn as often as it should.

    :raises TypeError: for a θ that is not made of floating-point numbers
    """
    if not dtype.is_floating_point:
        raise TypeError(
            f"the latent's parameters must be floating-point numbers; got {dtype}: call float() on what the latent is "
            "made of"
        )
    return dtype if dtype.itemsize >= torch.float32.itemsize else torch.float32


def in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor.to(dtype)``, which takes its time even where there is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, autocast is off on ``device``.

    Under autocast a network's value c(z) would be rounded to eight bits and its slope ∂c/∂z to others, so that one
    would no longer correct for the other: ĝ would be biased.
    """
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def keep_autocast(f: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """f, under the autocast that is on now, even if it is called inside :func:`without_autocast`."""
    kind = device.type
    if not torch.is_autocast_enabled(kind):
        return f
    dtype = torch.get_autocast_dtype(kind)

    def under_autocast(*arguments: Any) -> Any:
        with torch.autocast(kind, dtype=dtype):
            return f(*arguments)

    return under_autocast
