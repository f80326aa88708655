"""Low-variance policy gradients as a drop-in for Stable-Baselines3.

``LAXA2C`` (Box actions) and ``RELAXA2C`` (Discrete, MultiDiscrete, MultiBinary) are loaded when first asked for, so
that ``sb3_relax.estimators`` can be used with torch alone.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_relax.laxa2c import LAXA2C
    from sb3_relax.relaxa2c import RELAXA2C

__version__ = Path(__file__).with_name("version.txt").read_text().strip()

__all__ = ["LAXA2C", "RELAXA2C", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("LAXA2C", "RELAXA2C"):
        return getattr(import_module(f"sb3_relax.{name.lower()}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
