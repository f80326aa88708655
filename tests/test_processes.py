"""Commands that are interrupted end in one line, and workers end with what they work for."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sb3_relax.processes import Terminated, status_of, termination_as_interrupt, work_for
from tests.scripts.command import ROOT

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(10)
    raise AssertionError("nothing came")


def test_sigterm_is_an_interrupt_in_the_block_alone():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), termination_as_interrupt() as termination:
        send(signal.SIGTERM)
    assert termination.came
    assert signal.getsignal(signal.SIGTERM) is before
    assert (status_of(Terminated()), status_of(KeyboardInterrupt())) == (143, 130)


@pytest.mark.parametrize("number", STATUS)
def test_the_zoo_and_diagnose_end_in_one_line(number, capsys, monkeypatch):
    diagnose = pytest.importorskip("sb3_relax.diagnose.cli")
    zoo = pytest.importorskip("sb3_relax.zoo.cli")
    monkeypatch.setattr(diagnose, "_check", lambda arguments: send(number))
    monkeypatch.setattr(zoo, "run", lambda name, arguments: send(number))
    for main, arguments, start in (
        (diagnose.main, ["--env", "CartPole-v1"], "pytest: interrupted"),
        (zoo.main, ["train"], "sb3-relax train: interrupted"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments, **({"prog": "pytest"} if main is diagnose.main else {}))
        assert stop.value.code == STATUS[number]
        said = capsys.readouterr().err
        assert said.startswith(start)
        assert said.count("\n") == 1


def test_rl_zoo_saves_after_sigterm_and_the_status_says_so(capsys, monkeypatch):
    """rl_zoo3 takes the interrupt for the end of training."""
    zoo = pytest.importorskip("sb3_relax.zoo.cli")
    saved = []

    def train(name, arguments):
        try:
            send(signal.SIGTERM)
        except KeyboardInterrupt:
            saved.append(name)

    monkeypatch.setattr(zoo, "run", train)
    with pytest.raises(SystemExit) as stop:
        zoo.main(["train"])
    assert (saved, stop.value.code) == (["train"], 143)
    assert capsys.readouterr().err == "sb3-relax train: ended by SIGTERM\n"


@pytest.mark.slow
def test_training_is_saved_on_sigterm(tmp_path):
    command = [sys.executable, "-m", "sb3_relax.zoo", "train", "--algo", "relaxa2c", "--env", "CartPole-v1"]
    command += ["-n", "10000000", "--eval-freq", "-1", "-f", tmp_path]
    train = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in train.stdout:
        if "total_timesteps" in line:
            break
    train.terminate()
    _, said = train.communicate(timeout=120)
    assert train.returncode == 143
    assert said.splitlines()[-1] == "sb3-relax train: ended by SIGTERM"
    assert "Traceback" not in said
    from sb3_relax import RELAXA2C

    assert RELAXA2C.load(tmp_path / "relaxa2c" / "CartPole-v1_1" / "CartPole-v1.zip").num_timesteps > 0


SWEEP = """
import os, sys, time
from pathlib import Path
from scripts.run.sweep import in_parallel, run_command

def job(folder, name):
    (Path(folder) / name).write_text(str(os.getpid()))
    time.sleep(600)

run_command(lambda: in_parallel(job, {name: (sys.argv[1], name) for name in "ab"}, 2, "runs"))
"""


def is_alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{number}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_workers_of_a_sweep_end_with_it(tmp_path, number):
    pytest.importorskip("joblib")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    sweep = subprocess.Popen(
        [sys.executable, "-c", SWEEP, tmp_path],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while len(workers := [path.read_text() for path in tmp_path.iterdir()]) < 2 or not all(workers):
        assert sweep.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(sweep.pid, number)  # as a terminal does
    else:
        sweep.send_signal(number)
    said = sweep.communicate(timeout=120)[1]
    if number != signal.SIGKILL:
        assert sweep.returncode == STATUS[number]
        assert said.splitlines()[-1] == "stopped: the same command goes on from here"
        assert "Traceback" not in said, said
    end = time.monotonic() + 20
    while any(is_alive(int(worker)) for worker in workers):
        assert time.monotonic() < end, "a worker lives on"
        time.sleep(0.1)


def test_a_process_does_not_wait_for_its_own_end():
    before = signal.getsignal(signal.SIGINT)
    work_for(os.getpid())
    assert signal.getsignal(signal.SIGINT) is before
