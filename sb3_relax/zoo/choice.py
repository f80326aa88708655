"""Which algorithm trains where none is named, by what the environment takes: rl_zoo3 would take PPO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from sb3_relax.algorithm.contrib import is_masking_supported
from sb3_relax.catalogue import HYBRID, MASKABLE, takers
from sb3_relax.errors import UsageError


def choose_algorithm(
    env_id: str, env_kwargs: Mapping[str, Any] | None, algorithms: Mapping[str, type]
) -> tuple[str, str]:
    """LAXA2C for Box actions, RELAXA2C for discrete ones, HybridRELAXA2C for a Dict or a Tuple of them.

    Where the environment has masks, it is MaskableRELAXA2C for discrete actions. The others leave masks out, which the
    reason says.

    :param env_id: of a registered environment, which is made, looked at and closed
    :param env_kwargs: for its constructor
    :param algorithms: short name → class
    :return: the short name, and the reason for it
    :raises UsageError: where none takes the actions
    """
    env = gym.make(env_id, **(env_kwargs or {}))
    try:
        space, masks = env.action_space, is_masking_supported(env)
    finally:
        env.close()
    masked = takers(space, MASKABLE) if masks else []
    names = {kind.__name__: name for name, kind in algorithms.items()}
    for algorithm in (*masked, *takers(space, None), *takers(space, HYBRID)):
        if algorithm in names:
            why = f"{algorithm} takes {space} actions"
            if masks:
                why += " and the environment's masks" if algorithm in masked else ", and leaves the masks out"
            return names[algorithm], why
    raise UsageError(f"no algorithm takes the action space {space}: flatten it to a Box or a discrete one")
