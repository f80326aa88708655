"""A stack of layers and its costs: what each of them is called with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sb3_relax.estimators.checks import is_checked
from sb3_relax.estimators.latents import Latent
from sb3_relax.estimators.objective import computed
from sb3_relax.estimators.precision import keep_autocast

#: Layer l: the samples of the layers below, ``b_1 … b_{l-1}``, → the latent of layer l. Where there is a state, layer l
#: maps the state and ``b_{l-1}`` to its latent and the next state.
Layer = Callable[..., Any]

#: f of all samples, or one cost for each layer, of the samples up to that layer.
Costs = Callable[..., Tensor] | Sequence[Callable[..., Tensor]]

FLATTEN = "Where it takes the batch's dimensions alone, as torch's recurrent cells do, give layered(..., flatten=True)"
FROM_THE_STATE = "What it reads beside b must come by the state, which is expanded like b"
#: what a network raises where its input has another shape than it takes
MISFITS = (TypeError, ValueError, IndexError, RuntimeError)


@dataclass(frozen=True)
class Several:
    """Several values of every sample at once: ``[*leading, *batch, ...]``.

    :param leading: sizes of their dimensions
    :param batch: shape of the batch
    """

    leading: tuple[int, ...]
    batch: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the leading and the batch's dimensions."""
        return (*self.leading, *self.batch)

    @property
    def flat_shape(self) -> tuple[int, ...]:
        """Of them, with the leading ones in the batch's first."""
        return (math.prod(self.leading) * self.batch[0], *self.batch[1:]) if self.batch else self.shape

    def described(self, flat: bool) -> str:
        """For an error, the shape of what a function was called with."""
        return f"[{', '.join(map(str, self.flat_shape if flat else self.shape))}, ...]"

    def flattened(self, argument: Any) -> Any:
        """Every tensor ``[*leading, B, ...]`` as ``[size of leading · B, ...]``; others stay as they are."""

        def flat(x: Any) -> Any:
            if not isinstance(x, Tensor) or not self.batch or x.shape[: len(self.shape)] != self.shape:
                return x
            return x.flatten(0, len(self.leading))

        return pytree.tree_map(flat, argument)

    def apart(self, what: str, returned: Any) -> Any:
        """The inverse of :meth:`flattened`, for tensors and latents. A latent of the batch alone stays as it is.

        :param what: which function returned it, for the error
        :raises ValueError: for something that begins with other dimensions
        """
        if not self.batch:
            return returned
        flat = self.flat_shape

        def unflat(x: Any) -> Any:
            if not isinstance(x, (Latent, Tensor)):
                return x
            shape = tuple(x.batch_shape if isinstance(x, Latent) else x.shape[: len(self.batch)])
            if isinstance(x, Latent) and shape == self.batch:
                return x  # it does not depend on what is below
            if shape != flat:
                raise ValueError(
                    f"with flatten=True, {what} must return what begins with {flat}, the samples' and the batch's "
                    f"dimensions in one; got {shape}. {FROM_THE_STATE}"
                )
            if isinstance(x, Latent):
                # by numbers of rows, so that a mask and a context come along
                rows = torch.arange(flat[0], device=x.theta.device)
                return x.select(rows.reshape(*self.leading, self.batch[0]))
            return x.unflatten(0, (*self.leading, self.batch[0]))

        return pytree.tree_map(unflat, returned)


@dataclass
class Walk:
    """What is known after some layers: a sample of each, as f sees it, and the state that each handed on."""

    samples: list[Tensor] = field(default_factory=list)
    states: list[Any] = field(default_factory=list)
    #: where several values of a sample are walked at once, and their dimensions come before the batch's
    several: Several | None = None
    #: copies of the samples, which nobody else has; none where samples have no values to compare
    kept: list[Tensor] = field(default_factory=list)

    def add(self, sample: Tensor) -> None:
        """The sample of the next layer."""
        self.samples.append(sample)
        if is_checked():
            self.kept.append(sample.detach().clone())

    def until(self, number: int) -> Walk:
        """The same before the sample of layer ``number``, to which other ones can be added."""
        return Walk(self.samples[:number], self.states[: number + 1], self.several, self.kept[:number])

    def require_unwritten(self, who: str, since: int = 0) -> None:
        """Samples may be read alone: layers and costs share them, and they are scored afterwards.

        They are no copies, so that an f may know again what it has seen.

        :param who: has read them, for the error
        :param since: the first layer whose sample it was given
        :raises ValueError: where one of them is another than it was, also by way of numpy, which autograd does not see
        """
        for layer, (before, now) in enumerate(zip(self.kept[since:], self.samples[since:], strict=False), since):
            if not _are_equal(before, now.detach()):
                raise ValueError(
                    f"{who} has written into the sample of layer {layer}, which other layers read and which is scored "
                    "afterwards: give it a copy to write into, b = b.clone()"
                )


