"""What renderers draw."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Scenes(NamedTuple):
    """A batch of B scenes.

    :param picture: as the renderer draws it, ``[B, *picture]``
    :param place: x, y and the logarithm of the size over the renderer's unit, ``[B, 3]``
    :param shape: index into the renderer's shapes, ``[B]``
    """

    picture: Tensor
    place: Tensor
    shape: Tensor
