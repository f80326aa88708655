"""Two processes on this machine: what one would have computed."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import distributed as dist
from torch import nn

from sb3_relax.estimators import LogisticBernoulli
from sb3_relax.tasks.vae import checkpoint
from sb3_relax.tasks.vae.__main__ import main
from sb3_relax.tasks.vae.cases import build
from sb3_relax.tasks.vae.distributed import Worker, average, local_device, start
from sb3_relax.tasks.vae.model import DiscreteVAE
from sb3_relax.tasks.vae.objective import LogWeight
from sb3_relax.tasks.vae.trainer import Config, Trainer
from tests.processes import PROCESSES
from tests.tasks.vae.synthetic import bits

ESTIMATORS = ("relax", "nvil", "rloo", "disarm")


def gradients(name, worker):
    """Of this worker's share of a batch of 8, with its share of the batch's noise, averaged over workers."""
    torch.manual_seed(0)
    x = (torch.rand(8, 5) < 0.5).double()
    model = DiscreteVAE(torch.rand(5).double(), units=3)
    estimator = build(name, 1, 3).double()[0]
    for parameter in estimator.parameters():
        if parameter.dim():
            nn.init.normal_(parameter)
    whole = LogisticBernoulli(model.encode(0, x))
    generator = torch.Generator().manual_seed(1)
    b, noise = estimator.draw(whole, generator), estimator.draw_noise(whole, generator)
    share = slice(worker.rank * 8 // worker.processes, (worker.rank + 1) * 8 // worker.processes)
    b, noise = (None if t is None else t[..., share, :] for t in (b, noise))
    f = LogWeight(model, x[share])
    estimator.estimate(f.posterior()[0](), f, b, noise).backward()
    parameters = [p for p in [*model.parameters(), *estimator.parameters()] if p.grad is not None]
    average([p.grad for p in parameters], worker)
    return [p.grad for p in parameters]


def ddp_gradients(worker):
    """φ's gradient by autograd.grad through DistributedDataParallel, and by .backward()."""
    torch.manual_seed(0)
    net = nn.parallel.DistributedDataParallel(nn.Linear(3, 1))
    x = torch.full((2, 3), 1.0 + worker.rank)
    by_grad = torch.autograd.grad(net(x).square().mean(), list(net.parameters()))
    net(x).square().mean().backward()
    by_hand = [g.clone() for g in by_grad]
    average(by_hand, worker)
    return list(by_grad), by_hand, [p.grad for p in net.parameters()]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def in_two_processes(work, port, *arguments):
    """``work(rank, port, *arguments)`` in two processes."""
    torch.multiprocessing.start_processes(work, (port, *arguments), nprocs=2, start_method=PROCESSES.get_start_method())


def join(rank, port):
    """What torchrun tells a process."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def work(rank, port, folder):
    join(rank, port)
    torch.set_num_threads(1)
    worker = start(torch.device("cpu"))
    trainer = Trainer(Config("bits", "linear2", "nvil", units=8), bits(), worker=worker)
    trainer.train(7, 5)
    result = {
        "gradients": {name: gradients(name, worker) for name in ESTIMATORS},
        "ddp": ddp_gradients(worker),
        "trainer": [*trainer.model.state_dict().values(), *trainer.estimators.state_dict().values(), trainer.shift],
    }
    torch.save(result, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    port = free_port()
    in_two_processes(work, port, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_two_halves_are_the_whole(results, name):
    """θ's, p's and φ's gradients of two processes are the single process's, with the same noise."""
    alone = gradients(name, Worker())
    for ours in (results[0]["gradients"][name], results[1]["gradients"][name]):
        assert len(ours) == len(alone)
        for a, b in zip(ours, alone, strict=True):
            assert torch.allclose(a, b, atol=1e-12)
    assert min(g.abs().max() for g in alone) > 0


def test_processes_stay_the_same(results):
    for a, b in zip(results[0]["trainer"], results[1]["trainer"], strict=True):
        assert torch.equal(a, b)
    # and they saw other data than a single process with all of the noise would have
    alone = Trainer(Config("bits", "linear2", "nvil", units=8), bits())
    alone.train(7, 5)
    assert not torch.equal(results[0]["trainer"][0], next(iter(alone.model.state_dict().values())))


def test_ddp_passes_autograd_grad_by(results):
    """Why gradients are averaged by hand: measured, so that the day torch does it we know."""
    (mine, by_hand, by_backward), (theirs, *_) = results[0]["ddp"], results[1]["ddp"]
    for a, b, c, d in zip(mine, theirs, by_hand, by_backward, strict=True):
        assert not torch.allclose(a, b)
        assert torch.allclose(c, d)


def command_line(rank, port, arguments):
    join(rank, port)
    main(arguments)


def test_torchrun(tmp_path):
    """The command line by torchrun: one checkpoint of two processes, and going on from one."""
    train = ["train", "--output", str(tmp_path), "--units", "8", "--every", "4", "--iterations"]
    in_two_processes(command_line, free_port(), [*train, "6"])
    assert checkpoint.load(tmp_path / "checkpoint.pt")["iteration"] == 6
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "sb3_relax.tasks.vae", *train, "10"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["iteration"] == 10
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert (state["iteration"], state["processes"]) == (10, 2)


def test_devices(monkeypatch):
    assert local_device("cpu").type == "cpu"
    for name in ("foo", "cuda:", "cuda:-1", "meta"):
        with pytest.raises(ValueError, match=f"--device {name}: there are cpu, cuda and cuda:N"):
            local_device(name)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch sees no CUDA device; use --device cpu"):
            local_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="--device cuda:2: torch sees 2 CUDA devices, the first cuda:0"):
        local_device("cuda:2")