class Stack:
    """Layers, each of which knows what is below it, and the costs of what they draw.

    Without a state, layer l is called with ``b_1 … b_{l-1}``, and a cost with the samples it is of. With a state, layer
    l is called with what the layer below returned as its state and with ``b_{l-1}`` (``None`` for the first), and a
    cost with the state that its own layer returned and then the samples it is of.

    :param layers: at least one
    :param f: one f of all samples; or one cost for each layer, the l-th of ``b_1 … b_l`` alone, whose sum is f
    :param state: what the first layer gets; ``None`` where layers hand on nothing
    :param flatten: whether several values of a sample, ``[K, B, ...]``, are put into the batch, ``[K · B, ...]``, for
        layers and costs that take one dimension of it
    :raises ValueError: for no layer, or another number of costs than layers
    """

    def __init__(self, layers: Sequence[Layer], f: Costs, state: Any = None, flatten: bool = False):
        if not layers:
            raise ValueError("at least one layer is needed; got none")
        self.layers = list(layers)
        self.initial = state
        self.flatten = flatten
        #: number of a layer → the cost of the samples up to it
        self.costs: dict[int, Callable[..., Tensor]]
        if isinstance(f, (Sequence, nn.ModuleList)):
            if len(f) != len(layers):
                raise ValueError(f"one cost for each layer is needed; got {len(f)} for {len(layers)} layers")
            self.costs = dict(enumerate(f))
        else:
            self.costs = {len(layers) - 1: f}

    @property
    def carries_state(self) -> bool:
        """Whether the layers hand on a state."""
        return self.initial is not None

    def keeping_autocast(self, device: torch.device) -> Stack:
        """The same stack, called under the autocast that is on now, wherever it is called."""
        stack = copy.copy(self)
        stack.layers = [keep_autocast(layer, device) for layer in self.layers]
        stack.costs = {number: keep_autocast(cost, device) for number, cost in self.costs.items()}
        return stack

    def latent(self, walk: Walk) -> Latent:
        """The latent of the next layer; its state is added to ``walk``, to which the caller adds the sample.

        :raises TypeError: where a layer does not return what it should, or takes other arguments than it is given
        :raises ValueError: where a layer does not take several values of a sample at once, or writes into one
        """
        number = len(walk.samples)
        layer, what = self.layers[number], f"layer {number}"
        if not self.carries_state:
            latent = self._call(what, layer, walk.samples, walk.several)
            walk.require_unwritten(what)
            if not isinstance(latent, Latent):
                raise TypeError(
                    f"layer {number} must return a latent; got {type(latent).__name__}: where layers return a state as "
                    "well, give the first one by state="
                )
            walk.states.append(None)
            return latent
        below = walk.states[-1] if number else self.initial
        several = walk.several if number else None  # what the first layer gets is not drawn
        returned = self._call(what, layer, [_copied(below), walk.samples[-1] if number else None], several)
        # that sample alone, so that T layers are T comparisons
        walk.require_unwritten(what, since=max(number - 1, 0))
        if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], Latent)):
            raise TypeError(
                f"with state=, layer {number} must return its latent and the next state; got {type(returned).__name__}"
            )
        latent, state = returned
        walk.states.append(_copied(state))
        return latent

    def cost(self, number: int, walk: Walk) -> Tensor:
        """The cost of the samples up to one layer; after the last one, :meth:`require_unwritten` has to be called.

        :raises ValueError: where it does not take several values of a sample at once
        """
        seen: list[Any] = walk.samples[: number + 1]
        if self.carries_state:
            seen = [_copied(walk.states[number]), *seen]
        what = "f" if len(self.costs) == 1 else f"cost {number}"
        return self._call(what, self.costs[number], seen, walk.several)

    def require_unwritten(self, walk: Walk) -> None:
        """Of all samples, once the costs have read them: one comparison of each, however many costs there are.

        :raises ValueError: where one of them has been written into
        """
        who = "f" if len(self.costs) == 1 else "a cost"
        walk.require_unwritten(f"{who}, or a layer that has it from its state," if self.carries_state else who)

    def _call(self, what: str, function: Callable[..., Any], arguments: Sequence[Any], several: Several | None) -> Any:
        """A layer or a cost of its arguments; an error that says what is wrong with the call, where it fails by it."""
        flat = several if self.flatten else None
        if flat is not None:
            arguments = [flat.flattened(argument) for argument in arguments]
        given = _tensors(arguments[0]) if self.carries_state and is_checked() else []
        before = [x._version for x in given]
        try:
            returned = function(*arguments)
        except MISFITS as error:
            if isinstance(error, TypeError) and not _takes(function, len(arguments)):
                raise TypeError(self._misfit(what, len(arguments))) from error
            if several is not None and not isinstance(error, torch.OutOfMemoryError):
                raise ValueError(
                    f"{what} was called with several samples at once, tensors {several.described(flat is not None)}, "
                    f"and failed ({type(error).__name__}: {error}). {FROM_THE_STATE if flat else FLATTEN}"
                ) from error
            raise
        if [x._version for x in given] != before:
            raise ValueError(
                f"{what} has changed the state that it was given in place, and earlier layers' contexts may be made of "
                "it: return a new one, state + x in the place of state += x, or copy it first by state.clone()"
            )
        return returned if flat is None else flat.apart(what, returned)

    def _misfit(self, what: str, given: int) -> str:
        if self.carries_state:
            of = "the state and the sample of the layer below" if what.startswith("layer") else "the state and samples"
            return f"with state=, {what} is called with {of}, {given} arguments, which it does not take"
        return (
            f"{what} is called with the samples below it, here {given}, and takes another number of arguments: where "
            "layers hand on a state, layer(state, b) -> (latent, state), give the first one by state="
        )

    def cost_to_go(self, walk: Walk, since: int) -> Tensor:
        """What of f depends on the sample of layer ``since``: the sum of its cost and of those above."""
        values = [self.cost(number, walk) for number in self.costs if number >= since]
        self.require_unwritten(walk)
        if len(values) == 1:
            return values[0]
        return torch.stack([computed(value, walk.samples[0].dtype) for value in values]).sum(0)


