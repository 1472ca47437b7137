"""Content on its way into a storage: one interface over bytes, streams and files on disk."""

from __future__ import annotations

import os
from typing import Any, Protocol, runtime_checkable

from depotfs.errors import DepotError

CHUNK = 1 << 20
"""Bytes read at once from a stream: large enough that Python's cost per call does not count."""


@runtime_checkable
class Content(Protocol):
    """Bytes to store, read once from the first to the last.

    Attributes:
        size: bytes in all, None where a stream does not tell.
    """

    @property
    def size(self) -> int | None: ...

    def read(self, size: int) -> bytes:
        """The next bytes: exactly `size` of them, fewer only at the end, b"" after it."""

    def restart(self) -> bool:
        """True: reading begins again at the first byte. False: this source cannot."""


class BytesContent:
    """Content that is in memory. `data` is kept as it is: hand over bytes, not a buffer that changes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._position = 0

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, size: int) -> bytes:
        start, self._position = self._position, min(self._position + size, len(self.data))
        return self.data[start : self._position]

    def restart(self) -> bool:
        self._position = 0
        return True


class StreamContent:
    """Content of an open binary file object, from its current position on.

    Args:
        stream: has `read(n)` giving bytes; what it gives is checked, a str is a TypeError.
        size: bytes that will come, if known.
    """

    def __init__(self, stream: Any, size: int | None = None) -> None:
        self._stream = stream
        self._size = size
        self._start = self._tell()

    def _tell(self) -> int | None:
        try:
            return int(self._stream.tell()) if self._stream.seekable() else None
        except (AttributeError, OSError, TypeError, ValueError):
            return None

    @property
    def size(self) -> int | None:
        return self._size

    def read(self, size: int) -> bytes:
        pieces: list[bytes] = []
        left = size
        while left > 0:
            piece = self._stream.read(left)
            if not piece:
                if isinstance(piece, str):
                    raise TypeError("Only bytes can be stored, not unicode")
                break
            if not isinstance(piece, bytes):
                piece = _checked(piece)
            pieces.append(piece)
            left -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def restart(self) -> bool:
        if self._start is None:
            return False
        try:
            self._stream.seek(self._start)
        except (OSError, ValueError):
            return False
        return True


class FileContent:
    """Content of a complete file on disk, readable at any place from any thread.

    Attributes:
        path: where the file is; fd: an open descriptor of it, kept open by the caller.
        movable: a storage on the same file system may take the file itself by rename(2) instead of
            copying; it then sets `moved`, and the caller must not write to `fd` any more.
    """

    def __init__(self, path: str, fd: int, size: int, *, movable: bool = False) -> None:
        self.path = path
        self.fd = fd
        self._size = size
        self._position = 0
        self.movable = movable
        self.moved = False

    @property
    def size(self) -> int:
        return self._size

    def pread(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`; fewer only at the end. Does not move the position of `read`."""
        return os.pread(self.fd, max(0, min(size, self._size - offset)), offset)

    def read(self, size: int) -> bytes:
        data = self.pread(self._position, size)
        if len(data) < min(size, self._size - self._position):
            raise DepotError(f"{self.path} became shorter while it was being stored")
        self._position += len(data)
        return data

    def restart(self) -> bool:
        self._position = 0
        return True


def _checked(piece: object) -> bytes:
    if isinstance(piece, str):
        raise TypeError("Only bytes can be stored, not unicode")
    if isinstance(piece, bytearray | memoryview):
        return bytes(piece)
    raise TypeError(f"Only bytes can be stored, not {type(piece).__name__}")
