"""The one container of files that hold tensors: a zip archive with a digest, checked before anything is used.

The digest is the member :data:`DIGEST`, the SHA-256 of the names and contents of all other members. Readers that do not
know it, such as Stable-Baselines3's of agents and NumPy's of arrays, pass it by. An archive of earlier versions has
none: of that, the CRC-32 of every member is checked, and of the archives among its members as well.

A digest tells damage. It does not tell who wrote a file: whoever changes one on purpose can write its digest too.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import zipfile

import numpy as np

#: the member with the digest of the others
DIGEST = "sha256"
#: members may together be so many times as long as the file that they are in ...
MOST_TIMES = 20
#: ... or so long, in bytes, where that is more
SMALL = 64 * 2**20
#: members are read in pieces, since one may be longer than it says
PIECE = 2**20
#: of the digest's entry: the earliest that the format knows, so that the same members give the same bytes
DATE = (1980, 1, 1, 0, 0, 0)
#: what an archive begins with that torch has written
TORCH = b"PK\x03\x04"
#: the head of the digest's member, which damage may have taken out of the archive's list of members
HAS_DIGEST = re.compile(rb"PK\x03\x04.{26}" + DIGEST.encode(), re.DOTALL)
KNOWN_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class NotWhole(ValueError):
    """What was read is damaged, or is something else; the message says in what way. Whoever catches it names the file.

    It is a ``ValueError``, as which any other fault of a file's content is raised.
    """


def sealed(archive: bytes) -> bytes:
    """A zip archive with its digest.

    :param archive: without one

    Example::

        write_whole(path, sealed(content))
        members = read_archive(path.read_bytes(), needs_digest=True)
    """
    file = io.BytesIO(archive)
    with zipfile.ZipFile(file, "a") as zipped:
        digest = digest_of({name: zipped.read(name) for name in zipped.namelist()})
        zipped.writestr(zipfile.ZipInfo(DIGEST, DATE), digest)
    return file.getvalue()


def read_archive(content: bytes, needs_digest: bool = False) -> dict[str, bytes]:
    """The members of an archive, by name, without the digest. They have been checked.

    Before anything is unpacked, its length is looked at: an archive of a few megabytes may ask for gigabytes.

    :param content: of the file
    :param needs_digest: whether one without a digest is refused: where no version has written any
    :raises NotWhole: for anything that is not such an archive, or no longer
    """
    members = _unpacked(content, max(MOST_TIMES * len(content), SMALL))
    written = members.pop(DIGEST, None)
    if written is None and (needs_digest or HAS_DIGEST.search(content)):
        raise NotWhole("it has no digest" if needs_digest else "its digest is not among its members, as it was written")
    if written is not None and written.decode("ascii", "replace") != digest_of(members):
        raise NotWhole("its digest is not that of its content")
    for member in members.values():
        if member.startswith(TORCH):
            # torch packs nothing, looks at no CRC-32, and takes as much memory as its archive asks for
            _unpacked(member, len(member), look_inside=written is None)
    return members


def digest_of(members: dict[str, bytes]) -> str:
    """SHA-256 of the names and contents of members, whatever their order."""
    digest = hashlib.sha256()
    for name, content in sorted(members.items()):
        encoded = name.encode("utf-8", "surrogatepass")
        digest.update(f"{len(encoded)} {len(content)} ".encode() + encoded)
        digest.update(content)
    return digest.hexdigest()


def _unpacked(content: bytes, most: int, look_inside: bool = True) -> dict[str, bytes]:
    """The members of a zip archive, each found to have its CRC-32.

    :param content: of the archive
    :param most: bytes that all of them may have together
    :param look_inside: whether they are read; without, only what they ask for is looked at
    :raises NotWhole: where they ask for more, or the archive is damaged
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            asked = sum(entry.file_size for entry in entries)
            if asked > most:
                raise NotWhole(f"it asks for {asked:,} bytes of memory, where {most:,} are the most that it may")
            if len({entry.filename for entry in entries}) < len(entries):
                raise NotWhole("two of its members have one name")
            if any(entry.compress_type not in KNOWN_COMPRESSIONS for entry in entries):
                raise NotWhole("it is packed in a way that no file of this kind is")
            return {entry.filename: _read(archive, entry) for entry in entries} if look_inside else {}
    except (NotWhole, MemoryError):
        raise
    except Exception as error:  # of zipfile, zlib or struct, by where it is damaged
        raise NotWhole(f"{type(error).__name__}: {error}") from error


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    pieces = []
    with archive.open(entry) as file:
        while piece := file.read(PIECE):
            pieces.append(piece)
    content = b"".join(pieces)
    if len(content) != entry.file_size:
        raise NotWhole(f"{entry.filename} has {len(content):,} bytes, and should have {entry.file_size:,}")
    return content


def bytes_of_array(array: np.ndarray) -> bytes:
    """An array as NumPy's format ``.npy`` has it."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    return file.getvalue()


def array_in(content: bytes) -> np.ndarray:
    """The array of :func:`bytes_of_array`. Its header is believed only where the content is as long as it says.

    :raises NotWhole: for anything else
    """
    try:
        file = io.BytesIO(content)
        if np.lib.format.read_magic(file) != (1, 0):
            raise NotWhole("it has a version of NumPy's format that no file of this kind has")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0 or size != len(content) - file.tell():
            raise NotWhole(f"it has {len(content) - file.tell():,} bytes, and its header says {dtype} of shape {shape}")
        flat = np.frombuffer(content, dtype, offset=file.tell())
        return flat.reshape(shape, order="F" if by_columns else "C").copy()
    except (NotWhole, MemoryError):
        raise
    except Exception as error:  # of NumPy and of Python's parser, by where it is damaged
        raise NotWhole(f"{type(error).__name__}: {error}".splitlines()[0]) from error
