"""Long series of numbers out of a record and back, and the file that holds them: one ``.npz`` for many runs.

A record restored from its line and its arrays is the record that was packed, every number and type of it: only lists
of integers alone, or of floats alone, become arrays, and a list of rows becomes an array for each column.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb3_relax.errors import UsageError
from sb3_relax.files import DATE, NotWhole, array_in, bytes_of_array, read_archive, sealed, write_whole

#: a list with fewer entries stays in the line
LONG = 50
Arrays = dict[str, np.ndarray]


def taken_out(run: str, record: dict[str, Any], file: str) -> tuple[dict[str, Any], Arrays]:
    """A record whose long series are references to ``file``, and the arrays that ``file`` must have for them."""
    line, arrays = dict(record), {}
    for field, value in record.items():
        columns = as_columns(value)
        if columns is not None:
            reference = {"npz": file, "columns": len(columns)} if isinstance(value[0], list) else {"npz": file}
            line[field] = reference
            arrays |= dict(zip(keys_of(run, field, reference), columns, strict=True))
    return line, arrays


def put_back(run: str, line: dict[str, Any], files: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """The record that :func:`taken_out` was given.

    :param files: name of a file → its arrays
    :raises UsageError: where a file lacks one
    """
    record = dict(line)
    for field, reference in references(line).items():
        arrays, keys = files[reference["npz"]], keys_of(run, field, reference)
        if not arrays.keys() >= {*keys}:
            raise UsageError(
                f"{reference['npz']} and runs.jsonl beside it do not belong together, or one of them is damaged: the "
                f"array {field!r} of the run {run!r} is missing"
            )
        columns = [arrays[key].tolist() for key in keys]
        record[field] = [list(row) for row in zip(*columns, strict=True)] if "columns" in reference else columns[0]
    return record


def references(line: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The fields of a line that are in a file."""
    return {field: value for field, value in line.items() if isinstance(value, dict) and "npz" in value}


def keys_of(run: str, field: str, reference: Mapping[str, Any]) -> list[str]:
    """The names in the file of a series' array, or of its columns' arrays."""
    if "columns" not in reference:
        return [f"{run}/{field}"]
    return [f"{run}/{field}/{column}" for column in range(reference["columns"])]


def as_columns(value: Any) -> list[np.ndarray] | None:
    """A long list of numbers as one array, a long list of rows as one for each column; ``None`` for all else."""
    if not isinstance(value, list) or len(value) < LONG:
        return None
    if not all(isinstance(row, list) and len(row) == len(value[0]) for row in value):
        column = as_array(value)
        return None if column is None else [column]
    columns = [as_array(list(column)) for column in zip(*value, strict=True)]
    whole = [column for column in columns if column is not None]
    return whole if columns and len(whole) == len(columns) else None


def as_array(values: list[Any]) -> np.ndarray | None:
    """``None`` where an array would not give back the same values of the same types."""
    kinds = {type(value) for value in values}
    if kinds == {float}:
        return np.array(values, np.float64)
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values):
        return np.array(values, np.int64)
    return None


def read_arrays(path: Path) -> Arrays:
    """All arrays of a file; none where it is not there. Its digest is checked, where it has one.

    :raises UsageError: for a damaged file
    """
    if not path.exists():
        return {}
    try:
        members = read_archive(path.read_bytes())
        return {name.removesuffix(".npy"): array_in(content) for name, content in members.items()}
    except NotWhole as error:
        raise UsageError(f"{path} is damaged, or holds no series of records ({error})") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Whole or not at all; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key in sorted(arrays):
            entry = zipfile.ZipInfo(f"{key}.npy", DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, bytes_of_array(arrays[key]))
    write_whole(path, sealed(buffer.getvalue()))
