"""A pass of the policy with what went into its layers and what came out of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch as th
from torch import nn

from sb3_relax.estimators import Latent
from sb3_relax.policy_gradient.policy_view import PolicyOutput


class Call(NamedTuple):
    """One call of a layer."""

    inputs: th.Tensor  #: detached
    outputs: th.Tensor  #: with their graph to the layer, and part of what the pass gave


class Trace(NamedTuple):
    """The action distribution of a pass of the policy, and every call of the layers on its way."""

    latent: Latent
    calls: dict[nn.Module, list[Call]]


def traced(output: PolicyOutput, layers: Iterable[nn.Module]) -> Trace:
    """The action distribution of ``output`` computed again, with the calls of some layers.

    :param output: any pass of the policy
    :param layers: which to listen to
    """
    calls: dict[nn.Module, list[Call]] = {layer: [] for layer in layers}

    def note(layer: nn.Module, inputs: tuple[Any, ...], outputs: th.Tensor) -> th.Tensor:
        calls[layer].append(Call(inputs[0].detach(), outputs))
        # what follows gets a copy: an activation that works in place would change what was noted
        return outputs.clone()

    hooks = [layer.register_forward_hook(note) for layer in calls]
    try:
        return Trace(output.latent_again(), calls)
    finally:
        for hook in hooks:
            hook.remove()
