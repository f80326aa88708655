"""Records: one JSON file per run, with everything needed to repeat it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

#: the checkout (in an installed package, the folder above it, which is no repository)
ROOT = Path(__file__).resolve().parent.parent.parent


def provenance() -> dict[str, Any]:
    """Commit (with ``+`` where the package or the scripts were changed since), command line and versions."""
    commit = "unknown"
    try:
        git = ["git", "-C", str(ROOT)]
        commit = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], text=True).strip()
        watched = ["sb3_relax", "scripts/*.py", "scripts/protocols", "zoo_hyperparams"]
        if subprocess.check_output([*git, "status", "--porcelain", "--", *watched], text=True).strip():
            commit += "+"
    except (OSError, subprocess.CalledProcessError):
        pass
    packages = ("torch", "numpy", "stable_baselines3", "gymnasium")
    return {
        "commit": commit,
        "argv": [Path(sys.argv[0]).name, *(word.replace(f"{ROOT}/", "") for word in sys.argv[1:])],
        "python": platform.python_version(),
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in packages},
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Atomically: a killed sweep leaves whole records or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(record) + "\n")
    os.replace(partial, path)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All records below a folder, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))]
