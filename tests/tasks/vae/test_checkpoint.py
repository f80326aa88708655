"""A checkpoint's digest: what was damaged is refused, and never loads with other weights."""

import random
import zipfile

import pytest
import torch

from sb3_relax.tasks.vae import checkpoint

STATE = {
    "config": {"dataset": "digits"},
    "processes": 1,
    "iteration": 7,
    "model": {"weight": torch.randn(40, 50, generator=torch.Generator().manual_seed(0))},
    "estimators": {},
    "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 1e-3}]},
    "shift": torch.zeros(()),
    "history": [],
    "seconds": 1.0,
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return a.keys() == b.keys() and all(map(same, a.values(), b.values())) if isinstance(a, dict) else a == b


def write_as_before(path, state):
    """As versions without a digest did."""
    torch.save(state, path)


@pytest.mark.parametrize("write", [checkpoint.save, write_as_before])
def test_one_flipped_bit_never_loads_other_weights(tmp_path, write):
    path = tmp_path / "checkpoint.pt"
    write(path, STATE)
    assert same(checkpoint.load(path), STATE)
    whole, draws, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[draws.randrange(len(whole))] ^= 1 << draws.randrange(8)
        path.write_bytes(damaged)
        try:
            assert same(checkpoint.load(path), STATE)
        except ValueError as error:
            assert str(error).startswith(f"{path} is damaged")  # noqa: PT017
            refused += 1
    assert refused > 200


def test_another_state_under_the_digest_of_this_one_is_refused(tmp_path):
    """Whole as a zip, and as a checkpoint: the digest alone tells."""
    path, other = tmp_path / "checkpoint.pt", tmp_path / "other.pt"
    checkpoint.save(path, STATE)
    checkpoint.save(other, STATE | {"iteration": 8})
    with zipfile.ZipFile(path) as first, zipfile.ZipFile(other) as second:
        digest, state = first.read("sha256"), second.read("state.pth")
    for members in ({"state.pth": state, "sha256": digest}, {"state.pth": state}):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        with pytest.raises(ValueError, match=r"checkpoint.pt is damaged .*digest.*; delete it to start anew"):
            checkpoint.load(path)
