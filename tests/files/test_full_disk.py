"""A disk that is full: one line that names the file, what was there before, and no partial file."""

import os
import resource
import shutil
import subprocess
import sys

import pytest

from sb3_relax.errors import DiskFull, one_line
from sb3_relax.files import write_whole
from tests.files.test_whole import in_a_child, names

#: an agent's file, a checkpoint of the VAE, records and their series, a study and its journal, each written twice
WRITERS = """
import sys
from pathlib import Path
import numpy as np
import torch
from sb3_relax import RELAXA2C
from sb3_relax.errors import one_line
from sb3_relax.tasks.records import write_record
from sb3_relax.tasks.vae import checkpoint, store

folder = Path(sys.argv[1])
state = dict.fromkeys(checkpoint.KEYS, {}) | {"model": torch.zeros(10_000)}
model = RELAXA2C("MlpPolicy", "CartPole-v1", device="cpu")
writers = {
    "agent.zip": lambda: model.save(folder / "agent"),
    "checkpoint.pt": lambda: checkpoint.save(folder / "checkpoint.pt", state),
    "kept.npz": lambda: store.write(folder / "kept.npz", np.zeros(10_000)),
    "record.json": lambda: write_record(folder / "record.json", {"values": [0.5] * 10_000}),
}
before = {}
for name, write in writers.items():
    write()
    before[name] = (folder / name).read_bytes()
def fill(name, piece):
    with open(folder / name, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(piece))
        except OSError:
            pass


fill("filler", 4096)
for name, write in writers.items():
    for missing in (False, True):
        if missing:
            content = (folder / name).read_bytes()
            assert content == before[name], name
            (folder / name).unlink()
            fill("filler2", 512)
        try:
            write()
        except OSError as error:
            print(one_line(error))
        else:
            print("written", name)
assert not [path for path in folder.iterdir() if "partial" in path.name]
"""


def can_mount():
    tools = shutil.which("unshare"), shutil.which("mount")
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return all(tools) and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="this system lets nobody mount a small disk")
def test_on_a_small_disk_that_is_full(tmp_path):
    script = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", tmp_path, sys.executable, WRITERS]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 8
    files = ["agent.zip", "checkpoint.pt", "kept.npz", "record.json"]
    for line, name in zip(lines, [name for name in files for _ in range(2)], strict=True):
        assert line.startswith(f"{tmp_path}/{name} could not be written: No space left on device (")
    assert all(line.endswith("the file that was there before is whole") for line in lines[::2])
    assert all(line.endswith("nothing of it is left") for line in lines[1::2])


def test_a_file_that_may_not_become_so_large(tmp_path):
    """The same by a limit, which every system has."""
    path = tmp_path / "agent.zip"
    write_whole(path, b"old")

    def too_large():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        for file, rest in (
            (path, "the file that was there before is whole"),
            (tmp_path / "b", "nothing of it is left"),
        ):
            try:
                write_whole(file, bytes(100_000))
            except DiskFull as error:
                line = one_line(error)
                assert line.startswith(f"{file} could not be written: File too large (100,000 bytes to write, "), line
                assert line.endswith(rest), line
                assert "\n" not in line
            else:
                os._exit(2)

    assert in_a_child(too_large) == 0
    assert names(tmp_path) == ["agent.zip"]
    assert path.read_bytes() == b"old"


def test_errors_of_other_packages_that_there_is_no_space_are_one_line():
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError, match="No space") as raised:
        file.write(b"x")
    assert one_line(raised.value) == "a file could not be written: [Errno 28] No space left on device"
    assert one_line(OSError("something else")) is None
