"""C_ψ: a small network for the baselines that are functions of the input."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from sb3_relax.estimators.base import Estimator
from sb3_relax.estimators.checks import read_only, require_widths
from sb3_relax.estimators.latents import Latent
from sb3_relax.estimators.surrogate import require_trained

SelfEstimator = TypeVar("SelfEstimator", bound="BaselineEstimator")


class MLPBaseline(nn.Module):
    """C_ψ: a tanh network, ``[*batch, inputs]`` → ``[*batch]``, that starts at C = 0.

    :param inputs: size of the context
    :param hidden: widths of the hidden layers
    """

    def __init__(self, inputs: int, hidden: Sequence[int] = (64, 64)):
        super().__init__()
        require_widths(inputs, hidden)
        sizes = [inputs, *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(sizes[-1], 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @property
    def inputs(self) -> int:
        """Size of the context."""
        first = self.layers[0] if len(self.layers) else self.output
        assert isinstance(first, nn.Linear)
        return first.in_features

    def forward(self, context: Tensor) -> Tensor:
        return self.output(self.layers(context)).squeeze(-1)


def baseline_of(baseline: nn.Module, latent: Latent) -> Tensor:
    """A learned baseline, of the context where there is one and else of the detached θ, ``[*batch]``.

    An :class:`MLPBaseline` reads a context and never θ.

    :raises ValueError: where it returns another shape, or writes into what it reads
    :raises TypeError: where its parameters would never be trained, and for an :class:`MLPBaseline` without its context
    """
    if type(baseline) is MLPBaseline:  # a subclass may read something else
        read = latent.context_for(baseline, baseline.inputs)
    else:
        read = latent.wide_theta.detach() if latent.context is None else latent.context
    fitted = read_only("baseline", baseline, read)
    require_trained("baseline", baseline, fitted, read)
    if fitted.shape != latent.batch_shape:
        raise ValueError(
            f"the baseline must have the batch's shape {tuple(latent.batch_shape)}; got {tuple(fitted.shape)}. A "
            "network that ends in one number needs .squeeze(-1) after it"
        )
    return fitted


class BaselineEstimator(Estimator):
    """An estimator that has a baseline C_ψ, or none, as its constructor's ``baseline``."""

    @classmethod
    def make(
        cls: type[SelfEstimator],
        latent: Latent,
        baseline: nn.Module | None = None,
        hidden: Sequence[int] | None = None,
        context: int | None = None,
        **kwargs: Any,
    ) -> SelfEstimator:
        """With ``baseline``, with an :class:`MLPBaseline` of these settings, or with none where there are none.

        :raises TypeError: for settings of a network beside a baseline that was given, and for widths without a context
        """
        require_widths(context, hidden)
        if baseline is not None and (hidden is not None or context is not None):
            raise TypeError("hidden and context would shape a baseline: leave them out, or leave out baseline=")
        if hidden is not None and context is None:
            raise TypeError("hidden= are widths of a baseline that reads the context: say its size as well, context=")
        if context is not None:
            baseline = MLPBaseline(context) if hidden is None else MLPBaseline(context, hidden)
        return cls(baseline=baseline, **kwargs)
