"""Scripts as commands: in this process, or in one of their own.

A process of its own imports torch and all the rest again, which takes longer than what most tests ask of it. So a test
takes ``called``, unless the process itself is what it is about; each command has one test that takes ``script``.
"""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def script(name, *arguments, check=True, cwd=ROOT, root=ROOT):
    """``python -m scripts.NAME`` of the checkout ``root``, run in ``cwd``."""
    command = [sys.executable, "-m", f"scripts.{name}", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def called(name, *arguments, check=True):
    """``python -m scripts.NAME`` of this checkout in this process: what it printed, and its exit status."""
    said, errors, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [name, *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
            status = status_of(name)
    finally:
        sys.argv = before
        torch.set_flush_denormal(False)  # which runs of the VAE turn on for good
    done = subprocess.CompletedProcess([name, *arguments], status, said.getvalue(), errors.getvalue())
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def status_of(name):
    """Run the module as the main one, and give the exit status that Python would end with."""
    try:
        runpy.run_module(f"scripts.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0
