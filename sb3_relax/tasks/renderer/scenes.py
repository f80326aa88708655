"""Pictures of one disc or one bar, drawn with hard edges: a pixel is inside or outside, and has no slope."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sb3_relax.tasks.guessing.scenes import Scenes

#: pixels of a side; the picture is the square [-1, 1]², and a pixel is where its centre is
PIXELS = 24
SHAPES = ("disc", "lying bar", "standing bar")
#: a scene's third number is the logarithm of its size over this one
UNIT = 0.3
#: sizes in scenes: a disc's radius; a bar is three sizes long and one wide
LEAST, LARGEST = 0.2, 0.4
LONG, WIDE = 1.5, 0.5

#: of the pixels, along either axis
CENTRES = (2 * np.arange(PIXELS) + 1 - PIXELS).astype(np.float32) / PIXELS


def rasterise(place: NDArray[np.float32], shape: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Pictures, true inside the shape, ``[..., 24, 24]``.

    :param place: x, y and log(size / 0.3), ``[..., 3]``
    :param shape: index into :data:`SHAPES`, ``[...]``
    """
    x, y, log_size = (place[..., number, None] for number in range(3))
    size = UNIT * np.exp(log_size)
    dx, dy = np.abs(CENTRES - x), np.abs(CENTRES - y)
    across, down = (np.where(shape[..., None] == long, LONG, WIDE) * size for long in (1, 2))
    # a bar is where both are inside; a disc, where their squares are together
    bar = (dy < down)[..., :, None] & (dx < across)[..., None, :]
    disc = np.square(dy)[..., :, None] + np.square(dx)[..., None, :] < np.square(size)[..., None]
    return np.where((shape == 0)[..., None, None], disc, bar)


def intersection_over_union(drawn: NDArray[np.bool_], picture: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Of pixels that are true in both pictures, over those that are in either: ``[..., 24, 24]`` → ``[...]``.

    It is 0 where both are empty.
    """
    both = (drawn & picture).sum((-2, -1))
    return (both / np.maximum((drawn | picture).sum((-2, -1)), 1)).astype(np.float32)


def scenes(count: int, generator: torch.Generator) -> Scenes:
    """Shapes, sizes and places at random, wholly inside the picture; pictures are ``[count, 24, 24]``, true inside."""
    shape = torch.randint(len(SHAPES), (count,), generator=generator)
    size = LEAST + (LARGEST - LEAST) * torch.rand(count, 1, generator=generator)
    place = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - LONG * size)
    place = torch.cat([place, (size / UNIT).log()], -1)
    return Scenes(torch.from_numpy(rasterise(place.numpy(), shape.numpy())), place, shape)
