"""The demo, on a small budget and on its own, and with no more than `make demo` installs."""

import configparser
import json
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires

import pytest

from sb3_relax import RELAXA2C
from tests.scripts.command import ROOT, called, script


def test_demo_on_a_small_budget_says_that_it_did_not_get_there(tmp_path):
    done = called("run.demo", "--timesteps", 600, "--output", tmp_path, check=False)
    assert done.returncode == 1
    assert re.search(r"95% interval\) after [\d,]+ steps in \d+ s; threshold 475 NOT reached", done.stdout)
    assert (tmp_path / "learning_curve.png").stat().st_size > 10_000
    assert len(json.loads((tmp_path / "evaluation.json").read_text())["evaluation"]) == 100
    assert RELAXA2C.load(tmp_path / "relaxa2c_cartpole.zip", device="cpu").num_timesteps > 0
    assert list((tmp_path / "tensorboard").glob("*/events*"))


@pytest.mark.slow
def test_demo_reaches_the_threshold(tmp_path):
    done = script("run.demo", "--output", tmp_path)
    assert "threshold 475 reached" in done.stdout


#: what runs the demo as if some modules (the first argument) were not installed
WITHOUT = """
import runpy, sys

missing = set(sys.argv.pop(1).split(","))

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in missing else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
runpy.run_module("scripts.run.demo", run_name="__main__", alter_sys=True)
"""


def of_makefile(variable):
    return re.search(rf"^{variable} :?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]


def installed_with(requirements):
    """The distributions, by their normalised names, that pip installs for some requirements."""
    packaging = pytest.importorskip("packaging.requirements")
    from packaging.utils import canonicalize_name

    found, to_do = set(), [(packaging.Requirement(line), "") for line in requirements]
    while to_do:
        requirement, of_extra = to_do.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": of_extra}):
            continue
        for extra in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), extra)
            if key not in found:
                found.add(key)
                to_do += [(packaging.Requirement(line), extra) for line in requires(requirement.name) or []]
    return {name for name, _ in found}


def test_demo_runs_with_what_make_demo_installs(tmp_path):
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    extras = of_makefile("DEMO_EXTRAS").split(",")
    wanted = [settings["options"]["install_requires"], *(settings["options.extras_require"][extra] for extra in extras)]
    there = installed_with([line for lines in wanted for line in lines.split("\n") if line]) | {"sb3-relax"}
    missing = {
        module
        for module, distributions in packages_distributions().items()
        if not there & {re.sub(r"[-_.]+", "-", name).lower() for name in distributions}
    }
    assert "pytest" in missing
    command = [sys.executable, "-c", WITHOUT, ",".join(missing), "--timesteps", "600", "--output", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert "NOT reached" in done.stdout, done.stderr
    assert (tmp_path / "learning_curve.png").exists()
