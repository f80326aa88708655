"""Records: what a run found, in JSON, with everything needed to repeat it, and a digest that tells damage."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sb3_relax.errors import UsageError
from sb3_relax.files import DIGEST, write_whole

#: what a line with a digest ends with
ENDS_WITH_DIGEST = re.compile(rb'"[0-9a-f]{64}"\}\s*$')
#: the folder that the package lies in: a checkout, or where pip installs
HOME = Path(__file__).resolve().parents[2]


def provenance(checkout: Path = HOME) -> dict[str, Any]:
    """Commit (with ``+`` where the code was changed since), command line and versions.

    :param checkout: of the code that runs; a folder that is no checkout has no commit
    """
    return {
        "commit": commit_of(checkout),
        "argv": [own_path(sys.argv[0], checkout), *(word.replace(f"{checkout}/", "") for word in sys.argv[1:])],
        "python": platform.python_version(),
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
        "versions": {name: version(name) for name in ("torch", "numpy", "stable_baselines3", "gymnasium")},
    }


def commit_of(checkout: Path) -> str:
    """Of a git checkout; ``"unknown"`` for any other folder, one inside of another project's checkout included."""
    git = ["git", "-C", str(checkout)]
    try:
        top = subprocess.check_output([*git, "rev-parse", "--show-toplevel"], text=True, stderr=subprocess.DEVNULL)
        if Path(top.strip()).resolve() != checkout.resolve():
            return "unknown"
        commit = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], text=True).strip()
        watched = ["sb3_relax", "scripts/*.py", "scripts/protocols", "zoo_hyperparams"]
        changed = subprocess.check_output([*git, "status", "--porcelain", "--", *watched], text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + "+" if changed else commit


def own_path(program: str, checkout: Path) -> str:
    """The program's path in the checkout; of any other program, the name alone."""
    path = Path(program)
    return str(path.relative_to(checkout)) if path.is_relative_to(checkout) else path.name


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record's file, whole or not at all."""
    write_whole(path, line_of(record).encode())


def read_record(path: Path) -> dict[str, Any]:
    """What :func:`write_record` has written.

    :raises UsageError: where the file was damaged since
    """
    return record_in(path.read_bytes(), str(path))


def line_of(record: dict[str, Any]) -> str:
    """A record as a line of JSON, of which the last field is the digest of the others."""
    fields = {name: value for name, value in record.items() if name != DIGEST}
    return json.dumps({**fields, DIGEST: digest_of(fields)}) + "\n"


def record_in(line: bytes, where: str) -> dict[str, Any]:
    """The record of a line, without its digest. Records of earlier versions have none.

    :param where: the line is, for the error
    :raises UsageError: for a line that was damaged, or is none of a record
    """
    try:
        record = json.loads(line.decode("utf-8"))
        if not isinstance(record, dict):
            raise ValueError("it is no JSON object")
        written = record.pop(DIGEST, None)
        if written is None and ENDS_WITH_DIGEST.search(line):
            raise ValueError("its digest has lost its name")
        if written not in (None, digest_of(record)):
            raise ValueError("its digest is not that of its content")
    except (ValueError, RecursionError) as error:  # of the encoding, or of JSON
        raise UsageError(
            f"{where} is damaged, or holds no record ({' '.join(str(error).split())}): put it back from a copy, or "
            "delete it, and the command that wrote it makes it again"
        ) from error
    return record


def digest_of(record: dict[str, Any]) -> str:
    """SHA-256 of a record as JSON."""
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()
