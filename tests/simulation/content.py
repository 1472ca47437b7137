"""Contents that are mostly holes, so that files of 40 MiB cost nothing."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

_PAGE: Final = 4096
_NOTHING: Final = bytes(_PAGE)
_BYTES = re.compile(rb"[^\0]+")

Extent = tuple[int, bytes]
"""Offset, and bytes of which none is zero."""


@dataclass(frozen=True, slots=True)
class Sparse:
    """An immutable content; equal ones have equal bytes.

    Attributes:
        size: bytes.
        extents: all bytes that are not zero, in order, each as long as it can be.
    """

    size: int = 0
    extents: tuple[Extent, ...] = ()

    def write(self, offset: int, data: bytes) -> Sparse:
        """The content after pwrite(2)."""
        end = offset + len(data)
        pieces = [*_outside(self.extents, offset, end), *found(data, offset)]
        return Sparse(max(self.size, end), _joined(sorted(pieces)))

    def truncate(self, size: int) -> Sparse:
        """The content after truncate(2)."""
        return Sparse(size, tuple(_inside(self.extents, 0, size)))

    def read(self, offset: int, size: int) -> bytes:
        """The bytes of pread(2)."""
        end = min(offset + size, self.size)
        if end <= offset:
            return b""
        data = bytearray(end - offset)
        for start, piece in _inside(self.extents, offset, end):
            data[start - offset : start - offset + len(piece)] = piece
        return bytes(data)

    def __str__(self) -> str:
        shown = ", ".join(f"{offset}:{_short(data)}" for offset, data in self.extents[:6])
        return f"{self.size} bytes [{shown}{', …' if len(self.extents) > 6 else ''}]"


def _short(data: bytes) -> str:
    return f"{data[:12].decode('latin-1')}…×{len(data)}" if len(data) > 16 else data.decode("latin-1")


def found(data: bytes, offset: int) -> Iterator[Extent]:
    """The extents of bytes that begin at `offset`, neighbours not yet joined."""
    for start in range(0, len(data), _PAGE):
        page = data[start : start + _PAGE]
        if page != _NOTHING[: len(page)]:
            for match in _BYTES.finditer(page):
                yield offset + start + match.start(), match.group()


def of_bytes(data: bytes) -> Sparse:
    """That content."""
    return Sparse(len(data), _joined(found(data, 0)))


def of_file(fd: int, size: int) -> Sparse:
    """The first `size` bytes of an open file; holes are not read. OSError if it is none (any more)."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(errno.EIO, "its program is dead")
    extents: list[Extent] = []
    offset = 0
    while offset < size:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind the offset
                break
            raise
        end = min(size, os.lseek(fd, offset, os.SEEK_HOLE))
        if offset < end:
            extents.extend(found(os.pread(fd, end - offset, offset), offset))
        offset = max(end, offset + 1)
    return Sparse(size, _joined(extents))


def _inside(extents: Iterable[Extent], start: int, end: int) -> Iterator[Extent]:
    for offset, data in extents:
        first, last = max(offset, start), min(offset + len(data), end)
        if first < last:
            yield first, data[first - offset : last - offset]


def _outside(extents: Iterable[Extent], start: int, end: int) -> Iterator[Extent]:
    for offset, data in extents:
        if offset < start:
            yield offset, data[: start - offset]
        if offset + len(data) > end:
            cut = max(0, end - offset)
            yield offset + cut, data[cut:]


def _joined(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """Neighbours are one extent."""
    runs: list[tuple[int, list[bytes]]] = []
    following = -1
    for offset, data in extents:
        if offset == following:
            runs[-1][1].append(data)
        else:
            runs.append((offset, [data]))
        following = offset + len(data)
    return tuple((offset, b"".join(pieces)) for offset, pieces in runs)
