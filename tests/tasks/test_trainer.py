"""A run: it goes on from its checkpoint to the last bit, and who looks on changes nothing."""

from functools import partial

import pytest
import torch

from sb3_relax.tasks import trainer
from sb3_relax.tasks.gates.problem import FeatureGates, GatesConfig
from sb3_relax.tasks.guessing.problem import GuessingConfig
from sb3_relax.tasks.memory.problem import Memory, MemoryConfig
from sb3_relax.tasks.renderer.problem import Renderer
from sb3_relax.tasks.trainer import Trainer

pytestmark = pytest.mark.usefixtures("quick")


def run(estimator="relax", **settings):
    return Trainer(MemoryConfig(estimator=estimator, **{"calls": 400, "batch_size": 10, **settings}), Memory)


def falling(estimator="relax"):
    """A run whose learning rate falls, and whose f changes, as it goes on."""
    return Trainer(GuessingConfig(estimator=estimator, calls=400, batch_size=10), Renderer)


def state(run):
    parts = (run.problem.model, run.estimators, run.onlooker)
    return [tensor for part in parts for tensor in part.state_dict().values()]


@pytest.mark.parametrize("made", [run, partial(run, costs="joint"), falling])
def test_a_run_that_was_stopped_is_the_run_that_never_was(tmp_path, made):
    whole = made()
    whole.train()
    path, steps = tmp_path / "checkpoint.pt", 0
    for last in (13, 27, 40):  # between two measurements, and at the end
        part = made()
        if path.exists():
            part.load(path)
        assert part.step == steps
        part.train(path, stop=lambda part=part, last=last: part.step == last)
        steps = last
    assert all(map(torch.equal, state(part), state(whole)))
    assert part.result() == whole.result()


def test_who_looks_on_changes_nothing(monkeypatch):
    runs = []
    for name in ("nvil", "relax"):
        monkeypatch.setattr(trainer, "ONLOOKER", name)
        runs.append(run())
        runs[-1].train()
    assert runs[0].curve == runs[1].curve
    assert all(map(torch.equal, state(runs[0])[:8], state(runs[1])[:8]))


class FallingGates(FeatureGates):
    """Of which θ and φ have learning rates of their own."""

    decays = True


def test_learning_rates_fall_to_0_where_they_fall_each_from_its_own():
    settings = {"dataset": "wine", "calls": 400, "batch_size": 10, "learning_rate": 0.3, "phi_learning_rate": 0.02}
    one, rates, progress = Trainer(GatesConfig(**settings), FallingGates), [], []

    def look():
        rates.append([group["lr"] for optimizer in (one.optimizer, one.onlooking) for group in optimizer.param_groups])
        progress.append(one.problem.progress)

    one.train(on_step=look)
    assert progress == [step / 40 for step in range(40)]
    assert rates == [[rate * (1 - step) for rate in (0.3, 0.02, 0.02)] for step in progress]
    assert one.problem.progress == 1
    constant = run()
    constant.train()
    assert constant.optimizer.param_groups[0]["lr"] == constant.config.learning_rate


def test_measuring_changes_nothing(monkeypatch):
    often = run()
    often.train()
    monkeypatch.setattr(trainer, "PARTS", 1)
    monkeypatch.setattr(trainer, "STATES", {})
    seldom = run()
    seldom.train()
    assert all(map(torch.equal, state(often), state(seldom)))


def test_calls_are_counted():
    for name, steps, calls in (("relax", 40, 400), ("rloo", 20, 400), ("exact", 40, 6400)):
        one = run(name)
        one.train()
        assert (one.steps, one.curve["calls"][-1]) == (steps, calls)
        assert len(one.curve["recall"]) == 5


def test_variance_at_equal_calls():
    """RLOO's is that of its gradient times its two calls; the exact gradient has none."""
    one = run("exact")
    one.train()
    assert one.variances["late"]["own"] < 1e-9 < one.variances["late"]["nvil"]
    two = run("rloo")
    two.train()
    assert two.variances["late"]["own"] == pytest.approx(2 * two._variance(two.estimators))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    one = run()
    one.save(path)
    with pytest.raises(ValueError, match=r"checkpoint.pt is of a run with other settings; delete it to start anew"):
        run(calls=500).load(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint.pt is damaged"):
        run().load(path)


def test_a_checkpoint_of_a_version_with_other_parts_is_refused(tmp_path):
    """θ and φ were one group of the optimizer's once."""
    path = tmp_path / "checkpoint.pt"
    one = run()
    one.optimizer = torch.optim.Adam([*one.problem.model.parameters(), *one.estimators.parameters()])
    one.save(path)
    with pytest.raises(ValueError, match=r"checkpoint.pt is of another version \(loaded .*; delete it to start anew"):
        run().load(path)
    one.problem.model = torch.nn.Linear(1, 1)
    one.save(path)
    with pytest.raises(ValueError, match=r"checkpoint.pt is of another version \(Error.*; delete it to start anew"):
        run().load(path)
