"""Build what is published, and show that it works where it is installed.

    python -m scripts.dist [--output dist]

The sdist is built from this checkout and the wheel from the sdist. Both are looked into, the wheel is installed in an
environment of its own, and the package is used there: it trains, it has its files, and its command runs. That
environment borrows all dependencies from the one this is run in, so nothing but the package is installed twice.

So is the wheel of the estimators alone (core/). Its environment has torch, and nothing that torch does not need.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

from scripts.records import ROOT

#: what is used of the package where it is installed; its folder must be in the first argument, its version the second
SMOKE_TEST = """
import sys
from pathlib import Path

import sb3_relax
from sb3_relax import RELAXA2C
from sb3_relax.zoo.hyperparams import hyperparams_file, read_entries

home = Path(sb3_relax.__file__).resolve().parent
assert home.is_relative_to(Path(sys.argv[1]).resolve()), f"another sb3_relax was imported: {home}"
assert sb3_relax.__version__ == sys.argv[2], sb3_relax.__version__
path = hyperparams_file("relaxa2c")
assert path is not None and path.is_relative_to(home), path
assert "CartPole-v1" in read_entries(path)
model = RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu").learn(200)
assert model.num_timesteps == 200
"""
#: the same of the core: the example of its README runs where there is nothing but torch
CORE_SMOKE_TEST = """
import importlib.util
import sys
from pathlib import Path

for absent in ("stable_baselines3", "gymnasium", "scipy"):
    assert importlib.util.find_spec(absent) is None, absent
exec(sys.argv[1])
import sb3_relax.estimators
from sb3_relax.estimators import ESTIMATORS

assert Path(sb3_relax.__file__).is_relative_to(Path(sys.argv[2]).resolve()), sb3_relax.__file__
assert logits.grad.abs().sum() > 0
try:
    from sb3_relax import RELAXA2C
except ModuleNotFoundError as error:
    assert "pip install sb3_relax" in str(error), error
else:
    raise AssertionError("the core has an algorithm")
"""
CORE = ROOT / "core"


class Broken(Exception):
    """What was built is not what should be published."""


def required_files() -> set[str]:
    """What a wheel must have, by its path there: every module, and the files that are no modules."""
    package = ROOT / "sb3_relax"
    files = {path for path in package.rglob("*.py") if "__pycache__" not in path.parts}
    files |= {package / "py.typed", package / "version.txt"}
    zoo = (ROOT / "zoo_hyperparams").glob("*.yml")
    return {path.relative_to(ROOT).as_posix() for path in files} | {f"sb3_relax/zoo_hyperparams/{p.name}" for p in zoo}


def check_wheel(names: Iterable[str]) -> None:
    """The package, whole, and nothing else.

    :param names: of the files in the wheel
    :raises Broken: saying what is missing, or what does not belong there
    """
    there = {name for name in names if not name.endswith("/")}
    if missing := sorted(required_files() - there):
        raise Broken(f"missing in the wheel: {', '.join(missing)}")
    roots = {name.split("/")[0] for name in there}
    if strange := sorted(root for root in roots if root != "sb3_relax" and not root.endswith(".dist-info")):
        raise Broken(f"does not belong in the wheel: {', '.join(strange)}")


def check_sdist(path: Path) -> None:
    """Files, no links: the folder that zoo_hyperparams links to is not in the sdist.

    :raises Broken: naming the links
    """
    with tarfile.open(path) as archive:
        links = [member.name for member in archive if member.issym() or member.islnk()]
    if links:
        raise Broken(f"links in the sdist: {', '.join(links)}")


def run(*command: str | Path, cwd: Path) -> None:
    """A command that must succeed, without this checkout on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([str(word) for word in command], check=True, cwd=cwd, env=environment)


def check_installed(wheel: Path, version: str) -> None:
    """Install the wheel in an environment of its own, and use it there.

    :raises subprocess.CalledProcessError: where something does not work
    """
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "environment"
        venv.create(home, with_pip=True)
        python = home / "bin" / "python"
        site = next(home.glob("lib/python*/site-packages"))
        borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (site / "dependencies.pth").write_text("\n".join(borrowed))
        # the borrowed dependencies may hold an sb3_relax of their own, which must not stand for this one
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", wheel, cwd=Path(temporary))
        run(python, "-c", SMOKE_TEST, home, version, cwd=Path(temporary))
        run(home / "bin" / "sb3-relax", "--help", cwd=Path(temporary))


def needed_by(name: str) -> dict[str, Distribution]:
    """An installed distribution and all that it needs, by name; extras and other platforms left out."""
    found: dict[str, Distribution] = {}
    asked = [name]
    while asked:
        name = asked.pop()
        if name not in found:
            found[name] = distribution(name)
            needed = map(Requirement, found[name].requires or [])
            asked += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def check_core_installed(wheel: Path) -> None:
    """Install the core's wheel in an environment that has torch and what torch needs, and run its README's example.

    :raises subprocess.CalledProcessError: where something does not work
    """
    (example,) = re.findall(r"^```python\n(.*?)^```", (CORE / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "environment"
        venv.create(home, with_pip=False)
        site = next(home.glob("lib/python*/site-packages"))
        for each in (*needed_by("torch").values(), *needed_by("numpy").values()):
            for top in {file.parts[0] for file in each.files or [] if file.parts[0] != ".."}:
                if not (site / top).exists():
                    (site / top).symlink_to(each.locate_file(top))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)  # as pip does with a wheel that is Python alone
        run(home / "bin" / "python", "-c", CORE_SMOKE_TEST, example, home, cwd=Path(temporary))


def check_core_wheel(names: Iterable[str]) -> None:
    """The estimators whole, and of the rest what their import needs.

    :raises Broken: saying what is missing, or what does not belong there
    """
    there = {name for name in names if ".dist-info/" not in name}
    beside = {f"sb3_relax/{name}" for name in ("__init__.py", "catalogue.py", "py.typed", "version.txt")}
    required = beside | {name for name in required_files() if name.startswith("sb3_relax/estimators/")}
    if missing := sorted(required - there):
        raise Broken(f"missing in the core's wheel: {', '.join(missing)}")
    if strange := sorted(there - required):
        raise Broken(f"does not belong in the core's wheel: {', '.join(strange)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder, emptied first; default: dist")
    output: Path = parser.parse_args().output.resolve()

    shutil.rmtree(output, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", output, ROOT, cwd=ROOT)
    version = (ROOT / "sb3_relax" / "version.txt").read_text().strip()
    wheel, sdist = output / f"sb3_relax-{version}-py3-none-any.whl", output / f"sb3_relax-{version}.tar.gz"
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, cwd=ROOT)
    check_sdist(sdist)
    with zipfile.ZipFile(wheel) as archive:
        check_wheel(archive.namelist())
    check_installed(wheel, version)

    shutil.rmtree(CORE / "build", ignore_errors=True)  # setuptools would take up what an earlier version had
    run(sys.executable, "-m", "build", "--wheel", "--outdir", output, CORE, cwd=ROOT)
    core = output / f"sb3_relax_core-{version}-py3-none-any.whl"
    run(sys.executable, "-m", "twine", "check", "--strict", core, cwd=ROOT)
    with zipfile.ZipFile(core) as archive:
        check_core_wheel(archive.namelist())
    check_core_installed(core)
    print(f"all work: {wheel.name}, {sdist.name}, {core.name}")


if __name__ == "__main__":
    main()
