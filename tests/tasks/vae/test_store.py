"""The store: whole or not at all, and checked."""

import io
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from sb3_relax.files import DIGEST, sealed
from sb3_relax.tasks.vae import store

ARRAY = np.arange(600, dtype=np.uint8).reshape(2, 300)


def never():
    raise AssertionError("was made again")


def test_made_once_then_read(tmp_path):
    path = tmp_path / "folder" / "kept.npz"
    assert np.array_equal(store.load_or_make(path, lambda: ARRAY), ARRAY)
    again = store.load_or_make(path, never)
    assert again.dtype == ARRAY.dtype
    assert np.array_equal(again, ARRAY)
    assert os.listdir(path.parent) == ["kept.npz"]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def emptied(path):
    path.write_bytes(b"")


def one_bit_flipped(path):
    content = bytearray(path.read_bytes())
    content[content.index(bytes(range(50))) + 20] ^= 1
    path.write_bytes(content)


def another_array(path):
    """Whole as a zip and as an npz: the checksum alone tells."""
    with zipfile.ZipFile(path) as stored:
        digest = stored.read(DIGEST)
    np.savez(path, array=ARRAY[::-1])
    with zipfile.ZipFile(path, "a") as stored:
        stored.writestr(DIGEST, digest)


def no_digest(path):
    np.savez(path, array=ARRAY)


def of_an_earlier_version(path):
    np.savez(path, array=ARRAY, checksum=np.array("0" * 64))


def of_another_kind(path):
    archive = io.BytesIO()
    np.savez(archive, other=ARRAY)
    path.write_bytes(sealed(archive.getvalue()))


def no_npz(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("array.npy", b"nothing")


@pytest.mark.parametrize(
    "damage",
    [
        *(truncated, emptied, one_bit_flipped, another_array, no_digest, of_an_earlier_version, of_another_kind),
        no_npz,
    ],
)
def test_a_damaged_file_is_made_again(tmp_path, damage):
    path = tmp_path / "kept.npz"
    store.write(path, ARRAY)
    damage(path)
    with pytest.warns(UserWarning, match=r"kept\.npz is damaged .* made again"):
        assert np.array_equal(store.load_or_make(path, lambda: ARRAY + 1), ARRAY + 1)
    assert np.array_equal(store.load_or_make(path, never), ARRAY + 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, MemoryError])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_what_breaks_off_leaves_nothing(tmp_path, monkeypatch, where, error):
    def raises(*_):
        raise error("no")

    monkeypatch.setattr(os, where, raises)
    with pytest.raises(error):
        store.write(tmp_path / "kept.npz", ARRAY)
    assert os.listdir(tmp_path) == []


def test_what_breaks_off_leaves_the_file_of_before(tmp_path, monkeypatch):
    store.write(tmp_path / "kept.npz", ARRAY)
    monkeypatch.setattr(os, "fsync", lambda descriptor: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.write(tmp_path / "kept.npz", ARRAY + 1)
    assert os.listdir(tmp_path) == ["kept.npz"]
    assert np.array_equal(store.read(tmp_path / "kept.npz"), ARRAY)


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from sb3_relax.tasks.vae import store
os.fsync = lambda descriptor: os._exit(9)  # no handler runs: as if killed
store.write(Path(sys.argv[1]), np.zeros(1000))
"""


def test_killed_while_writing(tmp_path):
    path = tmp_path / "kept.npz"
    assert subprocess.run([sys.executable, "-c", KILLED, path]).returncode == 9
    assert not path.exists()
    assert np.array_equal(store.load_or_make(path, lambda: ARRAY), ARRAY)
    assert np.array_equal(store.load_or_make(path, never), ARRAY)


def test_the_folder_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be kept"):
        assert np.array_equal(store.load_or_make(tmp_path / "file" / "kept.npz", lambda: ARRAY), ARRAY)


@pytest.mark.parametrize("array", [ARRAY.T, np.zeros((0, 3)), np.float32(2.5).reshape(()), ARRAY.astype(">i4")])
def test_type_shape_and_values_come_back(tmp_path, array):
    store.write(tmp_path / "kept.npz", array)
    read = store.read(tmp_path / "kept.npz")
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    assert np.array_equal(read, array)
    assert read.flags.writeable
    with np.load(tmp_path / "kept.npz") as by_numpy:
        assert np.array_equal(by_numpy["array"], array)
