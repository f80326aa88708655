"""Exports say nothing of the exporter's own insides, and still say what may be wrong with a policy."""

import subprocess
import sys

import pytest
import torch as th
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_relax import RELAXA2C
from sb3_relax.export import to_torchscript

AGENTS = """
import sys, warnings
warnings.simplefilter("ignore")  # of the environments' packages
from sb3_relax import MaskableRELAXA2C, RecurrentRELAXA2C, RELAXA2C
from sb3_relax.export import to_onnx, to_torchscript
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
agents = [
    RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu"),
    MaskableRELAXA2C("MlpPolicy", InvalidActionEnvDiscrete(dim=8, n_invalid_actions=4), device="cpu"),
    RecurrentRELAXA2C("MlpLstmPolicy", "CartPole-v1", device="cpu"),
]
warnings.simplefilter("always")
for agent in agents:
    for asked in ({}, {"value": True, "probabilities": True}):
        to_torchscript(agent, sys.argv[1], **asked)
to_onnx(agents[1], sys.argv[1])
to_onnx(agents[2], sys.argv[1], value=True, probabilities=True)
"""


def test_exports_print_nothing(tmp_path):
    pytest.importorskip("sb3_contrib")
    command = [sys.executable, "-c", AGENTS, str(tmp_path / "agent")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


class AsksItsInput(FlattenExtractor):
    """What it does for one observation, a trace does for all."""

    def forward(self, observations):
        return observations if observations.sum() > 0 else -observations


def test_what_may_be_wrong_with_a_policy_is_still_said(tmp_path):
    model = RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu", policy_kwargs={"features_extractor_class": AsksItsInput})
    with pytest.warns(th.jit.TracerWarning, match="Converting a tensor to a Python boolean"):
        to_torchscript(model, tmp_path / "agent")
