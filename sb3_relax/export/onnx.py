"""Trained policies as ONNX."""

from __future__ import annotations

import logging
import pathlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_relax.export.controller import Controller, traceable
from sb3_relax.files import write_whole
from sb3_relax.optional import require_extra


def to_onnx(
    model: BaseAlgorithm,
    path: str | pathlib.Path,
    vec_normalize: VecNormalize | None = None,
    *,
    probabilities: bool = False,
    value: bool = False,
) -> pathlib.Path:
    """Write the deterministic policy as ONNX. Any batch size; the weights are in the file itself.

    Inputs: ``observation``, or the names of a Dict observation's parts, and then what :class:`Controller` lists:
    ``action_masks``; ``hidden_state``, ``cell_state`` and ``episode_start``. Outputs: ``action``, and what
    :class:`Controller` lists. A part of the observation that has the name of another input or output is
    ``observation_NAME`` here.

    :param model: see :class:`Controller`
    :param path: of the file; its folder is made where it is missing
    :param vec_normalize: see :class:`Controller`
    :param probabilities: see :class:`Controller`
    :param value: see :class:`Controller`
    :return: the path
    :raises ModuleNotFoundError: without the extra ``export``
    :raises TypeError: see :class:`Controller`
    :raises UsageError: see :class:`Controller`

    Example::

        to_onnx(model, "agent.onnx")
        session = onnxruntime.InferenceSession("agent.onnx")
        (action,) = session.run(None, {"observation": observations})
    """
    require_extra("export", "onnx", "onnxscript")
    controller = Controller(model, vec_normalize, probabilities=probabilities, value=value)
    with traceable(controller), without_the_exporters_own_warnings():
        observation, *context = example = controller.example()
        batch = th.export.Dim("batch")
        first = {0: batch}
        shapes: dict[str, Any] = {
            "observation": dict.fromkeys(observation, first) if isinstance(observation, dict) else first
        }
        if context:  # states have their layers first
            shapes["context"] = tuple({1: batch} if tensor.ndim == 3 else first for tensor in context)
        program = th.export.export(controller, example, dynamic_shapes=shapes, strict=False)
        exported = th.onnx.export(
            program,
            (),
            input_names=[*observation_names(controller, observation), *controller.inputs],
            output_names=list(controller.outputs),
            dynamic_shapes=shapes,  # for its name in the file
            dynamo=True,
            verbose=False,
        )
        assert exported is not None  # it is none without dynamo
        content = exported.model_proto.SerializeToString()
    path = pathlib.Path(path)
    write_whole(path, content)
    return path


def observation_names(controller: Controller, observation: Any) -> list[str]:
    """ONNX's inputs that are the observation's: in a file, every input and output needs a name of its own."""
    if not isinstance(observation, dict):
        return ["observation"]
    taken = {*controller.inputs, *controller.outputs}
    return [f"observation_{name}" if name in taken else name for name in observation]


@contextmanager
def without_the_exporters_own_warnings() -> Iterator[None]:
    """Silence what torch says of its exporter, and not of what is exported."""
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")

    def is_relevant(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    registry.addFilter(is_relevant)
    try:
        with warnings.catch_warnings():
            # one part of torch calls another that it will replace
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            # the batch has one name, whichever input it is an axis of
            warnings.filterwarnings("ignore", "# The axis name: batch will not be used")
            # an LSTM keeps a list of its weights beside them
            warnings.filterwarnings("ignore", r"(?s)The tensor attributes .*_flat_weights")
            yield
    finally:
        registry.removeFilter(is_relevant)
