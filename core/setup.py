"""What setup.cfg cannot say: which files of the tree above are the core's."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

TREE = Path(__file__).resolve().parent.parent
#: modules of the package itself; the others beside them are for reinforcement learning
OF_THE_PACKAGE = ("__init__", "catalogue")


class OfTheCore(build_py):
    """Leaves out the modules of ``sb3_relax`` that the estimators do not need."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """(package, module, file) of each module that is built."""
        modules = super().find_package_modules(package, package_dir)
        return [entry for entry in modules if package != "sb3_relax" or entry[1] in OF_THE_PACKAGE]


setup(
    version=(TREE / "sb3_relax" / "version.txt").read_text().strip(),
    package_dir={"": ".."},
    packages=["sb3_relax", *find_packages(str(TREE), include=["sb3_relax.estimators*"])],
    package_data={"sb3_relax": ["py.typed", "version.txt"]},
    cmdclass={"build_py": OfTheCore},
)
