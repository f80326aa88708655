"""Observations, which are a tensor or, of a Dict space, a dict of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs


def of_parts(function: Callable[[Any], Any], observations: Any) -> Any:
    """What a function makes of observations, or of every part of a dict of such."""
    if isinstance(observations, dict):
        return {key: function(part) for key, part in observations.items()}
    return function(observations)


def concatenated(observations: Sequence[Any]) -> PyTorchObs:
    """``[N_i, *obs_shape]`` one after the other, or dicts of such."""
    if isinstance(observations[0], dict):
        return {key: th.cat([parts[key] for parts in observations]) for key in observations[0]}
    return th.cat(list(observations))
