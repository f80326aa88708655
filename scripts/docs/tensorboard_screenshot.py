"""Train three agents briefly, open tensorboard in a headless Chromium, and save a picture of "Custom Scalars".

    python -m scripts.docs.tensorboard_screenshot [--output results]

Needs tensorboard and, not as a Python dependency, Chromium (Debian: chromium). Without, it says so and ends with
status 0.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_relax import RELAXA2C
from sb3_relax.callbacks import GradientVarianceCallback
from scripts.records import add_output, provenance, write_record
from scripts.run.entries import model_arguments
from scripts.run.rl import hyperparams_of

ENV = "CartPole-v1"
#: what README says to compare: ĉ(a, s), ĉ(s), and A2C
VARIANTS = ({}, {"cv_action_dependent": False}, {"cv_learning_rate": 0.0})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """Its address, once it lists every run.

    :raises TimeoutError: where it does not within 90 seconds
    """
    port = free_port()
    # by a relative path, since the page shows it
    command = (sys.executable, "-m", "tensorboard.main", "--logdir", logdir.name, "--port", str(port))
    process = subprocess.Popen(command, cwd=logdir.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address, runs, end = f"http://127.0.0.1:{port}", set(), time.monotonic() + 90
    try:
        while runs != {path.name for path in logdir.iterdir()}:
            if time.monotonic() > end:
                raise TimeoutError("tensorboard does not list the runs within 90 s")
            time.sleep(0.5)
            try:
                with urllib.request.urlopen(f"{address}/data/runs", timeout=60) as answer:
                    runs = set(json.loads(answer.read()))
            except (urllib.error.URLError, ConnectionError):
                pass
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def train(folder: Path, steps: int) -> None:
    """Every variant; the first is measured over rollouts as well."""
    th.set_num_threads(1)
    _, hyperparams = hyperparams_of(ENV, {"zoo": "relaxa2c"})
    for variant in VARIANTS:
        model = RELAXA2C(
            hyperparams["policy"],
            make_vec_env(ENV, n_envs=hyperparams["n_envs"], seed=0),
            seed=0,
            tensorboard_log=str(folder),
            device="cpu",
            **model_arguments(hyperparams),
            **variant,
        )
        measuring = None if variant else GradientVarianceCallback(make_vec_env(ENV, n_envs=hyperparams["n_envs"]))
        model.learn(steps, callback=measuring, log_interval=2)


def photograph(logdir: Path, picture: Path) -> None:
    """The tab, thirty seconds of the page's own time after it was opened."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    with tensorboard(logdir) as address:
        options = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000")
        command = ("chromium", *options, "--virtual-time-budget=30000", f"--screenshot={picture}")
        subprocess.run([*command, f"{address}/#custom_scalars"], check=True, capture_output=True, timeout=300)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output(parser, "tensorboard/custom_scalars.png")
    parser.add_argument("--timesteps", type=int, default=40_000)
    arguments = parser.parse_args()
    if shutil.which("chromium") is None:
        print("skipped: chromium not found (Debian: apt-get install chromium)")
        return
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder) / "logs", arguments.timesteps)
        picture = arguments.output / "tensorboard" / "custom_scalars.png"
        photograph(Path(folder) / "logs", picture)
    write_record(picture.with_suffix(".json"), {"env": ENV, "timesteps": arguments.timesteps, **provenance()})
    print(picture)


if __name__ == "__main__":
    main()
