"""What is published: whole, alone, and of use where it is installed."""

import configparser
import io
import re
import sys
import tarfile

import pytest

import sb3_relax
from sb3_relax import catalogue
from scripts.dist import Broken, check_core_wheel, check_sdist, check_wheel, required_files
from tests.scripts.command import ROOT, script

OF_INSTALLER = {"sb3_relax-0.1.0.dist-info/METADATA", "sb3_relax-0.1.0.dist-info/RECORD"}


def test_a_wheel_is_the_package_and_nothing_else():
    files = required_files()
    assert {"sb3_relax/algorithm/a2c.py", "sb3_relax/py.typed", "sb3_relax/version.txt"} < files
    assert {"sb3_relax/zoo_hyperparams/relaxa2c.yml", "sb3_relax/zoo_hyperparams/a2c.yml"} < files
    check_wheel(files | OF_INSTALLER)
    # as setuptools writes it where the link was not followed
    with pytest.raises(Broken, match=r"missing in the wheel: .*sb3_relax/zoo_hyperparams/relaxa2c\.yml"):
        check_wheel({file for file in files if not file.endswith(".yml")} | {"sb3_relax/zoo_hyperparams/"})
    with pytest.raises(Broken, match=r"missing in the wheel: sb3_relax/py\.typed$"):
        check_wheel(files - {"sb3_relax/py.typed"})
    with pytest.raises(Broken, match="does not belong in the wheel: scripts, tests"):
        check_wheel(files | OF_INSTALLER | {"tests/__init__.py", "scripts/records.py"})


def test_the_cores_wheel_is_the_estimators_and_what_their_import_needs():
    files = {name for name in required_files() if name.startswith("sb3_relax/estimators/")}
    files |= {f"sb3_relax/{name}" for name in ("__init__.py", "catalogue.py", "py.typed", "version.txt")}
    check_core_wheel(files | {"sb3_relax_core-0.1.0.dist-info/METADATA"})
    with pytest.raises(Broken, match=r"missing in the core's wheel: sb3_relax/estimators/base\.py$"):
        check_core_wheel(files - {"sb3_relax/estimators/base.py"})
    with pytest.raises(Broken, match=r"does not belong in the core's wheel: sb3_relax/callbacks\.py$"):
        check_core_wheel(files | {"sb3_relax/callbacks.py"})


def test_the_core_says_where_the_algorithms_are(monkeypatch):
    monkeypatch.setitem(sys.modules, "sb3_relax.relaxa2c", None)  # as where it is not installed
    with pytest.raises(ModuleNotFoundError, match=r"RELAXA2C is not in sb3_relax_core.*pip install sb3_relax"):
        catalogue.load("RELAXA2C")
    # what is missing may be something else
    monkeypatch.setitem(
        catalogue.CATALOGUE, "MaskableRELAXA2C", catalogue.CATALOGUE["MaskableRELAXA2C"]._replace(module="no_such.part")
    )
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such'"):
        catalogue.load("MaskableRELAXA2C")


def test_an_sdist_has_no_links(tmp_path):
    def archive(*links):
        with tarfile.open(tmp_path / "some.tar.gz", "w:gz") as made:
            made.addfile(tarfile.TarInfo("sb3_relax/py.typed"), io.BytesIO())
            for name in links:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, "../zoo_hyperparams"
                made.addfile(link)
        return tmp_path / "some.tar.gz"

    check_sdist(archive())
    with pytest.raises(Broken, match="links in the sdist: sb3_relax/zoo_hyperparams"):
        check_sdist(archive("sb3_relax/zoo_hyperparams"))


def test_pypis_page_needs_nothing_of_the_repository():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    text = settings["metadata"]["long_description"]
    assert not text.startswith("file:")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert all(link.startswith("https://") for link in links)
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    exec(example.replace("100_000", "100"), {})


@pytest.mark.slow
def test_what_is_built_works_where_it_is_installed(tmp_path):
    for package in ("build", "twine"):
        pytest.importorskip(package)
    done = script("dist", "--output", tmp_path / "dist")
    assert "all work: " in done.stdout
    version = sb3_relax.__version__
    built = {f"sb3_relax-{version}.tar.gz"}
    built |= {f"{name}-{version}-py3-none-any.whl" for name in ("sb3_relax", "sb3_relax_core")}
    assert {path.name for path in (tmp_path / "dist").iterdir()} == built
