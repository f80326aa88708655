"""What is in a flat picture: f is 1 - IoU of the guess, drawn with hard edges, and the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sb3_relax.tasks.guessing.problem import Guessing, GuessingConfig
from sb3_relax.tasks.guessing.scenes import Scenes
from sb3_relax.tasks.renderer.scenes import PIXELS, intersection_over_union, rasterise, scenes
from sb3_relax.tasks.settings import key

#: scenes of each split that is measured on
HELD_OUT = 2000
#: test scenes in a picture of reconstructions
SHOWN = 32


class Renderer(Guessing):
    """Discs and bars, drawn by :func:`~sb3_relax.tasks.renderer.scenes.rasterise`; agreement is IoU."""

    name = "renderer"
    config = GuessingConfig
    measures = ("iou", "shape_accuracy")
    pixels = PIXELS * PIXELS

    def render(self, place: NDArray[np.float32], shape: NDArray[np.int64]) -> NDArray[np.bool_]:
        return rasterise(place, shape)

    def agreement(self, drawn: NDArray[Any], picture: NDArray[Any]) -> NDArray[np.float32]:
        return intersection_over_union(drawn, picture)

    def batch(self, size: int, generator: torch.Generator) -> Scenes:
        return scenes(size, generator)

    def held_out(self, split: str) -> Scenes:
        return scenes(HELD_OUT, torch.Generator().manual_seed(key("renderer", split)))

    def draw(self, path: Path) -> None:
        """Test scenes beside their reconstructions."""
        from sb3_relax.tasks.renderer.figures import draw_reconstructions

        first = Scenes(*(x[:SHOWN] for x in self.held_out("test")))
        draw_reconstructions(path, first.picture.numpy(), self.reconstruct(first)[0])
