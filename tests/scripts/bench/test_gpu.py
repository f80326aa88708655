"""The benchmark of a GPU, tried on a CPU."""

import json

import pytest
import torch

from sb3_relax.tasks.vae.trainer import Config
from scripts.bench import gpu
from scripts.bench.vae import random_data
from tests.scripts.command import script

CPU = torch.device("cpu")


class Uniforms:
    """In the place of ``torch.rand``: the n-th draw is the same whoever draws, and all seeds get the same."""

    def __init__(self, seeds=()):
        self.seeds, self.draws = tuple(seeds), 0

    def __call__(self, *sizes, size=None, generator=None, **kwargs):
        size = tuple(size or sizes[0])
        assert size[: len(self.seeds)] == self.seeds
        self.draws += 1
        of_one = torch.empty(size[len(self.seeds) :])
        return of_one.uniform_(generator=torch.Generator().manual_seed(self.draws)).expand(size).to(**kwargs)


@pytest.mark.parametrize("estimator", gpu.ESTIMATORS)
def test_several_seeds_train_as_each_does_alone(monkeypatch, estimator):
    monkeypatch.setattr(torch, "compile", lambda graph: graph)
    config = Config(model="linear1", estimator=estimator, units=5, learning_rate=0.01, phi_rate=3.0)
    several = gpu.SeveralSeeds(config, [3, 8], random_data(), CPU)
    start = several.state["model.prior"].clone()
    with monkeypatch.context() as patched:
        patched.setattr(torch, "rand", Uniforms(seeds=[2]))
        for _ in range(4):
            several.iterate()
    for number, trainer in enumerate(several.trainers):
        with monkeypatch.context() as patched:
            patched.setattr(torch, "rand", Uniforms())
            for _ in range(4):
                trainer.step()
        modules = torch.nn.ModuleDict({"model": trainer.model, "estimators": trainer.estimators})
        for name, tensor in modules.state_dict().items():
            torch.testing.assert_close(several.state[name][number], tensor, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(several.shift[number], trainer.shift, rtol=1e-5, atol=1e-4)
    now = several.state["model.prior"]
    assert not torch.equal(now, start)
    assert not torch.equal(now[0], now[1])


@pytest.mark.slow
def test_the_benchmark_runs_without_a_gpu(tmp_path):
    script(
        *("bench.gpu", "--device", "cpu", "--rounds", 1, "--calls", 2, "--estimators", "nvil"),
        *("--seeds", 2, "--n-steps", 2, "--output", tmp_path),
    )
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["device"] == "cpu"
    assert set(record["vae"][0]["share_of_floor"]) == {"plain", "compiled", "captured, seeds: 1", "captured, seeds: 2"}
    assert record["images"]["waits"] == {"A2C": None, "RELAXA2C": None}
