"""Trained policies as ONNX and TorchScript: SB3's export guide, with what predict() does before and after the network.

``pip install sb3_relax[export]`` for ONNX.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_relax.optional import require_extra
from sb3_relax.policy_gradient.unchecked_distributions import unchecked_distributions

#: an observation, or the parts of a Dict observation by name
Observation = th.Tensor | dict[str, th.Tensor]


class Controller(nn.Module):
    """Observation → action: ``model.predict(observation, deterministic=True)`` as a module of torch operations alone.

    Images are divided by 255 and discrete observations one-hot encoded by the policy; Box actions are clipped to their
    bounds, or brought back from [-1, 1] where the policy squashes them, as in ``predict``. Actions of several parts
    stay flat: ``model.action_space.unflatten`` takes them. The policy is the model's own, on its device, and is put
    into evaluation mode, as by ``predict``.

    :param model: a trained LAXA2C or RELAXA2C; any SB3 algorithm with an ``ActorCriticPolicy`` will do
    :param vec_normalize: the environment's statistics, where it was trained with ``VecNormalize``. The controller then
        takes observations as the environment gives them
    :raises TypeError: for another policy: a recurrent one has a state, a maskable one needs masks

    Example::

        action = Controller(model)(torch.zeros(1, 4))  # [N, *observation shape] → [N, *action shape]
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(self, model: BaseAlgorithm, vec_normalize: VecNormalize | None = None):
        super().__init__()
        policy = model.policy
        if not isinstance(policy, ActorCriticPolicy) or hasattr(policy, "lstm_actor"):
            raise TypeError(
                "only an ActorCriticPolicy without recurrence or action masks can be exported; "
                f"got {type(policy).__name__}"
            )
        self.policy = policy
        self.normalizer = None if vec_normalize is None else Normalizer(vec_normalize)
        self.action_shape = policy.action_space.shape or ()
        self.bounded = isinstance(policy.action_space, spaces.Box)
        if isinstance(policy.action_space, spaces.Box):
            self.register_buffer("low", th.as_tensor(policy.action_space.low))
            self.register_buffer("high", th.as_tensor(policy.action_space.high))
        self.to(model.device).eval()

    def forward(self, observation: Observation) -> th.Tensor:
        """``[N, *observation shape]`` → ``[N, *action shape]``; images channel-first, as the policy takes them."""
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        action = self.policy._predict(observation, deterministic=True).reshape(-1, *self.action_shape)
        if not self.bounded:
            return action
        if self.policy.squash_output:
            return self.low + 0.5 * (action + 1.0) * (self.high - self.low)
        return th.minimum(th.maximum(action, self.low), self.high)


class Normalizer(nn.Module):
    """``VecNormalize.normalize_obs`` with its statistics as they are now: clip((x - mean) / sqrt(var + ε)).

    :param vec_normalize: with or without ``norm_obs``; of a Dict observation, the parts in ``norm_obs_keys``
    """

    def __init__(self, vec_normalize: VecNormalize):
        super().__init__()
        self.clip = float(vec_normalize.clip_obs)
        self.names: list[str] = []
        if not vec_normalize.norm_obs:
            return
        statistics = vec_normalize.obs_rms
        for name, rms in (statistics if isinstance(statistics, dict) else {"": statistics}).items():
            self.names.append(name)
            self.register_buffer(f"mean_{name}", th.as_tensor(rms.mean, dtype=th.float32))
            std = np.sqrt(rms.var + vec_normalize.epsilon)
            self.register_buffer(f"std_{name}", th.as_tensor(std, dtype=th.float32))

    def forward(self, observation: Observation) -> Observation:
        if isinstance(observation, dict):
            return {name: self._normalize(name, x) if name in self.names else x for name, x in observation.items()}
        return self._normalize("", observation) if self.names else observation

    def _normalize(self, name: str, observation: th.Tensor) -> th.Tensor:
        mean, std = getattr(self, f"mean_{name}"), getattr(self, f"std_{name}")
        return ((observation - mean) / std).clamp(-self.clip, self.clip)


def example_observation(policy: ActorCriticPolicy) -> Observation:
    """Two observations in the types that the exported controller takes.

    :param policy: whose observation space is sampled
    """
    space = policy.observation_space
    batch = [space.sample() for _ in range(2)]
    if isinstance(space, spaces.Dict):
        return {name: th.as_tensor(np.stack([x[name] for x in batch]), device=policy.device) for name in space.spaces}
    return th.as_tensor(np.stack(batch), device=policy.device)


def to_torchscript(
    model: BaseAlgorithm, path: str | pathlib.Path, vec_normalize: VecNormalize | None = None
) -> pathlib.Path:
    """Write the deterministic policy as TorchScript, for ``torch.jit.load`` and C++. Any batch size.

    :param model: see :class:`Controller`
    :param path: of the file
    :param vec_normalize: see :class:`Controller`
    :return: the path
    :raises TypeError: see :class:`Controller`

    Example::

        to_torchscript(model, "agent.pt")
        action = torch.jit.load("agent.pt")(torch.as_tensor(observations))
    """
    controller = Controller(model, vec_normalize)
    with unchecked_distributions(), th.no_grad():
        traced = th.jit.trace(controller, example_observation(controller.policy))
    th.jit.save(th.jit.freeze(traced), str(path))
    return pathlib.Path(path)


def to_onnx(model: BaseAlgorithm, path: str | pathlib.Path, vec_normalize: VecNormalize | None = None) -> pathlib.Path:
    """Write the deterministic policy as ONNX. Any batch size; the weights are in the file itself.

    Inputs: ``observation``, or the names of a Dict observation's parts. Output: ``action``.

    :param model: see :class:`Controller`
    :param path: of the file
    :param vec_normalize: see :class:`Controller`
    :return: the path
    :raises ModuleNotFoundError: without the extra ``export``
    :raises TypeError: see :class:`Controller`

    Example::

        to_onnx(model, "agent.onnx")
        session = onnxruntime.InferenceSession("agent.onnx")
        (action,) = session.run(None, {"observation": observations})
    """
    require_extra("export", "onnx", "onnxscript")
    controller = Controller(model, vec_normalize)
    example = example_observation(controller.policy)
    batch = th.export.Dim("batch")
    shapes: Any = {name: {0: batch} for name in example} if isinstance(example, dict) else {0: batch}
    with unchecked_distributions(), th.no_grad():
        th.onnx.export(
            controller,
            (),
            str(path),
            kwargs={"observation": example},  # by name: a dict at the end of args would be taken for arguments
            input_names=list(example) if isinstance(example, dict) else ["observation"],
            output_names=["action"],
            dynamic_shapes={"observation": shapes},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return pathlib.Path(path)
