"""Runs are compared at equal calls of f: what a run counts is what f was given."""

import pytest
import torch

from sb3_relax.tasks.attention.problem import Attention, AttentionConfig, make_attention
from sb3_relax.tasks.gates.problem import FeatureGates, GatesConfig
from sb3_relax.tasks.guessing.problem import GuessingConfig
from sb3_relax.tasks.memory.problem import READS, Memory, MemoryConfig
from sb3_relax.tasks.problem import WITHOUT_EXACT, calls_of
from sb3_relax.tasks.renderer.problem import Renderer
from sb3_relax.tasks.solids import scenes
from sb3_relax.tasks.solids.problem import Solids, SolidsConfig

BATCH = 4


def attention(**settings):
    return make_attention(AttentionConfig(**settings), None, None)


#: name → what makes the problem, its cases, and f's values for one sample of one element
PROBLEMS = {
    "attention": (attention, Attention.cases, 1),
    "attention, two glimpses": (lambda: attention(glimpses=2), WITHOUT_EXACT, 1),
    "memory, each": (lambda: Memory(MemoryConfig()), Memory.cases, READS),
    "memory, joint": (lambda: Memory(MemoryConfig(costs="joint")), WITHOUT_EXACT, 1),
    "gates": (lambda: FeatureGates(GatesConfig(dataset="wine")), FeatureGates.cases, 1),
    "renderer": (lambda: Renderer(GuessingConfig()), Renderer.cases, 1),
    "solids": (lambda: Solids(SolidsConfig()), Solids.cases, 1),
}


@pytest.fixture
def few(monkeypatch):
    """A few solids of each split, which other tests do not get."""
    monkeypatch.setattr(scenes, "COUNTS", {"train": 12, "validation": 6, "test": 6})
    scenes.split_of.cache_clear()
    yield
    scenes.split_of.cache_clear()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("task", "name"), [(task, name) for task, (_, cases, _) in PROBLEMS.items() for name in cases])
def test_calls_are_what_f_is_given(task, name):
    if task == "solids":
        pytest.importorskip("mitsuba")
    make, _, values = PROBLEMS[task]
    problem = make()
    f, given = problem.f, []

    def counted(*arguments):
        value = f(*arguments)
        given.append(value.numel() / values / BATCH)
        return value

    problem.f = counted
    estimators, generator = problem.estimators(name), torch.Generator().manual_seed(0)
    for _ in range(2):
        given.clear()
        problem.estimate(estimators, problem.batch(BATCH, generator), generator).backward()
        assert sum(given) == calls_of(estimators, problem)
