"""What is in a picture of a solid: f is how unlike it is what a ray tracer makes of the guess."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sb3_relax.tasks.guessing.problem import Guessing, GuessingConfig
from sb3_relax.tasks.guessing.scenes import Scenes
from sb3_relax.tasks.settings import setting
from sb3_relax.tasks.solids.scenes import PIXELS, likeness, render, split_of, world

#: test scenes in a picture of reconstructions
SHOWN = 32
#: standard deviation, over scenes, pixels and colours, of what differs from the empty floor
CONTRAST = 0.1
#: of a screen: numbers are light, and screens show their power of so much
GAMMA = 2.2


@dataclass(frozen=True)
class SolidsConfig(GuessingConfig):
    """The settings of inverse graphics in three dimensions."""

    learning_rate: float = setting(
        1e-3, "of θ's network, and of φ, the control variate or the baseline (Adam), at the start; it falls to 0"
    )
    calls: int = setting(80_000, "of f in a run")
    batch_size: int = setting(32, "elements of a batch")


class Solids(Guessing):
    """Textured solids, rendered by Mitsuba; agreement is :func:`~sb3_relax.tasks.solids.scenes.likeness`."""

    name = "solids"
    config = SolidsConfig
    measures = ("likeness", "shape_accuracy")
    pixels = PIXELS * PIXELS * 3
    apart = True

    def seen(self, picture: Tensor) -> Tensor:
        """What differs from the empty floor, in units of its standard deviation.

        The floor is the same in every picture, and brighter than most of what stands on it. Where networks see it, a
        step that one scene asks for moves the guesses of all, and the place is soon far outside of every picture, where
        f is flat and says nothing of the way back.
        """
        return (picture - torch.from_numpy(world().empty)) / CONTRAST

    def render(self, place: NDArray[np.float32], shape: NDArray[np.int64]) -> NDArray[np.float32]:
        return render(place, shape)

    def agreement(self, drawn: NDArray[Any], picture: NDArray[Any]) -> NDArray[np.float32]:
        return likeness(drawn, picture)

    def batch(self, size: int, generator: torch.Generator) -> Scenes:
        """Some of the scenes to learn from."""
        train = split_of("train")
        index = torch.randint(len(train.shape), (size,), generator=generator)
        return Scenes(*(x[index] for x in train))

    def held_out(self, split: str) -> Scenes:
        return split_of(split)

    def draw(self, path: Path) -> None:
        """Test scenes beside their reconstructions."""
        from sb3_relax.tasks.guessing.figures import write_pairs

        first = Scenes(*(x[:SHOWN] for x in self.held_out("test")))
        write_pairs(path, *(x ** (1 / GAMMA) for x in (first.picture.numpy(), self.reconstruct(first)[0])))
