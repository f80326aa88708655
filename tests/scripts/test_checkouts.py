"""Two checkouts that share an environment: each writes where it is run, and says which one it is."""

import configparser
import json
import os
import shutil
import subprocess
import sys

import pytest

from scripts.records import Records
from tests.scripts.command import ROOT, script

PROTOCOL = """
CartPole-v1:
  seeds: [0]
  threshold: 475
  algorithms:
    short: {algorithm: relaxa2c, policy: MlpPolicy, n_timesteps: 64, n_steps: 32}
"""


def git(folder, *arguments):
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    return subprocess.check_output(["git", "-C", str(folder), *who, *arguments], text=True).strip()


@pytest.fixture(scope="module")
def checkouts(tmp_path_factory):
    """Copies of this checkout's code, each a repository with a commit of its own."""
    made = []
    for name in ("first", "second"):
        folder = tmp_path_factory.mktemp("home") / name
        for part in ("sb3_relax", "scripts", "zoo_hyperparams"):
            ignored = shutil.ignore_patterns("__pycache__", "results")
            shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=ignored)
        (folder / ".gitignore").write_text("__pycache__/\n/results/\n")
        git(folder, "init", "--quiet")
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", name)
        made.append(folder)
    return made


def test_each_writes_where_it_is_run_and_says_which_one_it_is(checkouts, tmp_path):
    first, second = checkouts
    (tmp_path / "tiny.yml").write_text(PROTOCOL)
    # the environment is the first one's, as after pip install -e there
    script("run.rl", "--protocol", tmp_path / "tiny.yml", "--jobs", 1, root=first, cwd=second)
    (record,) = Records(second / "results" / "tiny").read()
    assert record["commit"] == git(second, "rev-parse", "--short=12", "HEAD")
    assert record["argv"][0] == "scripts/run/rl.py"
    assert not (first / "results").exists()
    assert git(second, "status", "--porcelain") == git(first, "status", "--porcelain") == ""
    # from elsewhere it is the first one that runs, and the records are written there
    (tmp_path / "elsewhere").mkdir()
    script("run.rl", "--protocol", tmp_path / "tiny.yml", "--jobs", 1, root=first, cwd=tmp_path / "elsewhere")
    (record,) = Records(tmp_path / "elsewhere" / "results" / "tiny").read()
    assert record["commit"] == git(first, "rev-parse", "--short=12", "HEAD")
    assert not (first / "results").exists()


def test_a_changed_checkout_says_so(checkouts):
    _, second = checkouts
    code = "from scripts.records import provenance; print(provenance()['commit'])"
    command = [sys.executable, "-c", code]

    def commit():
        return subprocess.check_output(command, cwd=second, text=True).strip()

    clean = commit()
    (second / "scripts" / "run" / "new.py").write_text("")
    assert commit() == f"{clean}+"
    (second / "scripts" / "run" / "new.py").unlink()
    assert commit() == clean


def test_what_is_installed_inside_of_another_repository_has_no_commit_of_it(checkouts, tmp_path):
    first, _ = checkouts
    site = tmp_path / "project" / "site-packages"
    shutil.copytree(first / "sb3_relax", site / "sb3_relax", symlinks=True)
    git(tmp_path / "project", "init", "--quiet")
    git(tmp_path / "project", "commit", "--quiet", "--allow-empty", "--message", "theirs")
    code = "import json; from sb3_relax.tasks.records import provenance; print(json.dumps(provenance()))"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    told = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True)
    assert json.loads(told)["commit"] == "unknown"


def test_pip_does_not_install_the_scripts():
    setuptools = pytest.importorskip("setuptools")
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    include = settings["options.packages.find"]["include"].split()
    packages = setuptools.find_packages(ROOT, include=include)
    assert "sb3_relax.tasks" in packages
    assert all(package.split(".")[0] == "sb3_relax" for package in packages)
