"""Readers: one version of a file's content, at any place or as a stream."""

from __future__ import annotations

import io
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from depotfs.errors import ContentDamaged, VersionChanged
from depotfs.io.checksums import WholeCheck
from depotfs.types import FileStat

T = TypeVar("T")

_REQUEST: Final = 8 << 20
"""Bytes asked for at once by default: a larger request is no faster, and costs its size in memory."""
_FOLLOWED: Final = 8
_PAUSE: Final = 0.01
"""How often a content that others replace all the time is read anew, and seconds before the first time; twice as many
before each further one."""


class ContentReader(ABC):
    """One version of a file's content, readable at any place, from any thread, until closed.

    Attributes:
        stat: what is being read.
    """

    stat: FileStat

    @abstractmethod
    def pread(self, offset: int, size: int) -> bytes:
        """Exactly the bytes from `offset` on, `size` of them or up to the end; b"" at or past the end.

        Raises:
            VersionChanged: the storage no longer has this version. Never a mix, never fewer bytes.
        """

    def pieces(self, offset: int, size: int, piece: int) -> Iterator[bytes | memoryview]:
        """What `pread` gives, in pieces of `piece` bytes (the last may be shorter), each as soon as it is here.

        With one request where the storage can; here, with one for each 8 MiB.
        """
        end = min(offset + size, self.stat.size)
        request = max(_REQUEST // piece, 1) * piece
        for start in range(offset, end, request):
            data = memoryview(self.pread(start, min(request, end - start)))
            for cut in range(0, len(data), piece):
                yield data[cut : cut + piece]

    def fileno(self) -> int | None:
        """A descriptor of a local file with just these bytes, for reading in place; None where there is none."""
        return None

    def rebase(self, stat: FileStat) -> None:
        """From now on the same bytes are known to the storage as `stat` (after an update of the metadata alone)."""
        self.stat = stat

    @abstractmethod
    def close(self) -> None:
        """Nothing is held any more. Idempotent."""


def read_exactly(reader: ContentReader, offset: int, size: int) -> bytes:
    """What `pread` gives; ContentDamaged if it is not what it owes: those bytes, all of them."""
    data = reader.pread(offset, size)
    expected = max(0, min(size, reader.stat.size - offset))
    if len(data) != expected:
        raise ContentDamaged(f"File {reader.stat.file_id} gave {len(data)} bytes instead of {expected} at {offset}")
    return data


def follow(read: Callable[[int], T]) -> T:
    """What `read` gives for a content that others may replace meanwhile: called with 0, 1, …, with growing pauses.

    Raises: VersionChanged if it is replaced all the time.
    """
    for number in range(_FOLLOWED):
        try:
            return read(number)
        except VersionChanged:
            time.sleep(_PAUSE * 2**number)
    return read(_FOLLOWED)


class ReaderStream(io.RawIOBase):
    """A `ContentReader` as a binary stream from its first byte on; reads ahead by nothing.

    Read to the end, the content is compared with the checksum that its storage keeps, if it keeps one: ContentDamaged.
    """

    def __init__(self, reader: ContentReader) -> None:
        super().__init__()
        self._reader = reader
        self._position = 0
        self._check = WholeCheck(reader.stat, "its storage")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = sought(offset, whence, self._position, self._reader.stat.size)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = read_exactly(self._reader, self._position, len(view))
        self._check.add(self._position, data)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def sought(offset: int, whence: int, position: int, size: int) -> int:
    """Where `seek` leads from `position` in a file of that size, as io has it. ValueError: nowhere."""
    base = {io.SEEK_SET: 0, io.SEEK_CUR: position, io.SEEK_END: size}.get(whence)
    if base is None:
        raise ValueError(f"invalid whence {whence!r}")
    if base + offset < 0:
        raise ValueError(f"negative seek position {base + offset}")
    return base + offset
