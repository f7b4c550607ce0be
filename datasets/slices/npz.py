"""The npz files of a slice store, laid out for numpy and read without its zip reader, which costs more than the disk.

A file holds its arrays one after the other, each with its size and checksum before it. One that is laid out otherwise,
as numpy.savez does it, or that is damaged is left to numpy, which reads it or says what is wrong.
"""

import math
import os
import struct
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from isal import isal_zlib

STORED, DEFLATED = 0, 8
# signature; version, flags, method, time, date; checksum, stored size, size; lengths of name and extra field
LOCAL = struct.Struct("<4s5H3I2H")
LISTED, END = 46, 22  # bytes of an entry of the directory, before its name, and of what follows the directory
LONGEST_NAME, HEADER = 32, 128  # bytes of a name at most, and of the header of an array of two axes
MAGIC = b"\x93NUMPY\x01\x00"  # an array, version 1.0
PARSING = Lock()  # NumPy parses headers with `ast`, which in Python 3.11 fails at times in several threads at once


class Member(NamedTuple):
    """An array in a file: `stored` bytes from `start` on, which become `size` bytes."""

    name: str
    method: int
    checksum: int
    start: int
    stored: int
    size: int


def pack(arrays: dict[str, np.ndarray], compress: bool) -> list[bytes | memoryview]:
    """The bytes of an npz file, in pieces."""
    pieces, directory, offset = [], [], 0
    for name, array in arrays.items():
        header = npy_header(array.dtype.str, array.shape)
        data = memoryview(np.ascontiguousarray(array)).cast("B")
        checksum, size = isal_zlib.crc32(data, isal_zlib.crc32(header)), len(header) + len(data)
        body = [header, data]
        if compress:
            body = [isal_zlib.compress(header + bytes(data), level=1, wbits=-15)]
        stored, file = sum(len(piece) for piece in body), f"{name}.npy".encode()
        # zip: version 2.0, no flags, deflate or stored, 1980-01-01
        method = DEFLATED if compress else STORED
        common = struct.pack("<5H3I2H", 20, 0, method, 0, 33, checksum, stored, size, len(file), 0)
        pieces += [b"PK\3\4", common, file, *body]
        directory.append(b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<3H2I", 0, 0, 0, 0, offset) + file)
        offset += LOCAL.size + len(file) + stored
    listing = b"".join(directory)
    end = b"PK\5\6" + struct.pack("<4H2IH", 0, 0, len(arrays), len(arrays), len(listing), offset, 0)
    return [*pieces, listing, end]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file."""
    with path.open("rb", buffering=0) as file:
        arrays = {member.name: _array(file.fileno(), member) for member in _members(file.fileno())}
    if not arrays or any(array is None for array in arrays.values()):
        with PARSING, np.load(path) as opened:
            return dict(opened)
    return arrays


def read_checksums(path: Path) -> dict[str, int] | None:
    """The checksums of the arrays, of which nothing else is read; None for a file that `pack` did not lay out."""
    with path.open("rb", buffering=0) as file:
        return {member.name: member.checksum for member in _members(file.fileno())} or None


@lru_cache
def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The bytes that an npz holds before an array's own."""
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def array_checksum(array: np.ndarray) -> int:
    """The checksum that an npz keeps of this array."""
    return isal_zlib.crc32(np.ascontiguousarray(array), isal_zlib.crc32(npy_header(array.dtype.str, array.shape)))


def _members(file: int) -> list[Member]:
    """What an open file holds; nothing where `pack` did not lay it out, or it is not whole."""
    members, offset, names = [], 0, 0
    while True:
        head = os.pread(file, LOCAL.size + LONGEST_NAME, offset)
        if len(head) < LOCAL.size or not head.startswith(b"PK\3\4"):
            break
        _, _, flags, method, _, _, checksum, stored, size, length, extra = LOCAL.unpack_from(head)
        if flags or extra or method not in (STORED, DEFLATED) or length > LONGEST_NAME:
            return []
        name = head[LOCAL.size : LOCAL.size + length].decode(errors="replace").removesuffix(".npy")
        members.append(Member(name, method, checksum, offset + LOCAL.size + length, stored, size))
        offset, names = members[-1].start + stored, names + length
    return members if offset + len(members) * LISTED + names + END == os.fstat(file).st_size else []


def _array(file: int, member: Member) -> np.ndarray | None:
    """The array, or None where it is not what its checksum or its header says."""
    try:
        if member.method == DEFLATED:
            body = isal_zlib.decompress(os.pread(file, member.stored, member.start), wbits=-15)
            dtype, shape, length = _format(body[:HEADER])
            array = np.frombuffer(body, dtype, offset=length).reshape(shape).copy()
            checksum = isal_zlib.crc32(body)
        else:
            header = os.pread(file, HEADER, member.start)
            dtype, shape, length = _format(header)
            if length + math.prod(shape) * dtype.itemsize != member.stored:
                return None
            array = np.empty(shape, dtype)
            os.preadv(file, [array], member.start + length)
            checksum = isal_zlib.crc32(array, isal_zlib.crc32(header[:length]))
    except (ValueError, isal_zlib.error):
        return None
    return array if checksum == member.checksum else None


@lru_cache
def _format(start: bytes) -> tuple[np.dtype, tuple[int, ...], int]:
    """Type and shape of the array that begins so, and where its numbers begin.

    Raises ValueError for what `pack` does not write.
    """
    length = len(MAGIC) + 2 + int.from_bytes(start[len(MAGIC) : len(MAGIC) + 2], "little")
    if not start.startswith(MAGIC) or length > len(start):
        raise ValueError("another version of the format, or a longer header")
    try:
        with PARSING:
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(BytesIO(start[len(MAGIC) :]))
    except Exception as error:  # a damaged header can raise anything
        raise ValueError("a damaged header") from error
    if is_fortran or dtype.hasobject:
        raise ValueError("not plain numbers in the order of their rows")
    return dtype, shape, length
