"""Masks for a rollout that sb3-contrib's recurrent code collects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_relax.algorithm.collection import PassedOn


class HandsMasks(PassedOn):
    """The masks in a rollout of ``n_steps``: the policy gets them, the buffer keeps them.

    sb3-contrib's code collects the rollout, and knows no masks. The policy gets them only where that code asks it for
    actions, and not where the user's callback does in between, which may be about other states.

    :param callback: the user's; among its locals are ``action_masks``, as in MaskablePPO
    :param buffer: which keeps the masks of each step
    :param ask: for the masks of all environments, ``[n_envs, n]``
    """

    def __init__(self, callback: BaseCallback, buffer: Any, ask: Callable[[], np.ndarray]):
        super().__init__(callback)
        self.buffer = buffer
        self.ask = ask
        self.collecting = False

    def __deepcopy__(self, memo: dict[int, Any]) -> HandsMasks:
        # a policy that is copied while it collects takes this hook with it: the copy has a rollout of its own, or none
        copy = object.__new__(HandsMasks)
        copy.collecting = False
        return copy

    def to_policy(
        self, policy: th.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Before a call of the policy: a hook of ``torch.nn.Module``."""
        if not self.collecting:
            return None
        self.masks = self.buffer.action_masks[self.buffer.pos] = self.ask()
        return args, {**kwargs, "action_masks": self.masks}

    def on_rollout_start(self) -> None:
        super().on_rollout_start()
        self.collecting = True

    def update_locals(self, locals_: dict[str, Any]) -> None:
        super().update_locals({**locals_, "action_masks": self.masks})

    def on_step(self) -> bool:
        self.collecting = False
        goes_on = super().on_step()
        self.collecting = True
        return goes_on

    def on_rollout_end(self) -> None:
        self.collecting = False
        super().on_rollout_end()
