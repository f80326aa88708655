"""SB3's own tests of A2C, with our classes in A2C's place."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

#: a folder that holds SB3's ``tests``, as its repository and its source distribution have them
FOLDER = os.environ.get("SB3_TESTS")


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER, reason="SB3_TESTS names no folder with a checkout of stable-baselines3")
def test_sb3s_own_tests_of_a2c_pass(tmp_path):
    checkout = Path(FOLDER or "")
    assert (checkout / "tests" / "test_save_load.py").is_file(), f"SB3_TESTS={checkout} holds no tests of SB3's"
    modules = [path for path in sorted((checkout / "tests").glob("test_*.py")) if "A2C" in path.read_text()]
    if find_spec("ale_py") is None:
        # one of the modules, and its processes, import Atari's emulator, which no test of A2C needs
        (tmp_path / "ale_py.py").touch()
    path = [tmp_path, Path(__file__).parent, Path(__file__).parents[1]]
    command = [sys.executable, "-m", "pytest", "-p", "as_a2c", "-p", "no:cacheprovider", "-q"]
    run = subprocess.run(
        [*command, *map(str, modules)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", run.stdout)[-1]) >= 100
