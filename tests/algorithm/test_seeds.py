"""Seeds of the streams that are not A2C's."""

import numpy as np

from sb3_relax.algorithm.persistence import mixed_seed


def test_seeds_are_mixed_by_plain_integers(monkeypatch):
    """numpy 1.26 shifts no unsigned integer of 64 bits by a plain one."""
    expected = mixed_seed(7, "noise")

    class Unshiftable(int):
        def __rshift__(self, other):
            raise TypeError("ufunc 'right_shift' not supported for the input types")

    class Sequence(np.random.SeedSequence):
        def generate_state(self, *args):
            return [Unshiftable(word) for word in super().generate_state(*args)]

    monkeypatch.setattr(np.random, "SeedSequence", Sequence)
    assert mixed_seed(7, "noise") == expected
