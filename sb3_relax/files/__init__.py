"""How files are written, and how those are read that may have been damaged since: two things that everything may use.

:mod:`~sb3_relax.files.whole`
    the one way in which files are written: whole or not at all
:mod:`~sb3_relax.files.archive`
    the one container of files that hold tensors: a zip archive with a digest, which is checked before anything is used
"""

from sb3_relax.files.archive import DATE, DIGEST, TORCH, NotWhole, array_in, bytes_of_array, read_archive, sealed
from sb3_relax.files.whole import remove_leftovers, write_whole

__all__ = [
    "DATE",
    "DIGEST",
    "TORCH",
    "NotWhole",
    "array_in",
    "bytes_of_array",
    "read_archive",
    "remove_leftovers",
    "sealed",
    "write_whole",
]
