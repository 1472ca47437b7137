"""Checking content against its stored checksum while it arrives, in whatever order its requests are answered."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Final

from depotfs.errors import ContentDamaged
from depotfs.io.checksums import ALGORITHMS, Checksums
from depotfs.types import FileStat

_POLYNOMIALS: Final = {"crc32": 0xEDB88320, "crc32c": 0x82F63B78}
"""Reflected. Checksums of neighbouring pieces can be made that of both (zlib's crc32_combine)."""
_MOST_KEPT: Final = 64 << 20
"""Bytes that wait for their turn where pieces must be hashed in order; beyond, the content is not checked."""


class OtherContent(ContentDamaged):
    """All of a content was read and has another checksum than the stored one: asking for a part again is no help."""

    transient = False


class ContentCheck:
    """Compares a content with its checksum once each of its bytes has arrived; thread-safe.

    Reading here and there checks nothing: a checksum is that of the whole.
    """

    def __init__(self, stat: FileStat, where: str) -> None:
        self._stat = stat
        self._where = where
        self._lock = threading.Lock()
        self._ordered = _Ordered(stat) if stat.checksum.partition(":")[0] not in _POLYNOMIALS else _Combined(stat)
        self._damaged = False

    @classmethod
    def of(cls, stat: FileStat, where: str) -> ContentCheck | None:
        """None where no checksum is stored that can be worked out here."""
        known = stat.size and stat.checksum.partition(":")[0] in ALGORITHMS
        return cls(stat, where) if known else None

    def add(self, offset: int, data: bytes | memoryview) -> None:
        """Those bytes have arrived. Raises OtherContent if all have, and are not what is stored."""
        with self._lock:
            found = self._ordered.add(offset, data)
            self._damaged = self._damaged or (found is not None and found != self._stat.checksum)
            if self._damaged:
                raise OtherContent(
                    f"{self._where}/{self._stat.file_id}: other bytes arrived than are stored, by their checksum"
                )


class _Ordered:
    """For hashes, which want the bytes one after the other."""

    def __init__(self, stat: FileStat) -> None:
        self._name = stat.checksum.partition(":")[0]
        self._size = stat.size
        self._running: Checksums | None = Checksums([self._name])
        self._next = 0
        self._waiting: dict[int, bytes | memoryview] = {}

    def add(self, offset: int, data: bytes | memoryview) -> str | None:
        """The checksum, once all bytes are here."""
        if self._running is None or offset < self._next:
            return None
        self._waiting[offset] = data
        if sum(map(len, self._waiting.values())) > _MOST_KEPT:
            self._running, self._waiting = None, {}
            return None
        while (following := self._waiting.pop(self._next, None)) is not None:
            self._running.add(following)
            self._next += len(following)
        return self._running.values()[self._name] if self._next == self._size else None


class _Combined:
    """For cyclic redundancy checks, of which those of two neighbours give that of both."""

    def __init__(self, stat: FileStat) -> None:
        self._name = stat.checksum.partition(":")[0]
        self._size = stat.size
        self._parts: dict[int, tuple[int, int]] = {}  # offset → end, checksum
        self._ends: dict[int, int] = {}  # end → offset

    def add(self, offset: int, data: bytes | memoryview) -> str | None:
        """The checksum, once all bytes are here. A piece that follows another one is added to it."""
        running = Checksums([self._name])
        running.add(data)
        value, end = int(running.values()[self._name].partition(":")[2], 16), offset + len(data)
        if offset in self._parts:
            return None
        before = self._ends.pop(offset, None)
        if before is not None:
            value = combined(_POLYNOMIALS[self._name], self._parts[before][1], value, len(data))
            offset = before
        self._parts[offset] = end, value
        self._ends[end] = offset
        return self._whole()

    def _whole(self) -> str | None:
        end, value = self._parts.get(0, (0, 0))
        while end < self._size and end in self._parts:
            further, other = self._parts.pop(end)
            value = combined(_POLYNOMIALS[self._name], value, other, further - end)
            self._ends.pop(end, None)
            end = further
            self._parts[0], self._ends[end] = (end, value), 0
        return f"{self._name}:{value:08x}" if end == self._size else None


def combined(polynomial: int, first: int, second: int, length: int) -> int:
    """The CRC of two pieces one after the other, of which the second has that length."""
    for power in range(length.bit_length()):
        if length >> power & 1:
            first = _times(_zeros(polynomial, power), first)
    return first ^ second


@lru_cache(maxsize=128)
def _zeros(polynomial: int, power: int) -> tuple[int, ...]:
    """The matrix over GF(2) that 2^power zero bytes are to a CRC, by columns."""
    if power:
        half = _zeros(polynomial, power - 1)
        return tuple(_times(half, column) for column in half)
    bit = (polynomial, *(1 << n for n in range(31)))
    for _ in range(3):  # one bit, two, four, eight
        bit = tuple(_times(bit, column) for column in bit)
    return bit


def _times(matrix: tuple[int, ...], vector: int) -> int:
    product = 0
    for column in matrix:
        if vector & 1:
            product ^= column
        vector >>= 1
    return product
