"""Exported files, run: the same inputs by name for ONNX and TorchScript, and their outputs by name."""

import numpy as np
import pytest
import torch as th

from sb3_relax.export import Controller, to_onnx, to_torchscript


def onnx_session(path):
    return pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run_onnx(model, path, vec_normalize=None, **asked):
    """Exported, as a function of named inputs."""
    session = onnx_session(to_onnx(model, path, vec_normalize, **asked))
    outputs = [output.name for output in session.get_outputs()]

    def run(observation, **context):
        parts = observation if isinstance(observation, dict) else {"observation": observation}
        return dict(zip(outputs, session.run(None, {**parts, **context}), strict=True))

    return run


def run_torchscript(model, path, vec_normalize=None, **asked):
    """Exported, as a function of named inputs."""
    module = th.jit.load(to_torchscript(model, path, vec_normalize, **asked))
    names = Controller(model, vec_normalize, **asked)

    def run(observation, **context):
        is_dict = isinstance(observation, dict)
        given = {k: th.as_tensor(v) for k, v in observation.items()} if is_dict else th.as_tensor(observation)
        assert {*context} == {*names.inputs}
        outputs = module(given, *(th.as_tensor(context[name]) for name in names.inputs))
        outputs = (outputs,) if isinstance(outputs, th.Tensor) else outputs
        return {name: output.numpy() for name, output in zip(names.outputs, outputs, strict=True)}

    return run


RUNS = [run_onnx, run_torchscript]


def decided(model):
    """The model with actions that differ from state to state, and are no near ties."""
    with th.no_grad():
        model.policy.action_net.weight.normal_(std=3)
        model.policy.action_net.bias.zero_()
        if hasattr(model.policy, "lstm_actor"):  # what comes out of one at first is much the same in all states
            for weight in model.policy.lstm_actor.all_weights[0]:
                weight.mul_(10)
    return model


def seen(arrays):
    """How many different actions there are among those of many steps."""
    return len(np.unique(np.concatenate(arrays), axis=0))
