"""Inverse graphics, whatever the renderer: a network guesses what is in a picture, and f draws the guess."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sb3_relax.estimators import NVIL, RELAX, Estimate, Estimator, Joint, LayeredEstimate, make
from sb3_relax.tasks.guessing.model import Guesser, OfGuess, context_of
from sb3_relax.tasks.guessing.scenes import Scenes
from sb3_relax.tasks.problem import WITHOUT_EXACT, Baseline, Config, Problem
from sb3_relax.tasks.settings import setting


@dataclass(frozen=True)
class GuessingConfig(Config):
    """The settings of inverse graphics."""

    learning_rate: float = setting(
        3e-3, "of θ's network, and of φ, the control variate or the baseline (Adam), at the start; it falls to 0"
    )
    entropy: float = setting(0.05, "weight of the entropy of a guess, in nats, at the start; it falls to 0")


class Guessing(Problem):
    """E[f(b)] over guesses b of place and shape, f = 1 less how far what b draws agrees with the picture.

    f is a black box of numpy, and has no slope. b is a :class:`~sb3_relax.estimators.Joint`: RELAX is LAX for the
    place, and RELAX for the shape, with one control variate. The entropy of a guess keeps all shapes drawn, and the
    places apart, until more is known. Its weight falls to 0 along the run, as the learning rate does. What is measured
    is the likeliest guess.

    A subclass names its :attr:`pixels` and overrides :meth:`render` and :meth:`agreement`; the first of its measures is
    the mean agreement, and the second the share of right shapes.

    :param config: the settings
    :raises ValueError: for a negative weight of the entropy
    """

    # normals have no end of samples
    cases = WITHOUT_EXACT
    decays = True
    #: numbers of a picture
    pixels: ClassVar[int]
    #: whether place and shape are guessed by a network each
    apart: ClassVar[bool] = False
    model: Guesser

    def __init__(self, config: GuessingConfig):
        if not 0 <= config.entropy < math.inf:
            raise ValueError(f"entropy must not be negative; got {config.entropy}")
        self.entropy = config.entropy
        self.model = Guesser(self.pixels, self.apart)

    @abstractmethod
    def render(self, place: NDArray[np.float32], shape: NDArray[np.int64]) -> NDArray[Any]:
        """Pictures, ``[..., *picture]``.

        :param place: ``[..., 3]``
        :param shape: ``[...]``
        """

    @abstractmethod
    def agreement(self, drawn: NDArray[Any], picture: NDArray[Any]) -> NDArray[np.float32]:
        """How far pictures agree, from 0 to 1: ``[..., *picture]`` → ``[...]``."""

    def seen(self, picture: Tensor) -> Tensor:
        """What networks are shown of pictures, ``[B, *picture]``: the numbers themselves, unless overridden."""
        return picture

    def estimators(self, name: str) -> nn.Module:
        if name not in self.cases:
            raise ValueError(f"{self.name} takes {', '.join(self.cases)}; got {name!r}")
        if name == "relax":
            return RELAX(OfGuess(self.pixels))
        if name == "nvil":
            return NVIL(Baseline(sum(context_of(self.pixels))))
        return make(name, self.model(torch.zeros(1, self.pixels)))

    def drawn(self, guess: Joint, b: Tensor) -> NDArray[Any]:
        """The pictures of guesses, ``[..., B, *picture]``: what is known of slopes ends here."""
        return self.render(guess.unpack(b)["place"].numpy(), shape_of(guess, b).numpy())

    def f(self, batch: Scenes, guess: Joint, b: Tensor) -> Tensor:
        """1 less the agreement, ``[..., B]``, with the gradient in θ of the weighted entropy.

        The entropy does not depend on b. So it has a gradient and no value here, and nobody need subtract it.
        """
        agreement = self.agreement(self.drawn(guess, b), batch.picture.numpy())
        bonus = self.entropy * (1 - self.progress) * guess.entropy()
        return 1 - torch.from_numpy(agreement) - (bonus - bonus.detach())

    def estimate(self, estimators: nn.Module, batch: Scenes, generator: torch.Generator) -> Estimate | LayeredEstimate:
        assert isinstance(estimators, Estimator)
        guess = self.model(self.seen(batch.picture))
        return estimators(guess, partial(self.f, batch, guess), generator)

    @torch.no_grad()
    def reconstruct(self, batch: Scenes) -> tuple[NDArray[Any], Tensor]:
        """The likeliest guess: its picture, ``[B, *picture]``, and its shape, ``[B]``."""
        guess = self.model(self.seen(batch.picture))
        b = guess.mode()
        return self.drawn(guess, b), shape_of(guess, b)

    def measure(self, batch: Scenes, generator: torch.Generator) -> dict[str, float]:
        """Means over a batch, of the likeliest guess: no sample is drawn."""
        drawn, shape = self.reconstruct(batch)
        agreement = self.agreement(drawn, batch.picture.numpy()).mean(dtype=float).item()
        right = (shape == batch.shape).double().mean().item()
        return dict(zip(self.measures, (agreement, right), strict=True))

    def sampling_weights(self) -> Sequence[nn.Parameter]:
        return [*self.model.parameters()]


def shape_of(guess: Joint, b: Tensor) -> Tensor:
    """Index of the shape of every guess, ``[..., B]``."""
    return guess.unpack(b)["shape"].argmax(-1).squeeze(-1)
