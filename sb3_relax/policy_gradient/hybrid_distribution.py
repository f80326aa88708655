"""The distribution of actions of several parts, for SB3's policies."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    make_proba_distribution,
)
from torch import nn

from sb3_relax.policy_gradient.flat_actions import FlatActions
from sb3_relax.policy_gradient.several_categoricals import in_one_batch


class HybridDistribution(DiagGaussianDistribution):
    """SB3's distribution of every part, independent of each other given the state: π(a|s) = Π π_i(a_i|s).

    To SB3's policies it is a Gaussian of more than means: one linear layer gives the means of Box parts and the logits
    of discrete ones, and ``log_std`` is that of all Box parts, independent of the state.

    :param space: of the actions
    """

    def __init__(self, space: FlatActions):
        super().__init__(sum(space.sizes))
        self.sizes = space.sizes
        self.names = list(space.parts)
        self.distributions = [in_one_batch(make_proba_distribution(part)) for part in space.parts.values()]
        self.n_outputs = [_outputs(part) for part in space.parts.values()]
        self.n_scales = [
            size if isinstance(part, spaces.Box) else 0
            for part, size in zip(space.parts.values(), self.sizes, strict=True)
        ]

    @property
    def parts(self) -> dict[str, Distribution]:
        """Name → SB3's distribution of that part."""
        return dict(zip(self.names, self.distributions, strict=True))

    def proba_distribution_net(self, latent_dim: int, log_std_init: float = 0.0) -> tuple[nn.Module, nn.Parameter]:
        log_std = nn.Parameter(th.ones(sum(self.n_scales)) * log_std_init)
        return nn.Linear(latent_dim, sum(self.n_outputs)), log_std

    def proba_distribution(self, mean_actions: th.Tensor, log_std: th.Tensor) -> HybridDistribution:
        """Set the parameters.

        :param mean_actions: means of Box parts and logits of discrete ones, in the order of the parts, ``[N, outputs]``
        :param log_std: of all Box parts
        """
        self.dtype = mean_actions.dtype
        outputs, scales = mean_actions.split(self.n_outputs, dim=-1), log_std.split(self.n_scales)
        for part, output, scale in zip(self.distributions, outputs, scales, strict=True):
            part.proba_distribution(output, *([scale] if isinstance(part, DiagGaussianDistribution) else []))
        return self

    def split(self, actions: th.Tensor) -> dict[str, th.Tensor]:
        """Name → that part of flat actions, as SB3's distribution of it takes them, ``[N]`` or ``[N, D]``."""
        # torch's Bernoulli compares bits in the logits' dtype
        pieces = actions.to(self.dtype).split(self.sizes, dim=-1)
        return {
            name: piece.squeeze(-1) if isinstance(part, CategoricalDistribution) else piece
            for (name, part), piece in zip(self.parts.items(), pieces, strict=True)
        }

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        pieces = self.split(actions)
        return th.stack([part.log_prob(pieces[name]) for name, part in self.parts.items()]).sum(0)

    def entropy(self) -> th.Tensor:
        entropies: Any = [part.entropy() for part in self.distributions]
        return th.stack(entropies).sum(0)

    def sample(self) -> th.Tensor:
        return self._joined([part.sample() for part in self.distributions])

    def mode(self) -> th.Tensor:
        return self._joined([part.mode() for part in self.distributions])

    def _joined(self, values: list[th.Tensor]) -> th.Tensor:
        pieces = zip(values, self.sizes, strict=True)
        return th.cat([value.reshape(-1, size).to(self.dtype) for value, size in pieces], dim=-1)


def _outputs(part: spaces.Space) -> int:
    """How many numbers of a network make the distribution of a part."""
    if isinstance(part, spaces.Discrete):
        return int(part.n)
    if isinstance(part, spaces.MultiDiscrete):
        return int(part.nvec.sum())
    assert part.shape is not None
    return int(part.shape[0])
