"""MNIST: the IDX format, the checks, the split."""

import gzip
import hashlib
import tracemalloc

import numpy as np
import pytest
import torch

from sb3_relax.tasks.vae import mnist
from sb3_relax.tasks.vae.data import load_dataset, load_labels
from tests.tasks.vae.conftest import idx, listing

TRAIN, TEST = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"


def test_intensities_and_split(small_mnist):
    folder, images = small_mnist
    data = load_dataset("mnist", folder.parent, "dynamic")
    train, test = (images[name].reshape(-1, 784).astype(np.float32) / 255 for name in (TRAIN, TEST))
    assert np.array_equal(data.train, train[:24])
    assert np.array_equal(data.validation, train[24:])
    assert np.array_equal(data.test, test)
    assert data.shape == (28, 28)


def test_labels_are_split_as_images_are(small_labels):
    folder, labels = small_labels
    train, validation, test = load_labels("mnist", folder.parent)
    assert np.array_equal(torch.cat([train, validation]), labels["train-labels-idx1-ubyte"])
    assert (len(train), len(validation)) == (24, 6)
    assert np.array_equal(test, labels["t10k-labels-idx1-ubyte"])


def test_images_are_no_labels(small_labels, small_mnist):
    folder, images = small_mnist
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(images[TEST])))
    with pytest.raises(ValueError, match=r"expected magic number 2049 .* got magic number 2051, shape \[10\]"):
        load_labels("mnist", folder)


def test_plain_files_serve_as_well(small_mnist, tmp_path):
    folder, _ = small_mnist
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in (TRAIN, TEST):
        (plain / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
    assert load_dataset("mnist", plain).train.equal(load_dataset("mnist", folder).train)


def test_another_gzip_of_the_same_content_serves_as_well(small_mnist):
    folder, _ = small_mnist
    path = folder / f"{TRAIN}.gz"
    before = load_dataset("mnist", folder)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1, mtime=7))
    assert load_dataset("mnist", folder).train.equal(before.train)


def test_nothing_is_written_beside_the_files(small_mnist, tmp_path):
    folder, _ = small_mnist
    before = listing(tmp_path)
    folder.chmod(0o500)
    load_dataset("mnist", folder)
    folder.chmod(0o700)
    assert listing(tmp_path) == before


def altered(content):
    """Right length, right header, one pixel off: the hash alone tells."""
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda c: gzip.compress(c)[:-100], r"expected a gzip file, got .*end-of-stream"),
        (lambda c: gzip.compress(c)[:-8] + bytes(8), r"expected a gzip file, got CRC check failed"),
        (lambda c: gzip.compress(c)[:10] + b"\xff" * 99, "expected a gzip file, got Error -3 .*invalid block type"),
        (lambda c: b"<html>", "expected a gzip file, got Not a gzipped file"),
        (lambda c: gzip.compress(c[:-5]), r".* and the 23,536 bytes of its shape, got .*\[30, 28, 28\], 23,531 bytes"),
        (lambda c: gzip.compress(c[:10]), "expected magic number 2051 .* got .* 10 bytes"),
        (lambda c: gzip.compress(b""), "expected magic number 2051 .* got .* 0 bytes"),
        (lambda c: gzip.compress(b"\0\0\x08\x01" + c[4:]), "expected magic number 2051 .* got magic number 2049"),
        (lambda c: gzip.compress(altered(c)), r"expected md5:{md5}, got md5:[0-9a-f]{{32}} \(23,536 bytes\)"),
    ],
    ids=["truncated", "bad CRC", "bad stream", "no gzip", "short", "header cut", "empty", "labels", "altered"],
)
def test_a_file_that_is_not_the_published_one(small_mnist, broken, message):
    folder, images = small_mnist
    path = folder / f"{TRAIN}.gz"
    path.write_bytes(broken(idx(images[TRAIN])))
    message = message.format(md5=mnist.CONTENT_MD5[TRAIN])
    with pytest.raises(ValueError, match=rf"{path} is not the published file: {message}") as caught:
        load_dataset("mnist", folder)
    assert f"Delete it and load again, or get it from {mnist.MIRROR}{TRAIN}.gz" in str(caught.value)


def test_the_real_files(real_data):
    data = load_dataset("mnist", real_data, "dynamic")
    assert [len(part) for part in data[1:4]] == [50_000, 10_000, 10_000]
    # the mean that every MNIST recipe normalises by
    assert (data.train.sum() + data.validation.sum()) / (60_000 * 784) == pytest.approx(0.1307, abs=5e-5)
    assert data.test.mean() == pytest.approx(0.1325, abs=5e-5)
    assert "50,000 training, 10,000 validation, 10,000 test" in data.description
    labels = load_labels("mnist", real_data)
    assert [len(part) for part in labels] == [50_000, 10_000, 10_000]
    assert labels[0][:5].tolist() == [5, 0, 4, 1, 9]


def test_the_real_files_downloaded(real_data, tmp_path, mirror_of, monkeypatch):
    """Another gzip than the mirrors' may wrap them, so the .gz hash is the served file's; the content's is the real."""
    served = tmp_path / "served"
    served.mkdir()
    for name in (TRAIN, TEST):
        found = next(path for path in real_data.rglob(f"{name}*"))
        content = found.read_bytes() if found.suffix == ".gz" else gzip.compress(found.read_bytes())
        (served / f"{name}.gz").write_bytes(content)
        monkeypatch.setitem(mnist.GZIP_MD5, name, hashlib.md5(content).hexdigest())
    mirror = mirror_of(served)
    downloaded = load_dataset("mnist", cache_dir=tmp_path / "cache")
    assert len(mirror.asked) == 2
    assert downloaded.test.equal(load_dataset("mnist", real_data).test)


@pytest.mark.parametrize("name", [TRAIN, f"{TRAIN}.gz"])
def test_more_than_the_published_files_hold_is_not_unpacked(small_mnist, name):
    """A file of 100 kB would unpack to 100 MB, and one of 3 MB to gigabytes."""
    folder, _ = small_mnist
    (folder / f"{TRAIN}.gz").unlink()
    content = (2051).to_bytes(4, "big") + (2**31).to_bytes(4, "big") + (28).to_bytes(4, "big") * 2 + bytes(10**8)
    (folder / name).write_bytes(gzip.compress(content, 1) if name.endswith("gz") else content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"is not the published file: expected at most 47,040,016 bytes, got more"):
        load_dataset("mnist", folder)
    assert tracemalloc.get_traced_memory()[1] < 3 * mnist.MOST_BYTES
    tracemalloc.stop()
