"""The notebooks-as-scripts run, in small."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.processes import PROCESSES

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"

#: script → (sizes to make smaller, what it prints, what it writes)
CASES = {
    "drop_in": (
        {"20_000": "1_000", "2_000": "200"},
        ["A2C's after 256 steps", "gradient variance with"],
        ["drop_in.zip"],
    ),
    "hybrid_actions": (
        {"20_000": "1_000"},
        ["return, of 20", "'bin': ", "gradient variance with", "unbiased: True"],
        [],
    ),
    "own_control_variate": ({"learn(20_000)": "learn(1_000)"}, ["share of ĉ", "bias: ", "bias of the mistake: "], []),
    "own_estimator": ({"n=20_000": "n=200"}, ["three bits", "unbiased: True", "unbiased: False"], []),
    "own_latent": (
        {"100_000": "20_000", "range(1_000)": "range(20)", "n=20_000": "n=200"},
        [
            "taken by: reinforce, nvil, vimco, rloo",
            "the mistaken one is off by",
            "LAX takes ReparameterisedLatent; got Poisson",
        ],
        [],
    ),
    "single_file": ({"100_000": "1_000"}, ["mean return of the last 100"], []),
    "variance_diagnosis": ({}, ["variance of the policy gradient"], ["variance_diagnosis.png"]),
}


def test_every_example_is_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(CASES)


def run_here(folder):
    """The example as the main module of this process, with what it prints in a file."""
    torch.set_num_threads(1)
    os.chdir(folder)
    sys.argv = ["example.py"]
    with open("printed", "w") as sys.stdout:
        runpy.run_path("example.py", run_name="__main__")


def in_a_prepared_process(folder):
    """In a process that need not import torch again: what it printed."""
    child = PROCESSES.Process(target=run_here, args=(folder,))
    child.start()
    child.join()
    assert child.exitcode == 0  # its traceback is on stderr
    return (folder / "printed").read_text()


def in_a_process(folder):
    """As a user runs it: what it printed."""
    command, environment = [sys.executable, "example.py"], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", CASES)
def test_example(name, tmp_path):
    pytest.importorskip("matplotlib")
    sizes, prints, writes = CASES[name]
    text = (EXAMPLES / f"{name}.py").read_text()
    for size, smaller in sizes.items():
        assert size in text
        text = text.replace(size, smaller)
    (tmp_path / "example.py").write_text(text)
    printed = in_a_process(tmp_path) if name == "drop_in" else in_a_prepared_process(tmp_path)
    for line in prints:
        assert line in printed
    for file in writes:
        assert (tmp_path / file).exists()
