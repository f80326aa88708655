"""A look at a policy that changes nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stable_baselines3.common.policies import ActorCriticPolicy


@contextmanager
def evaluation_mode(policy: ActorCriticPolicy) -> Iterator[None]:
    """Inside, batch normalisation keeps its statistics and nothing is dropped; after it every module is as it was.

    :param policy: whose modules may each be in a mode of its own, such as layers that a user has frozen
    """
    modes = {module: module.training for module in policy.modules()}
    policy.set_training_mode(False)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
