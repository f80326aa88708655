"""VecNormalize's scaling of observations as a module, for the observations that its environment gives."""

from __future__ import annotations

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_relax.errors import UsageError

#: an observation, or the parts of a Dict observation by name
Observation = th.Tensor | dict[str, th.Tensor]


def parts_of(space: spaces.Space) -> dict[str, spaces.Space]:
    """The parts of a Dict space by name; the part of any other, which is itself, has the name ``""``."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}


class Normalizer(nn.Module):
    """``VecNormalize.normalize_obs`` with its statistics as they are now: clip((x - mean) / sqrt(var + ε)).

    It is computed in float64 and given in float32, as there: pixels that hardly ever change have a variance so small
    that float32 would not hold what is left of x - mean.

    The attribute ``dtypes`` holds the dtype that the environment gives each part in: VecNormalize names float32 for
    images in its place.

    :param vec_normalize: with or without ``norm_obs``; of a Dict observation, the parts in ``norm_obs_keys``
    :param space: the policy's observations
    :raises UsageError: where the statistics are of other observations, or the environment's dtypes are not known yet
    """

    def __init__(self, vec_normalize: VecNormalize, space: spaces.Space):
        super().__init__()
        self.clip = float(vec_normalize.clip_obs)
        self.dtypes: dict[str, np.dtype] = {}
        self.names: list[str] = []
        statistics = getattr(vec_normalize, "obs_rms", {})  # made with norm_obs, which may be off since
        parts = parts_of(space)
        for name, rms in (statistics if isinstance(statistics, dict) else {"": statistics}).items():
            self.dtypes[name] = environment_dtype(vec_normalize, name)
            if not vec_normalize.norm_obs:
                continue
            if name not in parts or parts[name].shape != rms.mean.shape:
                raise UsageError(
                    f"vec_normalize has statistics of observations{name and f' {name!r}'} of shape {rms.mean.shape}, "
                    f"and the policy takes {space}: VecNormalize must be the outermost wrapper but for "
                    "VecTransposeImage. Otherwise leave vec_normalize out, and normalise before the exported policy"
                )
            number = len(self.names)  # a name may hold what a buffer's may not
            self.names.append(name)
            self.register_buffer(f"mean_{number}", th.as_tensor(rms.mean, dtype=th.float64))
            std = np.sqrt(rms.var + vec_normalize.epsilon)
            self.register_buffer(f"std_{number}", th.as_tensor(std, dtype=th.float64))

    def forward(self, observation: Observation) -> Observation:
        if isinstance(observation, dict):
            return {name: self._normalize(name, part) for name, part in observation.items()}
        return self._normalize("", observation)

    def _normalize(self, name: str, observation: th.Tensor) -> th.Tensor:
        if name not in self.names:
            return observation
        number = self.names.index(name)
        mean, std = getattr(self, f"mean_{number}"), getattr(self, f"std_{number}")
        return ((observation.double() - mean) / std).clamp(-self.clip, self.clip).float()


def environment_dtype(vec_normalize: VecNormalize, name: str) -> np.dtype:
    """Of a part of the observations that VecNormalize gets.

    :param name: of the part; ``""``: they have none
    :raises UsageError: for a Dict of which none was seen: VecNormalize has overwritten what the environment's space
        said
    """
    seen = getattr(vec_normalize, "old_obs", None)
    if isinstance(seen, dict):
        return seen[name].dtype
    if seen is not None:
        return seen.dtype
    if name:
        raise UsageError(
            "vec_normalize has seen no observation yet, so that their dtypes are not known: call its reset() once"
        )
    # unpickled alone, it has no environment
    space = (vec_normalize.venv or vec_normalize).observation_space
    assert space.dtype is not None
    return space.dtype
