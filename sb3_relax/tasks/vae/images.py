"""Samples and reconstructions as one grey image."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from sb3_relax.tasks.vae.model import DiscreteVAE
from sb3_relax.tasks.vae.objective import LogWeight

#: pixels that a picture is wide, at least
WIDTH = 800


def grid(images: Tensor, shape: tuple[int, ...], columns: int) -> Tensor:
    """Images ``[N, D]`` in [0, 1] as rows of ``columns``, a pixel apart: ``[H, W]``."""
    rows = math.ceil(len(images) / columns)
    height, width = shape
    sheet = torch.zeros(rows * columns, height + 1, width + 1)
    sheet[: len(images), :height, :width] = images.cpu().reshape(-1, height, width)
    return sheet.reshape(rows, columns, height + 1, width + 1).transpose(1, 2).flatten(2).flatten(0, 1)[:-1, :-1]


def samples(model: DiscreteVAE, shape: tuple[int, ...], count: int, generator: torch.Generator | None = None) -> Tensor:
    """Mean images of ``count`` samples of p; the same ones at each call without a generator."""
    if generator is None:
        generator = torch.Generator(model.prior.device).manual_seed(0)
    return grid(model.sample(count, generator), shape, 8)


@torch.no_grad()
def reconstructions(
    model: DiscreteVAE, x: Tensor, shape: tuple[int, ...], generator: torch.Generator | None = None
) -> Tensor:
    """Pairs: x, and the mean of p(x|b_1) with b_1 ~ q(b_1|x)."""
    if generator is None:
        generator = torch.Generator(x.device).manual_seed(0)
    b = LogWeight(model, x).posterior()[0]().sample(generator)
    return grid(torch.stack([x, model.decode(0, b).sigmoid()], dim=1).flatten(0, 1), shape, 8)


def enlarged(image: Tensor, width: int = WIDTH) -> Tensor:
    """Every pixel of ``[H, W]`` as a square, of the smallest size that makes the image ``width`` pixels wide."""
    size = math.ceil(width / image.shape[1])
    return image.repeat_interleave(size, dim=0).repeat_interleave(size, dim=1)


def write_png(path: Path, image: Tensor) -> None:
    """A grey image ``[H, W]`` with values in [0, 1], enlarged to be looked at."""
    import matplotlib.image

    path.parent.mkdir(parents=True, exist_ok=True)
    matplotlib.image.imsave(path, enlarged(image).numpy(), cmap="gray", vmin=0, vmax=1)
