"""The records of a protocol: one file a run while a sweep goes on, then two kinds of files for all runs.

``unpacked/RUN.json``
    What a run writes. Git does not see this folder.
``runs.jsonl``
    One line a run, in the order of the runs' names. A long series is a reference to one of the next files.
    Each line has a digest, as an unpacked record has.
``curves_ENV.npz``
    The long series of all runs of an environment (:mod:`scripts.curves`).

:meth:`Records.pack` moves runs from the first form to the second. A reader sees no difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock

from sb3_relax.files import write_whole
from sb3_relax.tasks import records as of_package
from sb3_relax.tasks.records import line_of, read_record, record_in, write_record
from scripts.curves import Arrays, keys_of, put_back, read_arrays, references, taken_out, write_arrays

#: the checkout that the scripts lie in
ROOT = Path(__file__).resolve().parents[1]
#: the records that tables and figures are made of; read there, and written where a script is run
RESULTS = ROOT / "scripts" / "results"

__all__ = ["RESULTS", "ROOT", "Records", "add_output", "provenance", "read_record", "write_record"]


def provenance() -> dict[str, Any]:
    """Commit of this checkout, command line and versions."""
    return of_package.provenance(ROOT)


def add_output(parser: argparse.ArgumentParser, holds: str) -> None:
    """The option that says where a script writes.

    :param holds: what is written, by its path in that folder
    """
    parser.add_argument(
        "--output",
        type=lambda text: Path(text).resolve(),
        default=Path("results").resolve(),
        help=f"folder for {holds}; default: results, in the folder that this is run in",
    )


class Records:
    """The records of one folder.

    :param folder: need not be there
    :param curves_by: the field that names a record's file of long series
    """

    def __init__(self, folder: Path, curves_by: str = "env"):
        self.folder = folder
        self.curves_by = curves_by

    def names(self) -> set[str]:
        """Of all runs that have a record."""
        return self._unpacked_names() | self._lines().keys()

    def read(self) -> list[dict[str, Any]]:
        """All records, in the order of the runs' names."""
        # first what packing removes last: a run that is packed meanwhile is found in one place or in both
        unpacked = self.unpacked()
        lines = self._lines()
        files = self._arrays({file for line in lines.values() for file in files_of(line)})
        packed = {name: put_back(name, line, files) for name, line in lines.items() if name not in unpacked}
        return [record for _, record in sorted({**packed, **unpacked}.items())]

    def unpacked(self) -> dict[str, dict[str, Any]]:
        """Run → record, of those that are not packed."""
        return {name: record for name in self._unpacked_names() if (record := self._unpacked(name)) is not None}

    def get(self, name: str) -> dict[str, Any] | None:
        """A run's record, where it has one."""
        record = self._unpacked(name)
        if record is None and (line := self._lines().get(name)) is not None:
            record = put_back(name, line, self._arrays(files_of(line)))
        return record

    def write(self, name: str, record: dict[str, Any]) -> None:
        """A run's record, instead of the one that it may have."""
        with self.alone():
            write_record(self._path(name), record)

    def pack_complete(self, cells: Iterable[Iterable[str]]) -> None:
        """Pack every cell, given by its runs' names, all of whose runs have a record."""
        unpacked = self._unpacked_names()
        waiting = [cell for cell in map(set, cells) if cell & unpacked]
        if waiting:
            known = self.names()
            self.pack({name for cell in waiting if cell <= known for name in cell})

    def pack(self, names: Iterable[str]) -> None:
        """Pack those of the runs that are unpacked.

        Killed anywhere, every record is still there: the unpacked files, which a reader takes first, go last.
        """
        with self.alone():
            records = {name: record for name in names if (record := self._unpacked(name)) is not None}
            if not records:
                return
            lines = self._lines()
            touched = {file for name in records if name in lines for file in files_of(lines[name])}
            new: Arrays = {}
            for name, record in records.items():
                file = f"curves_{file_name(str(record.get(self.curves_by)))}.npz"
                lines[name], arrays = taken_out(name, record, file)
                touched |= files_of(lines[name])
                new |= arrays
            for file in sorted(touched):
                arrays = read_arrays(self.folder / file) | new
                referred = {key for name, line in lines.items() for key in keys_in(file, name, line)}
                write_arrays(self.folder / file, {key: arrays[key] for key in referred})
            text = "".join(line_of({"run": name, **line}) for name, line in sorted(lines.items()))
            write_whole(self.folder / "runs.jsonl", text.encode())
            for name in records:
                self._path(name).unlink()

    def alone(self) -> AbstractContextManager[object]:
        """No other process writes or packs meanwhile, nor changes another file of this folder in such a block."""
        return self._lock("")

    def claim(self, name: str) -> AbstractContextManager[object]:
        """The run is this process's meanwhile; another process that claims it waits until it is over, or dies."""
        return self._lock(f".{name}")

    def _lock(self, name: str) -> AbstractContextManager[object]:
        folder = self.folder / "unpacked"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{name}.lock")

    def _path(self, name: str) -> Path:
        return self.folder / "unpacked" / f"{name}.json"

    def _unpacked_names(self) -> set[str]:
        return {path.stem for path in (self.folder / "unpacked").glob("[!.]*.json")}

    def _unpacked(self, name: str) -> dict[str, Any] | None:
        try:
            return read_record(self._path(name))
        except FileNotFoundError:
            return None

    def _arrays(self, files: Iterable[str]) -> dict[str, Arrays]:
        return {file: read_arrays(self.folder / file) for file in files}

    def _lines(self) -> dict[str, dict[str, Any]]:
        """Run → its line, without the name."""
        path = self.folder / "runs.jsonl"
        texts = path.read_bytes().splitlines() if path.exists() else ()
        lines = [record_in(text, f"line {number} of {path}") for number, text in enumerate(texts, 1)]
        return {line.pop("run"): line for line in lines}


def file_name(text: str) -> str:
    """A name without what a file's name cannot have."""
    return text.replace("/", "-").replace(" ", "-")


def files_of(line: dict[str, Any]) -> set[str]:
    """The files that a line refers to."""
    return {reference["npz"] for reference in references(line).values()}


def keys_in(file: str, run: str, line: dict[str, Any]) -> list[str]:
    """The arrays of that file that a line refers to."""
    of_file = {field: ref for field, ref in references(line).items() if ref["npz"] == file}
    return [key for field, ref in of_file.items() for key in keys_of(run, field, ref)]
