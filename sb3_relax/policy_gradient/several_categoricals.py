"""MultiDiscrete actions as one batch of variables, where SB3 makes an object of each variable."""

from __future__ import annotations

from functools import cached_property
from math import isfinite
from typing import Any

import torch as th
from stable_baselines3.common.distributions import Distribution, MultiCategoricalDistribution
from torch.distributions import Categorical, constraints
from torch.distributions import Distribution as TorchDistribution

from sb3_relax.estimators import GumbelOneHot, Latent


class SeveralCategoricals:
    """What is put before a distribution of several variables among a class's bases: one kernel for all of them.

    Samples take one more for each variable, since its random numbers are drawn as the base draws them. A subclass may
    draw those of all variables at once, by an :meth:`exponential` of its own.

    Log-probability, entropy, mode and probabilities are those of the base, up to rounding, and so are samples, drawn
    with the same random numbers. The variables are padded to the widest by values that are never drawn. Arguments are
    checked where torch checks those of its own distributions.

    :param action_dims: how many values each variable has, ``[D]``
    """

    #: what the network gave, unnormalised, ``[N, D, K]``, K being the number of the widest variable's values
    outputs: th.Tensor

    def __init__(self, action_dims: list[int]):
        self.sizes = tuple(int(size) for size in action_dims)
        self.size = sum(self.sizes)
        self.last = th.tensor(self.sizes) - 1
        #: which of the D · K values are there, ``[D, K]``, and where each is among the outputs of a network
        self.exists = th.arange(max(self.sizes)) <= self.last.unsqueeze(-1)
        self.positions = (self.exists.flatten().cumsum(0) - 1).clamp(min=0)
        self.are_alike = bool(self.exists.all())

    @property
    def action_dims(self) -> list[int]:
        """As the base has it."""
        return list(self.sizes)

    def proba_distribution(self, action_logits: th.Tensor) -> Any:
        """Set the parameters.

        :param action_logits: of the values of all variables, one variable after the other, ``[N, Σ sizes]``
        :raises ValueError: torch's, for NaN
        """
        if TorchDistribution._validate_args:
            Categorical(logits=action_logits.detach())
        outputs = self.spread(action_logits.view(-1, self.size))
        if not self.are_alike:
            # below every logit, and that of a value that a mask forbids: it is not drawn where a mask forbids all
            outputs = outputs.masked_fill(~self.exists, float("-inf"))
        self.outputs = outputs
        self.forget_logits()
        return self

    def forget_logits(self) -> None:
        """What they were made of has changed."""
        vars(self).pop("logits", None)

    @cached_property
    def logits(self) -> th.Tensor:
        """log p of every value, ``[N, D, K]``."""
        # whoever asks first, it may be asked again for its derivative
        with th.set_grad_enabled(self.outputs.requires_grad):
            return self.normalised()

    def normalised(self) -> th.Tensor:
        """log p as torch's Categorical computes it, so that rollouts are those of SB3."""
        return self.outputs - self.outputs.logsumexp(-1, keepdim=True)

    def spread(self, flat: th.Tensor) -> th.Tensor:
        """Numbers of all values, ``[N, Σ sizes]`` → ``[N, D, K]``, with any numbers where a value does not exist."""
        if not self.are_alike:
            self.exists, self.positions = self.exists.to(flat.device), self.positions.to(flat.device)
            flat = flat[:, self.positions]
        return flat.reshape(-1, *self.exists.shape)

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        """Of actions ``[N, D]``: ``[N]``.

        :raises ValueError: for values that are not there
        """
        actions = actions.reshape(-1, len(self.sizes))
        if TorchDistribution._validate_args:
            last = self.last.to(actions.device)
            if not bool(constraints.integer_interval(th.zeros_like(last), last).check(actions).all()):
                raise ValueError(f"actions must be whole numbers from 0 to {self.last.tolist()}; got {actions}")
        return self.logits.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1).sum(-1)

    def entropy(self) -> th.Tensor:
        """``[N]``."""
        return -p_log_p(self.logits).sum((-2, -1))

    @th.no_grad()
    def sample(self) -> th.Tensor:
        """``[N, D]``."""
        probabilities = self.logits.exp().contiguous()
        if not isfinite(probabilities.sum().item()):
            th.multinomial(probabilities.flatten(0, 1), 1)  # raises torch's own error
        # of the values of a variable, torch draws the one whose p/E is largest, with E ~ Exp(1) for each
        return (probabilities / self.spread(self.exponential(probabilities))).argmax(-1)

    def exponential(self, like: th.Tensor) -> th.Tensor:
        """E ~ Exp(1) of all values, ``[N, Σ sizes]``, by the random numbers that the base would use.

        :param like: of the number of steps, the dtype and the device
        """
        return th.cat([like.new_empty(len(like), size).exponential_() for size in self.sizes], dim=-1)

    def mode(self) -> th.Tensor:
        """The likeliest value of each variable, ``[N, D]``."""
        return self.logits.argmax(-1)

    def probabilities(self) -> th.Tensor:
        """Of all values, ``[N, Σ sizes]``, one variable after the other."""
        flat = self.logits.exp().flatten(1)
        return flat if self.are_alike else flat[:, self.exists.flatten()]

    def latent(self) -> Latent:
        """The same variables as the core has them, of batch shape ``[N]``, attached to what the network gave."""
        return GumbelOneHot(self.logits, None if self.are_alike else self.exists)


class BatchedMultiCategoricalDistribution(SeveralCategoricals, MultiCategoricalDistribution):  # type: ignore[override]
    """SB3's ``MultiCategoricalDistribution`` by one kernel for all variables, but for the random numbers of samples.

    Example::

        of = BatchedMultiCategoricalDistribution([3, 5, 2]).proba_distribution(th.zeros(4, 10))
        of.log_prob(of.sample())  # [4]
    """

    @property
    def distribution(self) -> list[Categorical]:  # type: ignore[override]
        """One of each variable, as SB3's has them."""
        return [Categorical(logits=self.outputs[:, d, :size]) for d, size in enumerate(self.sizes)]


def p_log_p(logits: th.Tensor) -> th.Tensor:
    """Of log p of any shape; 0 where it is -inf, and so is its derivative, as torch has it in its entropies."""
    logits = logits.clamp(min=th.finfo(logits.dtype).min)
    return logits.exp() * logits


def in_one_batch(distribution: Distribution) -> Distribution:
    """The same distribution with all its variables in one batch, where it is SB3's own of several; else itself."""
    if type(distribution) is MultiCategoricalDistribution:
        return BatchedMultiCategoricalDistribution(distribution.action_dims)
    return distribution
