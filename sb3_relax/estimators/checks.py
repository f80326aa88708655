"""Numbers that are not finite, and where tensors have no numbers to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor


def under_transform() -> bool:
    """Whether a torch.func transform (vmap) is at work, where tensors have no values to look at and no leaves.

    Not while torch.compile traces, which cannot see it.
    """
    if torch.compiler.is_compiling():
        return False
    try:
        torch.empty(0).requires_grad_()
    except RuntimeError:
        return True
    return False


def require_differentiable(what: str) -> None:
    """Refuse to differentiate where autograd records nothing.

    :param what: what has to be differentiated, and why
    :raises RuntimeError: under ``torch.inference_mode()``
    """
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
        raise RuntimeError(f"{what}, and torch.inference_mode() records no graph: use torch.no_grad() in its place")


_unchecked: ContextVar[bool] = ContextVar("unchecked", default=False)


@contextmanager
def unchecked() -> Iterator[None]:
    """Inside, :func:`require_finite` passes all, so that a graph can be traced: who calls it checks what comes out."""
    token = _unchecked.set(True)
    try:
        yield
    finally:
        _unchecked.reset(token)


def is_checked() -> bool:
    """Whether tensors have numbers that are to be looked at now: not where torch.compile traces."""
    return not torch.compiler.is_compiling() and not (_unchecked.get() or under_transform())


def are_finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether no number of any of them is NaN or infinite, in one reduction over all.

    :param tensors: on one device
    """
    with torch.no_grad():
        parts = [_numbers(tensor) for tensor in tensors if tensor is not None]
        if not parts:
            return True
        together = torch.cat(parts)
        # the norm of numbers above 1e19 overflows: only then are they looked at one by one
        return math.isfinite(torch.linalg.vector_norm(together).item()) or bool(together.isfinite().all())


def _numbers(tensor: Tensor) -> Tensor:
    """All that a tensor holds, in one dimension."""
    return (tensor.coalesce().values() if tensor.is_sparse else tensor).flatten()


def require_finite(what: str, tensor: Tensor, if_infinite: str = "", if_nan: str = "") -> None:
    """Refuse NaN and infinity; not :func:`unchecked`.

    :param if_infinite: what is to be done about infinity
    :param if_nan: the same about NaN
    :raises ValueError: saying where the first one was seen
    """
    if not is_checked():
        return
    # one pass for the usual case; a sum may overflow where its terms do not
    if math.isfinite(tensor.sum().item()):
        return
    finite = tensor.isfinite()
    if not finite.all():
        first = tuple((~finite).nonzero()[0].tolist())
        number = tensor[first].item()
        remedy = if_infinite if math.isinf(number) else if_nan
        raise ValueError(f"{what} must be finite; got {number} at index {first}" + (remedy and f": {remedy}"))


def read_only(what: str, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function(*inputs)``, which must leave its inputs as they are.

    They are θ, or a sample that is scored afterwards, or the user's own tensor. What numpy writes into a tensor's
    memory is not seen. Not looked at where torch.compile traces, and under transforms.

    :param what: the function, for the error
    :raises ValueError: where it wrote into one of them
    """
    if not is_checked():
        return function(*inputs)
    before = [None if x.is_inference() else x._version for x in inputs]
    try:
        value = function(*inputs)
    except RuntimeError as error:
        if "in-place operation" in str(error):
            raise ValueError(_written(what)) from error
        raise
    if any(version is not None and x._version != version for x, version in zip(inputs, before, strict=True)):
        raise ValueError(_written(what))
    return value


def _written(what: str) -> str:
    return (
        f"the {what} writes into its input, or into a parameter, by an in-place operation, such as x.mul_(2) or "
        "x += 1: let it make a new tensor, as x * 2 does"
    )


def require_tensors(**named: object) -> None:
    """Refuse what is no tensor, such as a list or an array.

    :raises TypeError: naming it, and what makes a tensor of it
    """
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor; got {type(value).__name__}: torch.as_tensor(...) makes one")


def require_widths(context: object, hidden: object) -> None:
    """Refuse settings of a network that are none.

    :param context: the size of what it reads beside samples; ``None`` or 0 for none
    :param hidden: widths of its layers; ``None`` for the default ones
    :raises TypeError: for a context itself in the place of its size, or one width in the place of several
    """
    if (context is not None and not hasattr(context, "__index__")) or isinstance(context, Tensor):
        raise TypeError(
            f"context= is here the size of what the network will read, such as 64; got {type(context).__name__}. The "
            "context itself comes with the call: estimator(q, f, context=h)"
        )
    if hidden is not None and not isinstance(hidden, Iterable):
        raise TypeError(f"hidden must be the widths of the hidden layers, such as [64, 64]; got {hidden!r}")
