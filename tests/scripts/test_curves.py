"""Long series go out of a record and come back as they were."""

import json
import math

import numpy as np
import pytest

from sb3_relax.errors import UsageError
from scripts.curves import LONG, put_back, read_arrays, taken_out, write_arrays

STEPS = list(range(5, 5 + 3 * LONG, 3))


def there_and_back(tmp_path, record):
    line, arrays = taken_out("run", record, "curves.npz")
    write_arrays(tmp_path / "curves.npz", arrays)
    line = json.loads(json.dumps(line))
    return line, put_back("run", line, {"curves.npz": read_arrays(tmp_path / "curves.npz")})


@pytest.mark.parametrize(
    "series",
    [
        STEPS,
        [step / 7 for step in STEPS],
        [[step, step / 7, -0.0] for step in STEPS],
        [math.inf, -math.inf, *([0.1] * LONG)],
        [2**53 + 1] * LONG,
    ],
    ids=["integers", "floats", "rows", "infinities", "beyond a float"],
)
def test_long_numbers_become_arrays(tmp_path, series):
    record = {"env": "E", "series": series, "after": None}
    line, restored = there_and_back(tmp_path, record)
    assert set(line["series"]) <= {"npz", "columns"}
    assert json.dumps(restored) == json.dumps(record)  # types, signs of zero and the order of keys included


@pytest.mark.parametrize(
    "series",
    [
        STEPS[: LONG - 1],
        [1, *([0.5] * LONG)],
        [None] * LONG,
        [True] * LONG,
        ["a"] * LONG,
        [2**63] * LONG,
        [[1, None]] * LONG,
        [[1], *([[1, 2]] * LONG)],
        [[]] * LONG,
        [{"a": 1}] * LONG,
        [],
    ],
    ids=[
        *("short", "integers and floats", "nothing", "booleans", "text", "beyond 64 bits", "rows with gaps"),
        *("rows of two lengths", "empty rows", "mappings", "empty"),
    ],
)
def test_what_an_array_would_change_stays_in_the_line(tmp_path, series):
    record = {"series": series}
    line, restored = there_and_back(tmp_path, record)
    assert line == record
    assert json.dumps(restored) == json.dumps(record)


def test_the_same_arrays_give_the_same_bytes(tmp_path, monkeypatch):
    first, second = {"b/x": np.arange(3), "a": np.ones(2)}, {"a": np.ones(2), "b/x": np.arange(3)}
    write_arrays(tmp_path / "first.npz", first)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_arrays(tmp_path / "second.npz", second)
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()


def test_a_missing_array_is_told_with_both_files(tmp_path):
    line, _ = taken_out("run", {"curve": list(range(LONG))}, "curves.npz")
    with pytest.raises(UsageError, match=r"curves\.npz and runs\.jsonl .* 'curve' of the run 'run' is missing"):
        put_back("run", line, {"curves.npz": {}})
