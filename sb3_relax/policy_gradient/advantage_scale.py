"""The size of advantages, as earlier batches had them."""

from __future__ import annotations

import torch as th

from sb3_relax.policy_gradient.running_scale import RunningScale


class AdvantageScale(RunningScale):
    """What advantages are divided by with ``normalize_advantage="running"``: their root mean square in earlier batches.

    SB3's own normalisation divides by the standard deviation of the very batch, and subtracts its mean. Both depend on
    every action of the batch, so that the mean of the gradient is no longer that of the policy gradient. A scale that
    was fixed before the batch only changes the gradient's length. Before any evidence it is 1.

    :param decay: weight of the past
    """

    def observe(self, advantages: th.Tensor) -> None:
        """Take in the advantages of a batch as they came, ``[N]``, after it was used."""
        self.take_in(advantages.square().mean())
