"""A policy's modes of training and evaluation: set as SB3 sets them, or for a look that changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from torch import nn


def set_training_mode(policy: ActorCriticPolicy, mode: bool) -> None:
    """``policy.set_training_mode(mode)``, twice an update, without what ``nn.Module.train()`` does around each module.

    That takes three times as long as setting the attribute. Where the policy or one of its modules has a ``train()``
    or ``set_training_mode()`` of its own (a layer that the user has frozen, or compiled), the policy's is called.

    :param mode: ``True`` for updates, ``False`` for acting
    """
    own = "set_training_mode" in vars(policy) or type(policy).set_training_mode is not BasePolicy.set_training_mode
    modules: list[nn.Module] = [policy]
    for module in modules:  # which grows: without the names that ``policy.modules()`` makes on its way
        modules += [child for child in module._modules.values() if child is not None]
    if own or any(map(_sets_its_mode_itself, set(map(type, modules)))) or any("train" in vars(m) for m in modules):
        policy.set_training_mode(mode)
        return
    for module in modules:
        vars(module)["training"] = mode


def _sets_its_mode_itself(kind: type[nn.Module]) -> bool:
    own = kind.train is not nn.Module.train or kind.__setattr__ is not nn.Module.__setattr__
    # a class may also make a property of the mode
    return own or hasattr(kind, "training")


@contextmanager
def evaluation_mode(policy: ActorCriticPolicy) -> Iterator[None]:
    """Inside, batch normalisation keeps its statistics and nothing is dropped; after it every module is as it was.

    :param policy: whose modules may each be in a mode of its own, such as layers that a user has frozen
    """
    modes = {module: module.training for module in policy.modules()}
    try:
        set_training_mode(policy, False)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
