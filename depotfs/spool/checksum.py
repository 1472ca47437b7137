"""The checksum of a spool file: kept up while it is written in order, so that a seal hardly ever has to read."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Final

try:
    import google_crc32c
except ImportError:
    google_crc32c = None  # type: ignore[assignment]

_PIECE: Final = 1 << 20
_Data = bytes | bytearray | memoryview


def _extend_crc32(value: int, data: _Data) -> int:
    return zlib.crc32(data, value)


def _extend_crc32c(value: int, data: _Data) -> int:
    return int(google_crc32c.extend(value, bytes(data)))


_ALGORITHMS: Final[dict[str, Callable[[int, _Data], int]]] = {"crc32": _extend_crc32}
if google_crc32c is not None and google_crc32c.implementation == "c":
    _ALGORITHMS["crc32c"] = _extend_crc32c
_FASTEST: Final = list(_ALGORITHMS)[-1]
"""CRC-32C where the processor's instruction is within reach: 20 GB/s, zlib's CRC-32 has 3."""


class RunningChecksum:
    """That of the first `end` bytes of a file: as many as were written one after the other, from 0 on."""

    __slots__ = ("_algorithm", "_extend", "_value", "end")

    def __init__(self, algorithm: str = _FASTEST, value: int = 0, end: int = 0) -> None:
        self._algorithm = algorithm
        self._extend = _ALGORITHMS[algorithm]
        self._value = value
        self.end = end

    @classmethod
    def parsed(cls, text: str, size: int) -> RunningChecksum:
        """What `text` gave for so many bytes; it is of none where that cannot be understood."""
        algorithm, _, value = text.partition(":")
        try:
            return cls(algorithm, int(value, 16), size) if algorithm in _ALGORITHMS else cls()
        except ValueError:
            return cls()

    def fresh(self) -> RunningChecksum:
        """By the same algorithm, of no bytes."""
        return RunningChecksum(self._algorithm)

    def add(self, data: _Data, offset: int) -> None:
        """Those bytes were written there."""
        if offset < self.end:
            self.give_up()
        if offset == self.end:
            self._value = self._extend(self._value, data)
            self.end += len(data)

    def cut(self, size: int) -> None:
        """The file has that size now."""
        if size < self.end:
            self.give_up()

    def give_up(self) -> None:
        """What the bytes are is not known until they are read."""
        self._value = self.end = 0

    def read_on(self, fd: int, size: int) -> None:
        """It is that of the first `size` bytes, the missing ones read; of fewer if the file ends before. OSError."""
        while self.end < size and (data := os.pread(fd, min(_PIECE, size - self.end), self.end)):
            self.add(data, self.end)

    def agrees(self, other: RunningChecksum) -> bool:
        """Whether it is the same of as many bytes."""
        return (self.end, str(self)) == (other.end, str(other))

    def __str__(self) -> str:
        return f"{self._algorithm}:{self._value:08x}"
