"""Where files come from: a named folder, or a mirror that does or does not serve what it should."""

import os

import pytest

from sb3_relax.tasks.vae import mnist
from sb3_relax.tasks.vae.data import load_dataset
from sb3_relax.tasks.vae.files import DATA_VARIABLE, Published, cache_folder, find, obtain
from tests.tasks.vae.conftest import listing

WANTED = Published("set", ("a.npz", "a.zip"), "http://127.0.0.1:9/data/a.zip", "md5:" + "0" * 32)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_folder_or_its_subfolder(tmp_path):
    below = touch(tmp_path / "set" / "a.zip")
    assert find(WANTED, tmp_path) == below
    assert find(WANTED, tmp_path / "set") == below
    preferred = touch(tmp_path / "a.npz")
    assert find(WANTED, tmp_path) == preferred


def test_data_dir_before_the_variable(tmp_path, monkeypatch):
    first, second = (touch(tmp_path / name / "set" / "a.zip") for name in ("first", "second"))
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "second"))
    assert obtain(WANTED, None, None) == second
    assert obtain(WANTED, tmp_path / "first", None) == first
    assert obtain(WANTED, str(tmp_path / "first"), None) == first
    monkeypatch.setenv("HOME", str(tmp_path))
    assert obtain(WANTED, "~/first", None) == first


@pytest.mark.parametrize("missing", ["", "no such folder"])
def test_a_file_that_is_missing(tmp_path, monkeypatch, missing):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / missing))
    with pytest.raises(
        FileNotFoundError, match=rf"no a\.npz or a\.zip in .*{missing}.* {WANTED.url} .*{DATA_VARIABLE}"
    ):
        obtain(WANTED, None, tmp_path / "cache")
    assert os.listdir(tmp_path) == []


def test_the_cache_folder(tmp_path, monkeypatch):
    assert cache_folder(tmp_path) == tmp_path
    assert cache_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert tmp_path in cache_folder(None).parents
    assert cache_folder(None).name == "sb3_relax"


@pytest.fixture
def served(small_mnist, mirror_of):
    """The small MNIST on a mirror."""
    folder, _ = small_mnist
    return folder, mirror_of(folder)


def test_downloaded_once(served, tmp_path):
    folder, mirror = served
    first = load_dataset("mnist", cache_dir=tmp_path / "cache")
    assert mirror.asked == ["/train-images-idx3-ubyte.gz", "/t10k-images-idx3-ubyte.gz"]
    assert listing(tmp_path / "cache" / "mnist") == listing(folder)
    second = load_dataset("mnist", cache_dir=tmp_path / "cache")
    assert len(mirror.asked) == 2
    local = load_dataset("mnist", data_dir=folder)
    assert first.train.equal(second.train)
    assert first.train.equal(local.train)


def test_a_damaged_download_is_fetched_again(served, tmp_path):
    folder, mirror = served
    load_dataset("mnist", cache_dir=tmp_path / "cache")
    (tmp_path / "cache" / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(b"damaged")
    load_dataset("mnist", cache_dir=tmp_path / "cache")
    assert mirror.asked[2:] == ["/t10k-images-idx3-ubyte.gz"]
    assert listing(tmp_path / "cache" / "mnist") == listing(folder)


def test_the_mirror_serves_something_else(served, tmp_path):
    folder, mirror = served
    expected = mnist.GZIP_MD5["train-images-idx3-ubyte"]
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"<html>please log in</html>")
    with pytest.raises(ValueError, match=rf"{mirror.url}train\S+ did not serve .*{expected}.* got .*{DATA_VARIABLE}"):
        load_dataset("mnist", cache_dir=tmp_path / "cache")
    assert listing(tmp_path / "cache") == {}


def test_the_download_passes_its_hash_and_holds_something_else(served, tmp_path, monkeypatch):
    """The content is checked as well as its gzip wrapping."""
    name = "train-images-idx3-ubyte"
    monkeypatch.setitem(mnist.CONTENT_MD5, name, "0" * 32)
    with pytest.raises(ValueError, match=rf"cache/mnist/{name}\.gz is not the published file: expected md5:0000"):
        load_dataset("mnist", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("trouble", ["not there", "breaks off", "is down"])
def test_the_mirror_fails(served, tmp_path, trouble):
    folder, mirror = served
    if trouble == "not there":
        (folder / "train-images-idx3-ubyte.gz").unlink()
    elif trouble == "breaks off":
        mirror.breaks_off = True
    else:
        mirror.stop()
    with pytest.raises(FileNotFoundError, match=rf"{mirror.url}train\S+ could not be downloaded .*{DATA_VARIABLE}"):
        load_dataset("mnist", cache_dir=tmp_path / "cache")
    assert listing(tmp_path / "cache") == {}
