"""How files are written, and how those are read that may have been damaged since, or made by strangers.

:mod:`~sb3_relax.files.whole`
    the one way in which files are written: whole or not at all
:mod:`~sb3_relax.files.archive`
    the one container of files that hold tensors: a zip archive with a digest, which is checked before anything is used
:mod:`~sb3_relax.files.pickled`
    the one way in which pickles are read that strangers may have made: nothing of them is run
"""

from sb3_relax.files.archive import DATE, DIGEST, TORCH, NotWhole, array_in, bytes_of_array, read_archive, sealed
from sb3_relax.files.pickled import OF_ARRAYS, Named, array_of, read_pickle, require_numbers
from sb3_relax.files.whole import remove_leftovers, write_whole

__all__ = [
    "DATE",
    "DIGEST",
    "OF_ARRAYS",
    "TORCH",
    "Named",
    "NotWhole",
    "array_in",
    "array_of",
    "bytes_of_array",
    "read_archive",
    "read_pickle",
    "remove_leftovers",
    "require_numbers",
    "sealed",
    "write_whole",
]
