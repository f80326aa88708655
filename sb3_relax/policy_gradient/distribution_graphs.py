"""What a policy's distribution keeps of the graph of its last pass, and how to let go of it."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.distributions import Distribution


def forget_graph(distribution: Distribution) -> None:
    """Detach every tensor that a distribution holds, so that it can be copied, and that no graph outlives its update.

    SB3's policies keep the distribution that they evaluated last, gSDE's noise included, and torch copies no tensor
    that has a graph. What the distribution samples, and the probabilities it gives, stay the same.

    :param distribution: of a policy, as its last pass left it
    """
    held = vars(distribution)
    held.update({name: _detached(value) for name, value in held.items()})


def _detached(value: Any) -> Any:
    if isinstance(value, th.Tensor):
        return value if value.is_leaf else value.detach()
    if isinstance(value, list):
        return [_detached(part) for part in value]
    if isinstance(value, (Distribution, th.distributions.Distribution)):
        forget_graph(value)  # type: ignore[arg-type]
    return value
