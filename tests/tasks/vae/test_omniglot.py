"""Omniglot: Lake's zips and the npz alike, the resizing, the split, the cache."""

import hashlib
import io
import os
import zipfile

import numpy as np
import pytest
import torch

from sb3_relax.tasks.vae import omniglot
from sb3_relax.tasks.vae.data import load_dataset
from tests.tasks.vae.conftest import listing, zip_of


def area_average(ink):
    """Cut every pixel in 4 x 4, then average 15 x 15 of the pieces: 105 × 4 = 28 × 15."""
    pieces = np.kron(ink, np.ones((4, 4)))
    return pieces.reshape(28, 15, 28, 15).mean((1, 3))


def rows(images):
    return sorted(map(bytes, np.asarray(images, np.float32)))


def test_ink_is_averaged_over_area():
    ink = np.random.default_rng(0).random((2, 3, 105, 105)) < 0.3
    counts = omniglot.ink_counts(ink)
    assert counts.dtype == np.uint8
    expected = [[area_average(drawing) for drawing in drawings] for drawings in ink]
    assert np.allclose(counts / 225, expected, rtol=0, atol=1e-12)
    assert np.allclose(counts.sum((2, 3)), 16 * ink.sum((2, 3), dtype=int))  # no ink is lost
    assert (omniglot.ink_counts(np.ones((1, 1, 105, 105), bool)) == 225).all()


def test_every_character_trains_and_tests(small_omniglot, tmp_path):
    zips, _, ink = small_omniglot
    data = load_dataset("omniglot", zips, "dynamic", tmp_path / "cache")
    images = (omniglot.ink_counts(ink).reshape(5, 20, 784) / np.float32(225)).astype(np.float32)
    assert [len(part) for part in data[1:4]] == [70, 5, 23]
    assert rows(torch.cat([data.train, data.validation])) == rows(images[:, :15].reshape(-1, 784))
    # the last two characters play Glagolitic
    tested = [*images[:3, 15:].reshape(-1, 784), *images[3:, 15:19].reshape(-1, 784)]
    assert np.array_equal(data.test, tested)
    # shuffled: else the last character alone would validate
    characters = {int(np.flatnonzero((images == row).all(-1).any(-1))[0]) for row in data.validation.numpy()}
    assert len(characters) > 1


def test_zips_and_npz_give_the_same(small_omniglot, tmp_path):
    zips, arrays, _ = small_omniglot
    of_zips, of_arrays = (load_dataset("omniglot", folder, cache_dir=tmp_path / "c") for folder in (zips, arrays))
    assert len(os.listdir(tmp_path / "c")) == 2  # each was read, not the other's cache
    for a, b in zip(of_zips[1:4], of_arrays[1:4], strict=True):
        assert a.equal(b)


def test_downloaded(small_omniglot, tmp_path, mirror_of):
    zips, _, _ = small_omniglot
    mirror = mirror_of(zips)
    downloaded = load_dataset("omniglot", cache_dir=tmp_path / "cache")
    assert mirror.asked == ["/images_background.zip", "/images_evaluation.zip"]
    assert downloaded.train.equal(load_dataset("omniglot", zips, cache_dir=tmp_path / "other").train)
    load_dataset("omniglot", cache_dir=tmp_path / "cache")
    assert len(mirror.asked) == 2


