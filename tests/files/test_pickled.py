"""Pickles that are read and not run."""

import pickle

import pytest

from sb3_relax.files import NotWhole
from sb3_relax.files.pickled import read_pickle


def test_a_name_that_no_module_has_is_damage_told_in_one_line():
    # of the oldest protocol, whose names end with their line
    content = (
        pickle.dumps(OSError, protocol=0).replace(b"builtins", b"built\rins").replace(b"exceptions", b"except\rns")
    )
    with pytest.raises(NotWhole) as caught:
        read_pickle(content)
    assert "\n" not in str(caught.value)
    assert "\r" not in str(caught.value)
    assert "which no module has" in str(caught.value)
