"""A stack of layers and its costs: what each of them is called with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sb3_relax.estimators.functions import computed
from sb3_relax.estimators.latents import Latent
from sb3_relax.estimators.precision import keep_autocast

#: Layer l: the samples of the layers below, ``b_1 … b_{l-1}``, → the latent of layer l. Where there is a state, layer l
#: maps the state and ``b_{l-1}`` to its latent and the next state.
Layer = Callable[..., Any]

#: f of all samples, or one cost for each layer, of the samples up to that layer.
Costs = Callable[..., Tensor] | Sequence[Callable[..., Tensor]]


@dataclass
class Walk:
    """What is known after some layers: a sample of each, as f sees it, and the state that each handed on."""

    samples: list[Tensor] = field(default_factory=list)
    states: list[Any] = field(default_factory=list)


class Stack:
    """Layers, each of which knows what is below it, and the costs of what they draw.

    Without a state, layer l is called with ``b_1 … b_{l-1}``, and a cost with the samples it is of. With a state, layer
    l is called with what the layer below returned as its state and with ``b_{l-1}`` (``None`` for the first), and a
    cost with the state that its own layer returned and then the samples it is of.

    :param layers: at least one
    :param f: one f of all samples; or one cost for each layer, the l-th of ``b_1 … b_l`` alone, whose sum is f
    :param state: what the first layer gets; ``None`` where layers hand on nothing
    :raises ValueError: for no layer, or another number of costs than layers
    """

    def __init__(self, layers: Sequence[Layer], f: Costs, state: Any = None):
        if not layers:
            raise ValueError("at least one layer is needed; got none")
        self.layers = list(layers)
        self.initial = state
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

        :raises TypeError: where a layer does not return what it should
        """
        number = len(walk.samples)
        layer = self.layers[number]
        if not self.carries_state:
            latent = layer(*walk.samples)
            if not isinstance(latent, Latent):
                raise TypeError(
                    f"layer {number} must return a latent; got {type(latent).__name__}: where layers return a state as "
                    "well, give the first one by state="
                )
            walk.states.append(None)
            return latent
        below = walk.states[-1] if number else self.initial
        returned = layer(_copied(below), walk.samples[-1] if number else None)
        if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[0], Latent)):
            raise TypeError(
                f"with state=, layer {number} must return its latent and the next state; got {type(returned).__name__}"
            )
        latent, state = returned
        walk.states.append(_copied(state))
        return latent

    def cost(self, number: int, walk: Walk) -> Tensor:
        """The cost of the samples up to one layer."""
        seen = walk.samples[: number + 1]
        if not self.carries_state:
            return self.costs[number](*seen)
        return self.costs[number](_copied(walk.states[number]), *seen)

    def cost_to_go(self, walk: Walk, since: int) -> Tensor:
        """What of f depends on the sample of layer ``since``: the sum of its cost and of those above."""
        values = [self.cost(number, walk) for number in self.costs if number >= since]
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

    return Walk([wide(sample) for sample in walk.samples], [pytree.tree_map(wide, state) for state in walk.states])


def _copied(state: Any) -> Any:
    """The same tensors in new containers: a layer that appends to a list changes no other layer's."""
    return pytree.tree_map(lambda x: x, state)
