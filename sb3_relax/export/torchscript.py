"""Trained policies as TorchScript."""

from __future__ import annotations

import pathlib
import warnings

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_relax.export.controller import Controller, traceable
from sb3_relax.files import write_whole


def to_torchscript(
    model: BaseAlgorithm,
    path: str | pathlib.Path,
    vec_normalize: VecNormalize | None = None,
    *,
    probabilities: bool = False,
    value: bool = False,
) -> pathlib.Path:
    """Write the deterministic policy as TorchScript, for ``torch.jit.load`` and C++. Any batch size.

    It is called with the observation (a dict of tensors, for Dict observations), and then with what else
    :func:`to_onnx` names among its inputs, in that order. It gives the action alone, or a tuple of all outputs.

    :param model: see :class:`Controller`
    :param path: of the file; its folder is made where it is missing
    :param vec_normalize: see :class:`Controller`
    :param probabilities: see :class:`Controller`
    :param value: see :class:`Controller`
    :return: the path
    :raises TypeError: see :class:`Controller`
    :raises UsageError: see :class:`Controller`

    Example::

        to_torchscript(model, "agent.pt")
        action = torch.jit.load("agent.pt")(torch.as_tensor(observations))
    """
    controller = Controller(model, vec_normalize, probabilities=probabilities, value=value)
    with traceable(controller), warnings.catch_warnings():
        # torch's, of TorchScript itself
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated")
        # an LSTM compares sizes, and sb3-contrib makes masks of masks, both of which a trace takes as they are
        for module in (r"torch\.nn\.modules\.rnn", r"sb3_contrib\.common\.maskable\.distributions"):
            warnings.filterwarnings("ignore", category=th.jit.TracerWarning, module=module)
        traced = th.jit.trace(controller, controller.example())
        content = th.jit.freeze(traced).save_to_buffer()
    path = pathlib.Path(path)
    write_whole(path, content)
    return path
