"""python -m sb3_relax.tasks.vae, end to end on digits."""

import json
import re
import signal
import subprocess
import sys
import time

import matplotlib.image
import pytest
import torch

from sb3_relax.tasks.vae import checkpoint
from sb3_relax.tasks.vae.__main__ import main, parser
from sb3_relax.tasks.vae.cases import CASES
from sb3_relax.tasks.vae.images import grid


@pytest.fixture(autouse=True)
def _as_it_was():
    """The command sets the number of threads and the treatment of denormals, which other tests must not notice."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """50 iterations, in two goes."""
    folder = tmp_path_factory.mktemp("vae")
    for iterations in ("30", "50"):
        main(["train", "--output", str(folder), "--iterations", iterations, "--every", "20", "--units", "20"])
    return folder


def test_train_writes_curves_and_images(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    for name in ("running_elbo", "train_elbo", "validation_elbo", "gradient_log_variance"):
        steps = [event.step for event in events.Scalars(f"vae/{name}")]
        assert steps == ([20, 30, 40, 50] if name == "running_elbo" else [0, 20, 30, 40, 50])
    assert set(events.Tags()["images"]) == {"samples", "reconstructions"}
    elbos = [event.value for event in events.Scalars("vae/validation_elbo")]
    assert elbos[-1] > elbos[0]


def test_evaluate(trained, capsys):
    main(["evaluate", "--output", str(trained), "--split", "test", "--samples", "20"])
    result = json.loads(capsys.readouterr().out)
    assert result["examples"] == 300
    assert result["elbo"] < result["iwae_20"] < 0
    written = json.loads((trained / "evaluation_test.json").read_text())
    assert (written["dataset"], written["iteration"]) == ("digits", 50)
    main(["evaluate", "--output", str(trained), "--split", "test", "--samples", "20"])
    assert json.loads(capsys.readouterr().out) == result  # fixed noise


def test_sample(trained):
    main(["sample", "--output", str(trained), "--count", "16"])
    # two rows of 8 images of 8 x 8 with a line between, each pixel a square; 32 images of the pairs: four rows
    assert matplotlib.image.imread(trained / "samples.png").shape[:2] == (12 * 17, 12 * 71)
    pairs = matplotlib.image.imread(trained / "reconstructions.png")[..., 0]
    assert pairs.shape == (12 * 35, 12 * 71)
    squares = pairs.reshape(35, 12, 71, 12)
    pairs = squares[:, 0, :, 0]
    assert (squares == pairs[:, None, :, None]).all()
    assert set(pairs[:8, :8].ravel().tolist()) <= {0.0, 1.0}  # x itself
    assert len(set(pairs[:8, 9:17].ravel().tolist())) > 10  # its reconstruction


def test_grid():
    images = torch.arange(12.0).reshape(3, 4) / 12
    sheet = grid(images, (2, 2), 2)
    assert sheet.shape == (5, 5)
    assert torch.equal(sheet[:2, 3:], images[1].reshape(2, 2))
    assert torch.equal(sheet[3:, :2], images[2].reshape(2, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--estimator", "rebarr"], "invalid choice: 'rebarr' (choose from"),
        (["train", "--model", "linear2", "--estimator", "vimco"], "use a model of one layer (linear1, nonlinear)"),
        (["train", "--batch-size", "100000"], "digits has 1297 training examples: too few for a batch"),
        (["train", "--iterations", "0"], "--iterations must be at least 1; got 0"),
        (["train", "--learning-rate", "-1"], "learning_rate must be positive; got -1.0"),
        (["evaluate"], "checkpoint.pt is not there; train first, or name the run's folder with --output"),
        (["train", "--device", "cuda"], "torch sees no CUDA device"),
        (["train", "--device", "foo"], "--device foo: there are cpu, cuda and cuda:N"),
        (["train", "--weight-decay", "-1"], "vae: weight_decay must not be negative; got -1.0\n"),
        (["train", "--dataset", "mnist", "--data-dir", "nowhere"], "name its folder with data_dir (--data-dir) or"),
    ],
)
def test_errors(arguments, message, tmp_path, capsys):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit) as raised:
        main([*arguments, "--output", str(tmp_path / "run")])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "evaluate", "sample"])
def test_the_output_is_a_folder(command, tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SystemExit) as raised:
        main([command, "--output", str(tmp_path / "notes.txt")])
    assert raised.value.code == 2
    assert f"argument --output: {tmp_path / 'notes.txt'} is a file, not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "evaluate", "sample"])
def test_what_the_system_refuses_is_said(command, tmp_path, capsys):
    (tmp_path / "checkpoint.pt").mkdir()
    with pytest.raises(SystemExit) as raised:
        main([command, "--output", str(tmp_path)])
    assert raised.value.code == 2
    message = capsys.readouterr().err
    assert "Is a directory" in message
    assert str(tmp_path / "checkpoint.pt") in message


@pytest.mark.parametrize("command", ["train", "evaluate", "sample"])
def test_help_describes_every_option(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert "(default: vae)" in out
    assert "(default: None)" not in out
    assert all(action.help for action in parser()._subparsers._group_actions[0].choices[command]._actions)
    if command == "train":
        for name, case in CASES.items():
            assert re.search(rf"^  {name} +{re.escape(case.description)}$", out, re.MULTILINE)


def test_another_run_is_not_overwritten(trained, capsys):
    before = (trained / "checkpoint.pt").read_bytes()
    with pytest.raises(SystemExit):
        main(["train", "--output", str(trained), "--units", "20", "--seed", "1"])
    assert "is of a run with seed 0 (now 1)" in capsys.readouterr().err
    assert (trained / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_iteration(number, tmp_path):
    command = [sys.executable, "-m", "sb3_relax.tasks.vae", "train", "--output", str(tmp_path), "--units", "8"]
    child = subprocess.Popen([*command, "--every", "50"], stdout=-1, stderr=-1, text=True)
    path = tmp_path / "checkpoint.pt"
    deadline = time.monotonic() + 120
    while not path.exists() or checkpoint.load(path)["iteration"] == 0:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    stopped_at = checkpoint.load(path)["iteration"]
    assert stopped_at >= 50
    assert err.splitlines()[-1] == f"stopped at iteration {stopped_at}; the same command goes on from there"
    assert "Traceback" not in out + err


def test_an_interrupt_before_training(monkeypatch, tmp_path, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sb3_relax.tasks.vae.__main__.load_dataset", interrupted)
    with pytest.raises(SystemExit) as raised:
        main(["train", "--output", str(tmp_path)])
    assert raised.value.code == 130
    assert capsys.readouterr().err == "python -m sb3_relax.tasks.vae: interrupted\n"


def test_one_process_at_a_time_in_a_folder(tmp_path, capsys):
    code = "import sys, time; from pathlib import Path; from sb3_relax.tasks.process import claim\n"
    code += "with claim(Path(sys.argv[1])): print(flush=True); time.sleep(300)"
    command = ["train", "--output", str(tmp_path), "--iterations", "2", "--units", "8"]
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline()  # it has the folder
        with pytest.raises(SystemExit) as raised:
            main(command)
    finally:
        other.kill()
    assert raised.value.code == 2
    assert f"another process is training in {tmp_path}: wait for it" in capsys.readouterr().err
    assert not (tmp_path / "checkpoint.pt").exists()
    other.wait()
    main(command)  # kill -9 gave the folder back
    assert checkpoint.load(tmp_path / "checkpoint.pt")["iteration"] == 2


def test_the_task_needs_no_sb3():
    code = (
        "import sys\n"
        "for name in ('stable_baselines3', 'gymnasium', 'sb3_contrib'): sys.modules[name] = None\n"
        "import sb3_relax.tasks.vae.__main__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
