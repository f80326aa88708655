"""Data sets: names, digits, binarisation, what the description says."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sb3_relax.tasks.vae import data
from sb3_relax.tasks.vae.data import DATASETS, Dataset, binarise, load_dataset

BLOCKED = """
import sys
for name in ("stable_baselines3", "gymnasium", "pooch", "sklearn", "PIL"):
    sys.modules[name] = None
from sb3_relax.tasks.vae import data
print(sorted(data.DATASETS))
"""


def test_imports_with_sb3_blocked_and_readers_only_when_needed():
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['digits', 'mnist', 'omniglot']"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "MNITS"}, r"unknown data set 'MNITS'; there are 'mnist', 'omniglot', 'digits'; .*mean 'mnist'\?"),
        ({"name": "cifar"}, "unknown data set 'cifar'; there are 'mnist', 'omniglot', 'digits'$"),
        (
            {"name": "digits", "binarisation": "fixd"},
            r"unknown binarisation 'fixd'; there are 'fixed', 'dynamic'; did you mean 'fixed'\?",
        ),
    ],
)
def test_unknown_names(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(**arguments)


def test_digits_are_sklearns_each_once():
    digits = load_dataset("digits", binarisation="dynamic")
    assert [len(part) for part in digits[1:4]] == [1297, 200, 300]
    every = torch.cat(digits[1:4])
    assert every.dtype == torch.float32
    assert (every.min(), every.max()) == (0, 1)
    assert sorted(map(tuple, every.tolist())) == sorted(map(tuple, (load_digits().data / 16).tolist()))
    # shuffled: sorted by writer, the parts would differ in hand
    assert not np.array_equal(every, load_digits().data / 16)
    assert digits.shape == (8, 8)
    assert not digits.binarised


def test_fixed_bits_are_the_same_whatever_was_drawn_before():
    first = load_dataset("digits")
    torch.manual_seed(1)
    np.random.default_rng().random()
    np.random.seed(1)  # noqa: NPY002
    second = load_dataset("digits")
    for a, b in zip(first[1:4], second[1:4], strict=True):
        assert a.equal(b)
        assert set(a.unique().tolist()) == {0, 1}
        assert a.dtype == torch.float32
    assert first.binarised


def test_the_bits_of_today():
    """Pins NumPy's stream and both seeds: were one to change, results would no longer compare with earlier ones."""
    bits = torch.cat(load_dataset("digits")[1:4]).numpy().astype(np.uint8)
    assert hashlib.sha256(bits).hexdigest()[:16] == "c474596d0d0868e8"


def test_each_bit_has_the_intensity_as_its_probability():
    fixed, dynamic = (torch.cat(load_dataset("digits", binarisation=b)[1:4]) for b in ("fixed", "dynamic"))
    for level in range(17):
        at_level = fixed[dynamic == level / 16]
        p, n = level / 16, len(at_level)
        assert abs(at_level.mean() - p) <= 4 * (p * (1 - p) / n) ** 0.5
        assert n > 1000


def test_the_parts_are_drawn_apart():
    half = np.full((20, 30), 0.5, np.float32)
    train, validation, test = binarise((half, half, half))
    assert not np.array_equal(train, validation)
    assert not np.array_equal(validation, test)
    assert not np.array_equal(train[0], train[1])


def test_binarisation_leaves_the_intensities_alone():
    parts = tuple(np.full((3, 4), 0.5, np.float32) for _ in range(3))
    binarise(parts)
    assert all((part == 0.5).all() for part in parts)


def test_description_says_what_was_done():
    fixed = load_dataset("digits").description
    assert "1,297 training, 200 validation, 300 test images" in fixed
    assert "Binarisation: fixed: each pixel drawn once" in fixed
    assert "default_rng(0)" in fixed
    assert "Binarisation: dynamic: intensities" in load_dataset("digits", binarisation="dynamic").description
    assert "28 x 28" in DATASETS["omniglot"].description
    assert "drawers 1-15" in DATASETS["omniglot"].description


def test_fields():
    digits = load_dataset("digits")
    assert isinstance(digits, Dataset)
    assert digits._fields == ("name", "train", "validation", "test", "shape", "description", "binarised")
    assert digits.name == "digits"
    assert tuple(data.DATASETS) == ("mnist", "omniglot", "digits")
    assert digits.train.shape[1] == digits.shape[0] * digits.shape[1]
