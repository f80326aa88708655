"""Train briefly, open tensorboard in a headless Chromium, and save a picture of its "Custom Scalars" tab.

    python -m scripts.docs.tensorboard_screenshot [--output results]

Needs tensorboard and, not as a Python dependency, Chromium with its driver (Debian: chromium, chromium-driver).
Without them it says so and ends with status 0.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_relax import RELAXA2C
from sb3_relax.callbacks import LAYOUT, GradientVarianceCallback, TensorboardLayoutCallback
from scripts.records import add_output, provenance, write_record
from scripts.run.entries import model_arguments
from scripts.run.rl import hyperparams_of

ENV = "CartPole-v1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def call(url: str, body: dict[str, Any] | None = None) -> Any:
    """One JSON request: POST where there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def until(condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    """:raises TimeoutError: where it does not come true"""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except (urllib.error.URLError, ConnectionError, KeyError):
            pass
        time.sleep(0.5)
    raise TimeoutError(f"{what} within {seconds:g} s")


@contextmanager
def running(*command: str, cwd: Path | None = None) -> Iterator[None]:
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


class Browser:
    """A headless Chromium by the W3C WebDriver protocol, which is plain JSON over HTTP."""

    def __init__(self, driver: str, width: int, height: int):
        options = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"]
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": {"args": options}}}
        session = call(f"{driver}/session", {"capabilities": capabilities})["value"]
        self.url = f"{driver}/session/{session['sessionId']}"

    def open(self, address: str) -> None:
        call(f"{self.url}/url", {"url": address})

    def run(self, script: str) -> Any:
        """The value of a script in the page."""
        return call(f"{self.url}/execute/sync", {"script": script, "args": []})["value"]

    def screenshot(self) -> bytes:
        return base64.b64decode(call(f"{self.url}/screenshot")["value"])

    def close(self) -> None:
        urllib.request.urlopen(urllib.request.Request(self.url, method="DELETE"), timeout=60).close()


#: All text of the page, through its shadow roots.
TEXT = """
const walk = (node) => (node.nodeType === 3 ? node.textContent : "") +
  (node.shadowRoot ? walk(node.shadowRoot) : "") + [...node.childNodes].map(walk).join(" ");
return walk(document.body);
"""

#: Number of lines drawn in charts, through shadow roots.
LINES = """
const find = (node) => [...(node.querySelectorAll ? node.querySelectorAll("path, canvas") : [])].length +
  [...(node.querySelectorAll ? node.querySelectorAll("*") : [])].map((n) => n.shadowRoot ? find(n.shadowRoot) : 0)
    .reduce((a, b) => a + b, 0);
return find(document);
"""


def train(folder: Path, steps: int) -> None:
    th.set_num_threads(1)
    _, hyperparams = hyperparams_of(ENV, {"zoo": "relaxa2c"})
    model = RELAXA2C(
        hyperparams["policy"],
        make_vec_env(ENV, n_envs=hyperparams["n_envs"], seed=0),
        seed=0,
        tensorboard_log=str(folder),
        device="cpu",
        **model_arguments(hyperparams),
    )
    measuring = GradientVarianceCallback(make_vec_env(ENV, n_envs=hyperparams["n_envs"]), every=10, n_rollouts=20)
    model.learn(steps, callback=[TensorboardLayoutCallback(hparams={"env": ENV}), measuring], log_interval=2)


def photograph(logdir: Path, output: Path) -> None:
    """The first tab, once its categories and charts are there.

    :raises TimeoutError: where tensorboard does not show them
    """
    port, driver_port = free_port(), free_port()
    tensorboard = (sys.executable, "-m", "tensorboard.main", "--logdir", logdir.name, "--port", str(port))
    driver, page = f"http://127.0.0.1:{driver_port}", f"http://127.0.0.1:{port}"
    # by a relative path, since the page shows it
    at_localhost = running(*tensorboard, "--host", "127.0.0.1", cwd=logdir.parent)
    with at_localhost, running("chromedriver", f"--port={driver_port}"):
        until(lambda: call(f"{driver}/status")["value"]["ready"], "chromedriver is not ready")
        until(lambda: bool(call(f"{page}/data/runs")), "tensorboard does not list a run")
        browser = Browser(driver, 1400, 1000)
        try:
            browser.open(f"{page}/#custom_scalars")
            until(lambda: all(title in browser.run(TEXT) for title in LAYOUT), "the layout's categories are not shown")
            first = next(iter(LAYOUT.values()))
            until(
                lambda: all(title in browser.run(TEXT) for title in first), "the first category's charts are not shown"
            )
            until(lambda: browser.run(LINES) > 3, "no lines are drawn")
            time.sleep(3)  # charts are drawn with a transition
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_bytes(browser.screenshot())
        finally:
            browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output(parser, "tensorboard/custom_scalars.png")
    parser.add_argument("--timesteps", type=int, default=40_000)
    arguments = parser.parse_args()
    missing = [name for name in ("chromedriver", "chromium") if shutil.which(name) is None]
    if missing:
        print(f"skipped: {' and '.join(missing)} not found (Debian: apt-get install chromium chromium-driver)")
        return
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder) / "logs", arguments.timesteps)
        picture = arguments.output / "tensorboard" / "custom_scalars.png"
        photograph(Path(folder) / "logs", picture)
    write_record(picture.with_suffix(".json"), {"env": ENV, "timesteps": arguments.timesteps, **provenance()})
    print(picture)


if __name__ == "__main__":
    main()
