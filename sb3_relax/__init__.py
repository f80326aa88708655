"""Low-variance policy gradients as a drop-in for Stable-Baselines3.

``LAXA2C`` (Box actions), ``RELAXA2C`` (Discrete, MultiDiscrete, MultiBinary) and ``HybridRELAXA2C`` (Dict and Tuple of
these) are loaded when first asked for, so that ``sb3_relax.estimators`` can be used with torch alone. So is what needs
sb3-contrib (the extra ``contrib``): ``MaskableRELAXA2C``, ``RecurrentLAXA2C``, ``RecurrentRELAXA2C``,
``MaskableRecurrentRELAXA2C``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_relax.catalogue import CATALOGUE, load

if TYPE_CHECKING:
    from sb3_relax.laxa2c import LAXA2C
    from sb3_relax.laxa2c_recurrent import RecurrentLAXA2C as RecurrentLAXA2C
    from sb3_relax.relaxa2c import RELAXA2C
    from sb3_relax.relaxa2c_hybrid import HybridRELAXA2C
    from sb3_relax.relaxa2c_mask import MaskableRELAXA2C as MaskableRELAXA2C
    from sb3_relax.relaxa2c_mask_recurrent import MaskableRecurrentRELAXA2C as MaskableRecurrentRELAXA2C
    from sb3_relax.relaxa2c_recurrent import RecurrentRELAXA2C as RecurrentRELAXA2C

__version__ = Path(__file__).with_name("version.txt").read_text().strip()

# what needs an extra is left out: a star import must not need it
__all__ = ["LAXA2C", "RELAXA2C", "HybridRELAXA2C", "__version__"]


def __dir__() -> list[str]:
    # an editor or a shell offers the classes before they are loaded
    return sorted({*globals(), *CATALOGUE})


def __getattr__(name: str) -> Any:
    if name in CATALOGUE:
        return load(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
