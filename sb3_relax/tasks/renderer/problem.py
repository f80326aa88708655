"""What is in a picture: f draws the guess by a renderer with hard edges, and is 1 less how far the two agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sb3_relax.estimators import NVIL, RELAX, Estimate, Estimator, Joint, LayeredEstimate, make
from sb3_relax.tasks.problem import Baseline, Config, Problem
from sb3_relax.tasks.renderer.model import Guesser, OfGuess, context_of
from sb3_relax.tasks.renderer.scenes import PIXELS, Scenes, intersection_over_union, rasterise, scenes
from sb3_relax.tasks.settings import key, setting

#: scenes of each split that is measured on
HELD_OUT = 2000
#: test scenes in a picture of reconstructions
SHOWN = 32


@dataclass(frozen=True)
class RendererConfig(Config):
    """The settings of inverse graphics."""

    learning_rate: float = setting(
        3e-3, "of θ's network, and of φ, the control variate or the baseline (Adam), at the start; it falls to 0"
    )
    entropy: float = setting(0.05, "weight of the entropy of a guess, in nats, at the start; it falls to 0")


class Renderer(Problem):
    """E[f(b)] over guesses b of place and shape, f = 1 - IoU of the picture that b draws and the one that is there.

    f is a black box of numpy, :func:`~sb3_relax.tasks.renderer.scenes.rasterise`, and has no slope anywhere. b is a
    :class:`~sb3_relax.estimators.Joint`: RELAX is LAX for the place, and RELAX for the shape, with one control variate.
    The entropy of a guess keeps all shapes drawn, and the places apart, until more is known. Its weight falls to 0
    along the run, as the learning rate does. What is measured is the likeliest guess.

    :param config: the settings
    :raises ValueError: for a negative weight of the entropy
    """

    name = "renderer"
    config = RendererConfig
    measures = ("iou", "shape_accuracy")
    decays = True
    model: Guesser

    def __init__(self, config: RendererConfig):
        if not 0 <= config.entropy < math.inf:
            raise ValueError(f"entropy must not be negative; got {config.entropy}")
        self.entropy = config.entropy
        self.model = Guesser(PIXELS * PIXELS)

    @property
    def support(self) -> int:
        """Without end, since b is continuous: :meth:`estimators` refuses ``exact``."""
        raise NotImplementedError

    def estimators(self, name: str) -> nn.Module:
        if name == "relax":
            return RELAX(OfGuess(PIXELS * PIXELS))
        if name == "nvil":
            return NVIL(Baseline(sum(context_of(PIXELS * PIXELS))))
        if name == "exact":
            raise ValueError("exact would visit every sample, and normals have no end of them: leave it out")
        return make(name, self.model(self.batch(1, torch.Generator()).picture))

    def batch(self, size: int, generator: torch.Generator) -> Scenes:
        return scenes(size, generator)

    def held_out(self, split: str) -> Scenes:
        return scenes(HELD_OUT, torch.Generator().manual_seed(key("renderer", split)))

    def f(self, batch: Scenes, guess: Joint, b: Tensor) -> Tensor:
        """1 - IoU, ``[..., B]``, with the gradient in θ of the weighted entropy.

        The entropy does not depend on b. So it has a gradient and no value here, and nobody need subtract it.
        """
        agreement = intersection_over_union(draw(guess, b), batch.picture.numpy())
        bonus = self.entropy * (1 - self.progress) * guess.entropy()
        return 1 - torch.from_numpy(agreement) - (bonus - bonus.detach())

    def estimate(self, estimators: nn.Module, batch: Scenes, generator: torch.Generator) -> Estimate | LayeredEstimate:
        assert isinstance(estimators, Estimator)
        guess = self.model(batch.picture)
        return estimators(guess, partial(self.f, batch, guess), generator)

    @torch.no_grad()
    def reconstruct(self, batch: Scenes) -> tuple[NDArray[np.bool_], Tensor]:
        """The likeliest guess: its picture, ``[B, 24, 24]``, and its shape, ``[B]``."""
        guess = self.model(batch.picture)
        b = guess.mode()
        return draw(guess, b), shape_of(guess, b)

    def measure(self, batch: Scenes, generator: torch.Generator) -> dict[str, float]:
        """Means over a batch, of the likeliest guess: no sample is drawn."""
        drawn, shape = self.reconstruct(batch)
        return {
            "iou": intersection_over_union(drawn, batch.picture.numpy()).mean(dtype=float).item(),
            "shape_accuracy": (shape == batch.shape).double().mean().item(),
        }

    def sampling_weights(self) -> Sequence[nn.Parameter]:
        return [*self.model.parameters()]

    def draw(self, path: Path) -> None:
        """Test scenes beside their reconstructions."""
        from sb3_relax.tasks.renderer.figures import draw_reconstructions

        first = Scenes(*(x[:SHOWN] for x in self.held_out("test")))
        draw_reconstructions(path, first.picture.numpy(), self.reconstruct(first)[0])


def shape_of(guess: Joint, b: Tensor) -> Tensor:
    """Index of the shape of every guess, ``[..., B]``."""
    return guess.unpack(b)["shape"].argmax(-1).squeeze(-1)


def draw(guess: Joint, b: Tensor) -> NDArray[np.bool_]:
    """The pictures of guesses, ``[..., B, 24, 24]``: here what is known of slopes ends."""
    return rasterise(guess.unpack(b)["place"].numpy(), shape_of(guess, b).numpy())
