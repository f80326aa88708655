"""One step, the loop, and runs that die."""

import os
import signal
import time
from dataclasses import replace

import pytest
import torch

from sb3_relax.tasks.settings import key
from sb3_relax.tasks.vae import checkpoint
from sb3_relax.tasks.vae.distributed import Worker
from sb3_relax.tasks.vae.evaluate import gradient_log_variance
from sb3_relax.tasks.vae.objective import estimate_gradient
from sb3_relax.tasks.vae.trainer import Config, Trainer
from tests.processes import PROCESSES
from tests.tasks.vae.synthetic import bits

CONFIG = Config("bits", units=8)


def endless(path, config):
    """A run that only a signal ends."""
    torch.set_num_threads(1)
    Trainer(config, bits(binarised=config.binarisation == "fixed")).train(10**9, 5, path)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same(a, b):
    """Bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def state(trainer):
    return {
        "model": dict(trainer.model.state_dict()),
        "estimators": dict(trainer.estimators.state_dict()),
        "optimizer": trainer.optimizer.state_dict(),
        "shift": trainer.shift,
        "elbo_sum": trainer.elbo_sum,
        "generator": trainer._generator.get_state(),
        "next batch": trainer.batch(trainer.iteration),
        "history": [replace(e, seconds=0.0) for e in trainer.history],
    }


@pytest.mark.parametrize(
    ("model", "estimator", "binarisation"), [("linear2", "relax", "fixed"), ("linear1", "nvil", "dynamic")]
)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, model, estimator, binarisation):
    path = tmp_path / "checkpoint.pt"
    config = replace(CONFIG, model=model, estimator=estimator, binarisation=binarisation)
    child = PROCESSES.Process(target=endless, args=(path, config))
    child.start()
    try:
        deadline = time.monotonic() + 120
        while not path.exists() or checkpoint.load(path)["iteration"] < 20:
            assert time.monotonic() < deadline
            assert child.is_alive()
            time.sleep(0.05)
        time.sleep(0.037)
    finally:
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL

    data = bits(binarised=binarisation == "fixed")
    resumed = Trainer(config, data)
    resumed.load(path)
    stopped_at = resumed.iteration
    assert stopped_at >= 20
    resumed.train(stopped_at + 12, 5, path)
    whole = Trainer(config, data)
    whole.train(stopped_at + 12, 5)
    for name, value in state(whole).items():
        assert same(value, state(resumed)[name]), name
    # teeth: one further step, and nothing of this is the same
    whole.step()
    assert [name for name, v in state(whole).items() if same(v, state(resumed)[name])] == ["history"]


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    """Between evaluations, at one, and before the first: their history too is that of the run that never stopped."""
    path = tmp_path / "checkpoint.pt"
    for last in (0, 3, 5, 8, 9):
        run = Trainer(CONFIG, bits())
        if path.exists():
            run.load(path)
        run.train(12, 5, path, stop=lambda run=run, last=last: run.iteration >= last)
        assert (run.iteration, checkpoint.load(path)["iteration"]) == (last, last)
    assert [e.iteration for e in run.history] == [0, 5]
    resumed, whole = Trainer(CONFIG, bits()), Trainer(CONFIG, bits())
    resumed.load(path)
    resumed.train(12, 5, path)
    whole.train(12, 5)
    for name, value in state(whole).items():
        assert same(value, state(resumed)[name]), name
    assert [e.iteration for e in resumed.history] == [0, 5, 10, 12]


def test_a_checkpoint_without_the_sum_was_written_at_an_evaluation(tmp_path):
    path = tmp_path / "checkpoint.pt"
    Trainer(CONFIG, bits()).train(5, 5, path)
    old = checkpoint.load(path)
    del old["elbo_sum"]
    checkpoint.save(path, old)
    resumed, whole = Trainer(CONFIG, bits()), Trainer(CONFIG, bits())
    resumed.load(path)
    resumed.train(10, 5)
    whole.train(10, 5)
    assert same(state(whole)["history"], state(resumed)["history"])


def test_a_write_that_dies_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    trainer = Trainer(CONFIG, bits())
    trainer.train(5, 5, path)

    def half(state, file):
        file.write(b"PK\x03\x04 half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(10, 5, path)
    assert checkpoint.load(path)["iteration"] == 5


def test_damaged_and_foreign_checkpoints(tmp_path):
    path = tmp_path / "checkpoint.pt"
    Trainer(CONFIG, bits()).train(2, 5, path)
    with pytest.raises(ValueError, match=r"estimator relax \(now rebar\), seed 0 \(now 1\); use the same, or another"):
        Trainer(replace(CONFIG, estimator="rebar", seed=1), bits()).load(path)
    with pytest.raises(ValueError, match=r"processes 1 \(now 2\)"):
        Trainer(CONFIG, bits(), worker=Worker(0, 2)).load(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint.pt is damaged .* delete it to start anew"):
        Trainer(CONFIG, bits()).load(path)
    for content in (b"hello", b"", b"\x80\x02}q\x00."):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"no checkpoint.*; delete it to start anew"):
            Trainer(CONFIG, bits()).load(path)
    torch.save([1], path)
    with pytest.raises(ValueError, match="no checkpoint of a run"):
        Trainer(CONFIG, bits()).load(path)


def test_every_epoch_sees_every_example_once():
    trainer = Trainer(replace(CONFIG, batch_size=20), bits())
    rows = torch.arange(200.0).unsqueeze(1).expand(-1, 12)
    trainer.train_x = rows
    epochs = [torch.cat([trainer.batch(10 * e + i)[:, 0] for i in range(10)]) for e in range(2)]
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(200.0))
    assert not torch.equal(*epochs)
    # two processes: halves of the same batch
    halves = [Trainer(replace(CONFIG, batch_size=20), bits(), worker=Worker(r, 2)) for r in range(2)]
    for half in halves:
        half.train_x = rows
    assert torch.equal(torch.cat([half.batch(13) for half in halves]), trainer.batch(13))


def test_step_climbs_the_estimate_and_descends_eq6():
    """One Adam step from zero moments is the sign of the gradient: uphill for the model, downhill for φ."""
    trainer = Trainer(replace(CONFIG, weight_decay=0.0, learning_rate=1e-4), bits())
    names = [*trainer.model.named_parameters(), *trainer.estimators.named_parameters()]
    before = [p.detach().clone() for _, p in names]
    x = trainer.batch(0)
    generator = torch.Generator().manual_seed(key("noise", 0, 0, 0))
    estimate = estimate_gradient(trainer.model, trainer.estimators, x, generator, trainer.shift)
    estimate.backward()
    gradients = [p.grad.clone() for _, p in names]
    trainer.step()
    count = len(list(trainer.model.parameters()))
    assert any(g.abs().max() > 0 for g in gradients[count:])
    for i, ((name, parameter), old, gradient) in enumerate(zip(names, before, gradients, strict=True)):
        sign = 1 if i < count else -1
        moved = gradient.abs() > 1e-5
        assert torch.equal((parameter - old)[moved].sign(), sign * gradient[moved].sign()), name


@pytest.mark.parametrize("estimator", ["relax", "relax_free", "concrete", "reinforce", "rodeo"])
def test_training_raises_the_elbo(estimator):
    trainer = Trainer(replace(CONFIG, estimator=estimator, learning_rate=5e-3), bits())
    trainer.train(300, 300)
    first, last = trainer.history
    assert (first.iteration, last.iteration) == (0, 300)
    assert last.train_elbo > first.train_elbo + 0.5
    assert first.train_elbo - 1 < last.running_elbo < last.train_elbo + 3


def test_gradient_log_variance():
    """Against the plain formula; and it leaves no trace in the run."""
    trainer = Trainer(replace(CONFIG, estimator="nvil"), bits())
    trainer.train(3, 3)
    x, before = trainer.train_x[:5], state(trainer)
    ours = gradient_log_variance(
        trainer.model, trainer.estimators, x, trainer.shift, 7, torch.Generator().manual_seed(1)
    )
    assert same(before, state(trainer))
    statistics = {k: v.clone() for k, v in trainer.estimators.state_dict().items()}
    generator, gradients = torch.Generator().manual_seed(1), []
    for _ in range(7):
        trainer.optimizer.zero_grad()
        trainer.estimators.load_state_dict(statistics)  # nothing learned of this minibatch
        estimate_gradient(trainer.model, trainer.estimators, x, generator, trainer.shift).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.encoders.parameters()]))
        trainer.optimizer.zero_grad()
    assert not same(statistics, dict(trainer.estimators.state_dict()))  # they would learn
    assert ours == pytest.approx(torch.stack(gradients).double().var(0).sum().log().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 201}, "200 training examples: too few for a batch"),
        ({"learning_rate": 0.0}, "learning_rate must be positive; got 0.0"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive; got inf"),
        ({"beta2": 1.0}, r"^beta2 must be in \[0, 1\); got 1.0$"),
        ({"weight_decay": -1.0}, "^weight_decay must not be negative; got -1.0$"),
        ({"seed": -1}, "^seed must not be negative; got -1$"),
        ({"model": "linear2", "estimator": "vimco"}, "use a model of one layer"),
        ({"estimator": "rebarr"}, "there are concrete, concrete_bits, nvil"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        Trainer(replace(CONFIG, **changes), bits())


def test_a_batch_is_shared_evenly_or_not_at_all():
    with pytest.raises(ValueError, match="a batch of 24 cannot be shared by 5 processes evenly"):
        Trainer(CONFIG, bits(), worker=Worker(0, 5))
