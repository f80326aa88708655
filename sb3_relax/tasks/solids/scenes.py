"""Pictures of a textured solid on a chequered floor, by Mitsuba's ray tracer, which needs no screen."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sb3_relax.optional import require_extra
from sb3_relax.tasks.guessing.scenes import Scenes
from sb3_relax.tasks.settings import key

#: pixels of a side, each of three colours from 0 to 1
PIXELS = 24
SHAPES = ("sphere", "cube", "cylinder")
#: a scene's third number is the logarithm of half the solid's height over this one
UNIT = 0.4
LEAST, LARGEST = 0.3, 0.5
#: the middle of a solid is this far from the floor's at most, in x and in y
REACH = 0.7
#: scenes of each split; those to learn from are drawn again and again
COUNTS = {"train": 10_000, "validation": 500, "test": 500}
#: squares of a solid's texture: around it (on a cube: along a face), and up
SQUARES = {"sphere": (8, 4), "cube": (2, 2), "cylinder": (6, 2)}
#: the largest size, and the smallest, that is drawn, as a logarithm: a ray tracer of single precision needs bounds
BOUND = 3.0


class World:
    """All that a picture shows but the solid: a floor, a lamp that throws shadows, and a camera that looks down.

    :raises ModuleNotFoundError: without Mitsuba
    """

    def __init__(self) -> None:
        require_extra("mitsuba", "mitsuba")
        import drjit
        import mitsuba

        # rays one by one, by compiled code that needs neither LLVM nor CUDA
        mitsuba.set_variant("scalar_rgb")
        drjit.set_thread_count(1)
        self._mitsuba = mitsuba
        self._at: Any = mitsuba.ScalarTransform4f
        film = {"type": "hdrfilm", "width": PIXELS, "height": PIXELS, "filter": {"type": "box"}}
        camera = {
            "type": "perspective",
            "fov": 42,
            "to_world": self._at().look_at(origin=[0, -2.6, 2.2], target=[0, 0, 0.1], up=[0, 0, 1]),
            "film": film,
        }
        floor = {
            "type": "rectangle",
            "to_world": self._at().scale(6),
            "surface": self._chequered([0.35, 0.4, 0.35], [0.55, 0.6, 0.55], (12, 12)),
        }
        described = {
            "integrator": {"type": "direct", "emitter_samples": 1, "bsdf_samples": 0},
            "camera": camera,
            "floor": floor,
            "lamp": {"type": "point", "position": [1.5, -2, 4], "intensity": {"type": "rgb", "value": [45, 42, 38]}},
        }
        self._parts = {name: mitsuba.load_dict(part) for name, part in described.items()}
        self._surfaces = {
            name: mitsuba.load_dict(self._chequered([0.85, 0.12, 0.1], [0.95, 0.8, 0.2], squares))
            for name, squares in SQUARES.items()
        }
        #: the picture without a solid, ``[24, 24, 3]``
        self.empty = self._traced({})

    def _chequered(self, one: list[float], other: list[float], squares: tuple[int, int]) -> dict[str, Any]:
        colours = {f"color{i}": {"type": "rgb", "value": colour} for i, colour in enumerate((one, other))}
        # one period of this texture is two squares
        to_uv = self._at().scale([squares[0] / 2, squares[1] / 2, 1])
        return {"type": "diffuse", "reflectance": {"type": "checkerboard", "to_uv": to_uv, **colours}}

    def _traced(self, solids: dict[str, Any]) -> NDArray[np.float32]:
        """One ray for each pixel, through the same points in every picture."""
        scene = self._mitsuba.load_dict({"type": "scene", **self._parts, **solids})
        return np.array(self._mitsuba.render(scene, spp=1, seed=0), dtype=np.float32).clip(0, 1)

    def picture(self, place: NDArray[np.float32], shape: int) -> NDArray[np.float32]:
        """One picture, ``[24, 24, 3]``.

        :param place: x, y and log(size / 0.4)
        :param shape: index into :data:`SHAPES`
        """
        x, y, log_size = place.clip(-BOUND, BOUND).tolist()
        size = UNIT * float(np.exp(log_size))
        to_world = self._at().translate([x, y, size]).scale(size)
        solid = {"type": SHAPES[shape], "surface": self._surfaces[SHAPES[shape]], "to_world": to_world}
        if SHAPES[shape] != "cylinder":
            return self._traced({"solid": solid})
        # a tube, whose lid is a thing of its own
        solid |= {"p0": [0, 0, -1], "p1": [0, 0, 1]}
        lid = {
            "type": "disk",
            "surface": self._surfaces["cube"],
            "to_world": to_world @ self._at().translate([0, 0, 1]),
        }
        return self._traced({"solid": solid, "lid": lid})


#: of this process
world = lru_cache(maxsize=1)(World)


def render(place: NDArray[np.float32], shape: NDArray[np.int64]) -> NDArray[np.float32]:
    """Pictures, ``[..., 24, 24, 3]``.

    :param place: x, y and log(size / 0.4), ``[..., 3]``
    :param shape: index into :data:`SHAPES`, ``[...]``
    """
    pictures = [world().picture(*scene) for scene in zip(place.reshape(-1, 3), shape.reshape(-1).tolist(), strict=True)]
    return np.stack(pictures).reshape(*shape.shape, PIXELS, PIXELS, 3)


def likeness(drawn: NDArray[np.float32], picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 - Σ|a - b| / (Σ|a - e| + Σ|b - e|), e the picture without a solid: ``[..., 24, 24, 3]`` → ``[...]``.

    It is 1 for equal pictures, and 0 for solids whose pictures, with their shadows, do not meet. Of masks it would be
    Dice's coefficient. Where neither picture shows a solid it is 0.
    """
    axes, empty = (-3, -2, -1), world().empty
    shown = np.abs(drawn - empty).sum(axes) + np.abs(picture - empty).sum(axes)
    return np.where(shown > 0, 1 - np.abs(drawn - picture).sum(axes) / np.maximum(shown, 1e-6), 0).astype(np.float32)


@lru_cache(maxsize=3)
def split_of(name: str) -> Scenes:
    """The scenes of ``"train"``, ``"validation"`` or ``"test"``, always the same."""
    count, generator = COUNTS[name], torch.Generator().manual_seed(key("solids", name))
    shape = torch.randint(len(SHAPES), (count,), generator=generator)
    size = LEAST + (LARGEST - LEAST) * torch.rand(count, 1, generator=generator)
    place = torch.cat([REACH * (2 * torch.rand(count, 2, generator=generator) - 1), (size / UNIT).log()], -1)
    return Scenes(torch.from_numpy(render(place.numpy(), shape.numpy())), place, shape)
