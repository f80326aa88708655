"""Actions of several parts as flat numbers, and back."""

import copy
import pickle

import numpy as np
import pytest
from gymnasium import spaces

from sb3_relax.errors import UsageError
from sb3_relax.policy_gradient import FlatActions

BOX = spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 0.1]), dtype=np.float64)
STRUCTURES = {
    "dict": spaces.Dict(aim=BOX, fire=spaces.Discrete(2), keys=spaces.MultiBinary(3)),
    "tuple": spaces.Tuple([spaces.Discrete(4, start=-1), BOX]),
    "nested": spaces.Dict(
        hand=spaces.Tuple([BOX, spaces.Dict(grip=spaces.Discrete(3, start=5))]),
        lamps=spaces.MultiBinary(6),
        dials=spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [2, 3]]),
        arm=spaces.Box(-1.0, 1.0, (2, 2), np.float32),
    ),
    "discrete alone": spaces.Tuple([spaces.Discrete(2), spaces.MultiDiscrete([3, 2])]),
}


def same(a, b):
    """Of one structure, type and value."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and np.asarray(a).dtype == np.asarray(b).dtype and np.allclose(a, b)


@pytest.mark.parametrize("name", STRUCTURES)
def test_there_and_back(name):
    structure = STRUCTURES[name]
    flat = FlatActions(structure)
    structure.seed(3)
    for _ in range(50):
        action = structure.sample()
        numbers = flat.flatten(action)
        assert numbers.shape == flat.shape
        assert numbers.dtype == np.float32
        assert flat.contains(numbers)
        back = flat.unflatten(numbers)
        assert structure.contains(back)
        assert same(back, action)
    assert flat.contains(flat.sample())
    actions = flat.unflatten(np.stack([flat.sample() for _ in range(3)]))
    assert len(actions) == 3
    assert all(map(structure.contains, actions))


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_corner_is_an_action(name):
    """What SB3 clips to is inside every part's own bounds, of whatever type."""
    flat = FlatActions(STRUCTURES[name])
    for corner in (flat.low, flat.high, flat.low - 1, flat.high + 7.5):
        assert flat.structure.contains(flat.unflatten(np.clip(corner, flat.low, flat.high)))


def test_where_each_part_is():
    flat = FlatActions(STRUCTURES["nested"])
    assert list(flat.parts) == ["hand/0", "hand/1/grip", "lamps", "dials", "arm"]
    assert flat.sizes == [2, 1, 6, 4, 4]
    assert flat.low[2] == 0
    assert flat.high[2] == 2
    assert flat.unflatten(flat.low)["hand"][1]["grip"] == 5
    assert flat.unflatten(flat.low)["dials"].tolist() == [[0, 1], [2, 3]]


def test_it_equals_what_it_flattens():
    flat = FlatActions(STRUCTURES["nested"])
    assert flat == copy.deepcopy(STRUCTURES["nested"])
    assert flat == pickle.loads(pickle.dumps(flat))
    assert flat != STRUCTURES["dict"]
    assert flat != FlatActions(STRUCTURES["dict"])
    assert flat != spaces.Box(flat.low, flat.high)


def test_it_is_seeded():
    flat = FlatActions(STRUCTURES["dict"])
    flat.seed(7)
    first = flat.sample()
    flat.seed(7)
    assert np.array_equal(first, flat.sample())


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (spaces.Discrete(2), "flattens a Dict or a Tuple of actions; got Discrete"),
        (spaces.Tuple([]), "at least one part"),
        (spaces.Dict(a=spaces.Discrete(2), say=spaces.Text(5)), "part 'say' of an action must be a Box"),
        (
            spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(0, 255, (2,), np.uint8)),
            "part 'b' of an action must be a Box of floating point numbers",
        ),
        (
            spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary((2, 3))]),
            r"part '1' of an action: Multi-dimensional MultiBinary\(\(2, 3\)\) action space is not supported",
        ),
        (
            spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict(b=spaces.Discrete(2))}),
            "two parts of .* have one name, .*: rename one of them",
        ),
    ],
)
def test_what_cannot_be_flattened(structure, message):
    with pytest.raises(UsageError, match=message):
        FlatActions(structure)
