"""Observations in the scale of those seen before, as part of the policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_relax.errors import UsageError

#: where VecNormalize clips by default, and what it adds to the variance
CLIP = 10.0
EPSILON = 1e-8

#: a policy's attributes that hold features extractors, which may be the same one
EXTRACTORS = ("features_extractor", "pi_features_extractor", "vf_features_extractor")


class RunningMoments(nn.Module):
    """Mean and variance of all observations seen: SB3's ``RunningMeanStd`` as buffers, which are saved with the agent.

    They are float64 as there. At first the mean is 0, the variance 1, and the count of observations next to nothing.

    :param shape: of an observation
    """

    mean: th.Tensor
    var: th.Tensor
    count: th.Tensor

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        moments = RunningMeanStd(shape=shape)
        for name in ("mean", "var", "count"):
            self.register_buffer(name, th.as_tensor(getattr(moments, name), dtype=th.float64))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """clip((x - mean) / √(var + ε)), as ``VecNormalize.normalize_obs``: computed in float64, given in float32.

        :param observations: ``[N, *shape]``
        """
        scaled = (observations.double() - self.mean) / (self.var + EPSILON).sqrt()
        return scaled.clamp(-CLIP, CLIP).float()

    def take_in(self, observations: np.ndarray) -> None:
        """A batch more.

        :param observations: ``[..., *shape]``
        """
        moments, shape = RunningMeanStd(), self.mean.shape
        for name, buffer in self.named_buffers():
            setattr(moments, name, buffer.cpu().numpy())
        moments.update(observations.reshape(-1, *shape).astype(np.float64))
        for name, buffer in self.named_buffers():
            buffer.copy_(th.as_tensor(getattr(moments, name)))


class ObservationScale(nn.Module):
    """What the observations of a space are normalised by: their Box, or each Box of a Dict by itself.

    Images stay as they are, since policies divide them by 255 or, with ``normalize_images=False``, take them as they
    come. So do Discrete, MultiDiscrete and MultiBinary parts.

    The attribute ``names`` has the normalised parts of a Dict; the name of a Box is ``""``.

    :param space: of observations
    :param normalize_images: the policy's: whether it divides images by 255
    :raises UsageError: where nothing is left to normalise
    """

    def __init__(self, space: spaces.Space, normalize_images: bool):
        super().__init__()
        parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        self.names = [
            name
            for name, part in parts.items()
            if isinstance(part, spaces.Box) and not is_image_space(part, normalized_image=not normalize_images)
        ]
        if not self.names:
            raise UsageError(
                f"normalize_observations=True finds nothing to normalise in {space}: it is for Box observations that "
                "are no images, since policies scale images and one-hot encode discrete observations by themselves. "
                "Set normalize_observations=False"
            )
        # in a list, since a name may hold what a module's may not
        self.moments = nn.ModuleList(RunningMoments(parts[name].shape or ()) for name in self.names)

    def forward(self, observations: PyTorchObs) -> PyTorchObs:
        """The same with its normalised parts in the place of those that came, ``[N, ...]`` each."""
        if isinstance(observations, dict):
            return observations | {name: moments(observations[name]) for name, moments in self.named()}
        return self.moments[0](observations)

    def observe(self, observations: np.ndarray | dict[str, np.ndarray]) -> None:
        """Take in the observations of a rollout as the environment gave them, ``[T, E, ...]``, after it was used."""
        for name, moments in self.named():
            moments.take_in(observations[name] if isinstance(observations, dict) else observations)

    def named(self) -> Iterable[tuple[str, Any]]:
        """Name and :class:`RunningMoments` of each normalised part."""
        return zip(self.names, self.moments, strict=True)


class NormalizingExtractor(BaseFeaturesExtractor):
    """A features extractor that gets normalised observations.

    It stands in the place of the policy's own, so that whatever runs the policy runs it: rollouts, updates,
    ``predict()`` and exports. A policy that is saved alone names this class among the arguments it is made again with.

    :param observation_space: of the policy
    :param make_extractor: of the space, makes the extractor that gets them
    :param scale: what they are normalised by; ``None``: one of its own
    :param normalize_images: see :class:`ObservationScale`
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        make_extractor: Callable[[spaces.Space], BaseFeaturesExtractor],
        scale: ObservationScale | None = None,
        normalize_images: bool = True,
    ):
        extractor = make_extractor(observation_space)
        super().__init__(observation_space, extractor.features_dim)
        self.scale = scale or ObservationScale(observation_space, normalize_images)
        self.extractor = extractor

    def forward(self, observations: PyTorchObs) -> th.Tensor:
        return self.extractor(self.scale(observations))


def normalize_observations_in(policy: ActorCriticPolicy) -> None:
    """Put one :class:`NormalizingExtractor` around each features extractor of a policy; all have one scale.

    No weight changes, and the order of the weights stays. Their names get a part more.

    :raises UsageError: where nothing of the observations can be normalised
    """
    space, normalize_images = policy.observation_space, policy.normalize_images
    scale = ObservationScale(space, normalize_images).to(policy.device)

    def around(extractor: BaseFeaturesExtractor) -> NormalizingExtractor:
        return NormalizingExtractor(space, lambda _: extractor, scale)

    normalizing = {extractor: around(extractor) for extractor in {getattr(policy, name) for name in EXTRACTORS}}
    for name in EXTRACTORS:
        setattr(policy, name, normalizing[getattr(policy, name)])
    policy.features_extractor_kwargs = {
        "make_extractor": partial(policy.features_extractor_class, **policy.features_extractor_kwargs),
        "normalize_images": normalize_images,
    }
    policy.features_extractor_class = NormalizingExtractor


def scale_of(policy: nn.Module) -> ObservationScale | None:
    """What a policy normalises observations by, where it does."""
    # wherever it is: somebody may have put the extractor into another module, such as a DataParallel
    return next((module for module in policy.modules() if isinstance(module, ObservationScale)), None)


def has_scale(state: Mapping[str, th.Tensor]) -> bool:
    """Whether a policy's state dict is of one that normalises observations."""
    return any(name.endswith(".scale.moments.0.count") for name in state)


def weights_behind_scale(policy: nn.Module) -> dict[str, th.Tensor]:
    """The state dict of the policy that takes observations which have been normalised before."""
    renamed = {f"{name}.extractor.": f"{name}." for name in EXTRACTORS}
    state = {}
    for name, value in policy.state_dict().items():
        prefix = next((prefix for prefix in renamed if name.startswith(prefix)), None)
        if prefix is not None:
            state[renamed[prefix] + name.removeprefix(prefix)] = value
        elif not name.startswith(tuple(f"{name}.scale." for name in EXTRACTORS)):
            state[name] = value
    return state
