"""The container: what was changed in it is refused, and what it asks for is bounded."""

import io
import re
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest

from sb3_relax.files import DIGEST, NotWhole, array_in, bytes_of_array, read_archive, sealed

MEMBERS = {"data": b"{}" * 200, "weights.npy": bytes_of_array(np.arange(50.0))}


def zipped(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def test_members_come_back_without_the_digest():
    assert read_archive(sealed(zipped(MEMBERS)), needs_digest=True) == MEMBERS
    assert read_archive(sealed(zipped(MEMBERS, zipfile.ZIP_DEFLATED))) == MEMBERS
    assert read_archive(zipped(MEMBERS)) == MEMBERS  # of an earlier version
    assert sealed(zipped(MEMBERS)) != zipped(MEMBERS)


def test_every_flipped_bit_is_refused_or_changes_nothing():
    whole = sealed(zipped(MEMBERS))
    refused = 0
    for position in range(0, 8 * len(whole), 3):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        try:
            assert read_archive(bytes(damaged), needs_digest=True) == MEMBERS
        except NotWhole:
            refused += 1
    assert refused > 0.8 * 8 / 3 * len(whole)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda members: members | {"data": b"[]"}, "digest is not that"),
        (lambda members: members | {"more": b""}, "digest is not that"),
        (lambda members: {k: v for k, v in members.items() if k != "data"}, "digest is not that"),
        (lambda members: {k.replace("data", "date"): v for k, v in members.items()}, "digest is not that"),
        (lambda members: {k: v for k, v in members.items() if k != DIGEST}, "no digest"),
    ],
)
def test_changed_members_with_a_valid_crc(change, reason):
    with zipfile.ZipFile(io.BytesIO(sealed(zipped(MEMBERS)))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with pytest.raises(NotWhole, match=reason):
        read_archive(zipped(change(members)), needs_digest=True)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name():
    file = io.BytesIO(zipped(MEMBERS))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("data", b"another")
    with pytest.raises(NotWhole, match="two of its members have one name"):
        read_archive(file.getvalue())


def bomb(says_so):
    """100 kB that unpack to 128 MB; it may say that it is small."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(deflate.compress(bytes(2**20)) for _ in range(128)) + deflate.flush()
    content = bytearray(zipped({"data": b"x"}, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (entry,) = archive.infolist()
    start = entry.header_offset + 30 + len("data")
    directory = content.index(b"PK\x01\x02")
    made = content[:start] + packed + content[directory:]
    moved = directory + len(made) - len(content)
    for at in (18, moved + 20):
        struct.pack_into("<L", made, at, len(packed))
        struct.pack_into("<L", made, at + 4, 2**27 if says_so else 1)
    struct.pack_into("<L", made, len(made) - 6, moved)
    return bytes(made)


def torch_bomb():
    return sealed(zipped({"policy.pth": zipped({"archive/data/0": bytes(2**27)}, zipfile.ZIP_DEFLATED)}))


READ = """
import resource, sys
from sb3_relax.files import NotWhole, read_archive
content = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_archive(content)
except NotWhole as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: bomb(True), "asks for 134,217,728 bytes of memory"),
        (lambda: bomb(False), "CRC-32|should have"),
        (torch_bomb, "asks for 134,217,728 bytes of memory"),
    ],
    ids=["says so", "says that it is small", "among torch's"],
)
def test_a_bomb_is_not_unpacked(make, reason):
    done = subprocess.run([sys.executable, "-c", READ], input=make(), capture_output=True, check=True)
    said, grown = done.stdout.decode().splitlines()
    assert re.search(reason, said), said
    assert int(grown) < 64  # MB


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.zeros(0, np.int8), np.array(3, ">i8")])
def test_arrays_come_back(array):
    read = array_in(bytes_of_array(array))
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    assert np.array_equal(read, array)


def with_header(text):
    """An .npy of 8 bytes whose header says this."""
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\x93NUMPY", b"\x93NUMPY\x03\x00", bytes(100)),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999,), }"),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (2.0,), }"),
        with_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
        with_header("{'descr': '<f8', 'shape': (1,), }"),
        with_header("{" * 100),
        bytes_of_array(np.zeros(3))[:-1],
        bytes_of_array(np.zeros(3)) + b"x",
    ],
)
def test_headers_that_promise_what_is_not_there(content):
    with pytest.raises(NotWhole):
        array_in(content)