def test_resized_once_and_only_the_cache_is_written(small_omniglot, tmp_path, monkeypatch):
    zips, _, _ = small_omniglot
    before = listing(zips)
    zips.chmod(0o500)
    first = load_dataset("omniglot", zips, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(omniglot, "read", lambda *_: pytest.fail("read again"))
    second = load_dataset("omniglot", zips, cache_dir=tmp_path / "cache")
    zips.chmod(0o700)
    assert first.train.equal(second.train)
    assert listing(zips) == before


def test_another_format_is_another_cache(small_omniglot, tmp_path, monkeypatch):
    zips, _, _ = small_omniglot
    load_dataset("omniglot", zips, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(omniglot, "FORMAT", omniglot.FORMAT + 1)
    load_dataset("omniglot", zips, cache_dir=tmp_path / "cache")
    assert len(os.listdir(tmp_path / "cache")) == 2


def test_a_truncated_cache_is_made_again(small_omniglot, tmp_path):
    zips, _, _ = small_omniglot
    first = load_dataset("omniglot", zips, cache_dir=tmp_path)
    (cached,) = tmp_path.glob("omniglot-*.npz")
    whole = cached.read_bytes()
    cached.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="is damaged"):
        again = load_dataset("omniglot", zips, cache_dir=tmp_path)
    assert again.train.equal(first.train)
    assert np.array_equal(np.load(cached)["array"], np.load(io.BytesIO(whole))["array"])


@pytest.mark.parametrize("kind", ["zip", "npz"])
def test_a_file_that_is_not_the_published_one(small_omniglot, tmp_path, kind):
    zips, arrays, _ = small_omniglot
    folder = zips if kind == "zip" else arrays
    load_dataset("omniglot", folder, cache_dir=tmp_path / "cache")  # a cache must not hide it
    path = folder / f"images_evaluation.{kind}"
    path.write_bytes(path.read_bytes()[:-10])
    expected = getattr(omniglot.PARTS["images_evaluation"], f"{kind}_hash")
    message = rf"{path} is not the published file: expected {expected}, got .* bytes\)\. Delete it .*{omniglot.MIRROR}"
    with pytest.raises(ValueError, match=message):
        load_dataset("omniglot", folder, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(("drop", "add"), [("0002_07", None), (None, "0002_21"), ("0001_20", "0001_00")])
def test_a_zip_without_all_the_drawers(drop, add):
    content = zip_of("part", np.zeros((2, 20, 105, 105), bool), 1)
    odd = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(odd, "w") as changed:
        for name in archive.namelist():
            if not (drop and drop in name):
                changed.writestr(name, archive.read(name))
        if add:
            changed.writestr(f"part/Zeta/character01/{add}.png", archive.read(name))
    character, drawer = map(int, (drop or add).split("_"))
    with pytest.raises(ValueError, match=r"missing, or of a drawer not in 1-20: .*") as caught:
        omniglot.read_zip(odd.getvalue())
    assert f"({character}, {drawer})" in str(caught.value)


@pytest.fixture(scope="module")
def real_omniglot(real_data, tmp_path_factory):
    return load_dataset("omniglot", real_data, cache_dir=tmp_path_factory.mktemp("cache"))


def test_the_real_files(real_omniglot):
    assert [len(part) for part in real_omniglot[1:4]] == [23_000, 1_345, 8_070]
    assert real_omniglot.shape == (28, 28)
    # ink is 1, and as frequent in every part as in all the drawings at 105 x 105: 0.0805
    for part in real_omniglot[1:4]:
        assert part.mean().item() == pytest.approx(0.0805, rel=0.02)
    assert real_omniglot.train[:, [0, 27, 756, 783]].mean() < 0.02  # corners are paper
    assert "23,000 training, 1,345 validation, 8,070 test" in real_omniglot.description


def test_the_split_is_of_the_sizes_that_were_published():
    counts = np.zeros((964 + 659, 20, 1, 1), np.uint8)
    assert [len(part) for part in omniglot.split(counts)] == [23_000, 1_345, 8_070]


def test_lakes_zip_is_the_npz_pixel_for_pixel(real_data):
    """A part of the original release, with five of the background's alphabets."""
    found = sorted(real_data.rglob("images_background_small1.zip"))
    if not found:
        pytest.skip("images_background_small1.zip is not in the folder of the real files")
    content = found[0].read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert digest == "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4"
    (npz,) = real_data.rglob("images_background.npz")
    # the numbers of Balinese, Early Aramaic, Greek, Korean, Latin
    numbers = np.r_[108:132, 251:273, 394:418, 643:709] - 1
    ours = omniglot.read_zip(content)
    assert ours.shape == (136, 20, 105, 105)
    assert np.array_equal(ours, omniglot.read_npz(npz.read_bytes())[numbers])
