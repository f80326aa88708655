"""Pickles that are read and not run."""

import copy
import copyreg
import pickle

import numpy as np
import pytest

from sb3_relax.files import NotWhole
from sb3_relax.files.pickled import read_pickle, require_numbers


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


def test_what_is_named_by_a_number_is_not_read():
    copyreg.add_extension("copy", "copy", 240)
    try:
        content = pickle.dumps(copy.copy, protocol=2)
        assert pickle.loads(content) is copy.copy  # from now on pickle knows it without a look at its name
        with pytest.raises(NotWhole, match="by a number alone"):
            read_pickle(content)
    finally:
        copyreg.remove_extension("copy", "copy", 240)


def test_numbers_alone():
    numbers = {"a": [np.arange(3), (np.float32(2), np.ones((2, 2), order="F"))], "b": "text", "c": {1: np.bool_(True)}}
    for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):
        require_numbers(read_pickle(pickle.dumps(numbers, protocol=protocol))[0])
    for other in (
        np.array([None]),
        np.zeros(2, "V8"),
        np.zeros(2, [("a", "i4")]),
        np.array(["text"]),
        [np.dtype("f8")],
    ):
        with pytest.raises(NotWhole):
            require_numbers(read_pickle(pickle.dumps({"deep": [other]}))[0])