def expanded(walk: Walk, leading: Sequence[int], batch_shape: torch.Size) -> Walk:
    """Samples and states with further dimensions before those of the batch.

    :param leading: sizes of the new dimensions
    :param batch_shape: of the samples as they are
    :raises ValueError: for a tensor among the states that does not begin with the batch's dimensions
    """

    def wide(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dim() == 0:
            return x
        if x.shape[: len(batch_shape)] != batch_shape:
            raise ValueError(
                f"every tensor of a state must begin with the batch's shape {tuple(batch_shape)}; got "
                f"{tuple(x.shape)}: several values of a sample are asked for at once, each with a state of its own. "
                "Move its other dimensions behind the batch's"
            )
        return x.expand(*leading, *x.shape)

    return Walk(
        [wide(sample) for sample in walk.samples],
        [pytree.tree_map(wide, state) for state in walk.states],
        Several(tuple(leading), tuple(batch_shape)),
        [wide(sample) for sample in walk.kept],
    )


def _takes(function: Callable[..., Any], arguments: int) -> bool:
    """Whether a function takes so many arguments, as far as its signature tells."""
    try:
        signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True


def _tensors(state: Any) -> list[Tensor]:
    """Those of a state whose writes torch counts."""
    return [x for x in pytree.tree_leaves(state) if isinstance(x, Tensor) and not x.is_inference()]


def _copied(state: Any) -> Any:
    """The same tensors in new containers: a layer that appends to a list changes no other layer's."""
    return pytree.tree_map(lambda x: x, state)


def _are_equal(before: Tensor, now: Tensor) -> bool:
    """Whether two tensors have the same numbers; NaN is one, and f's values will tell of it."""
    return torch.equal(before, now) or torch.allclose(before, now, rtol=0, atol=0, equal_nan=True)
