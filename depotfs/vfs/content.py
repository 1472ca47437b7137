"""The open content of one version of a file, shared by all handles of the file."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from typing import Final, TypeVar

from depotfs.cache import PIECE, Arrived, BlockCache, Source
from depotfs.errors import BadHandle, ContentDamaged
from depotfs.io.reader import ContentReader
from depotfs.remote.checking import ContentCheck, OtherContent
from depotfs.remote.remote import Remote
from depotfs.remote.workers import in_thread
from depotfs.types import FileStat

T = TypeVar("T")

_LARGEST_READ: Final = 1 << 20
"""The kernel's largest read request: 256 pages."""
_buffer = memoryview(bytearray(_LARGEST_READ))
"""One for all reads in place: it is filled and handed to the kernel with no await between."""


class OpenContent:
    """Reads one version; closed when the last user has let go of it.

    A local descriptor is read in place, memory at once, everything else through the cache.
    """

    def __init__(self, remote: Remote, reader: ContentReader, cache: BlockCache) -> None:
        self._remote = remote
        self._reader = reader
        self._cache = cache
        self._fd = reader.fileno()
        self._in_place = True
        self._busy = 0
        self._closing = False
        self.key = (remote.identity, reader.stat.file_id, reader.stat.version)
        self.size = reader.stat.size
        inline = self._fd is not None or remote.inline
        self._check = None if inline else ContentCheck.of(reader.stat, remote.identity)
        self._source = Source(self.key, self.size, self._fetch) if self._fd is None and not remote.inline else None

    @property
    def fd(self) -> int | None:
        """A local descriptor with just these bytes, None where there is none."""
        return self._fd

    def rebase(self, stat: FileStat) -> None:
        """The storage knows the same bytes by `stat` now: only the metadata was changed."""
        self._reader.rebase(stat)

    async def read(self, offset: int, size: int) -> bytes | memoryview:
        """Exactly the bytes from `offset` on, `size` of them or up to the end. Use the result before the next await.

        Raises: VersionChanged, StorageUnavailable, ContentDamaged, OSError of the local disk.
        """
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        if self._closing:
            raise BadHandle("The content is closed")
        if self._fd is not None:
            data = self._read_in_place(self._fd, offset, size)
            return data if data is not None else await self._used(self._read_in_thread(offset, size))
        if self._remote.inline:
            return self._reader.pread(offset, size)
        assert self._source is not None
        return await self._used(self._cache.read(self._source, offset, size))

    async def _fetch(self, offset: int, length: int, arrived: Arrived) -> None:
        """One ranged request to the storage: what the cache calls."""
        try:
            await self._used(self._remote.fetch(self._reader, offset, length, PIECE, arrived, self._check))
        except OtherContent:
            self._cache.forget(self.key)  # whoever opens it next asks for all of it again
            raise

    def _read_in_place(self, fd: int, offset: int, size: int) -> memoryview | None:
        """None: the bytes are not in the page cache, or the file system cannot tell."""
        if not self._in_place or size > _LARGEST_READ:
            return None
        try:
            got = os.preadv(fd, [_buffer[:size]], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError:
            self._in_place = False  # EOPNOTSUPP: tmpfs before Linux 6.x and others
            return None
        return _buffer[:size] if got == size else None

    async def _read_in_thread(self, offset: int, size: int) -> bytes:
        assert self._fd is not None
        if self._in_place:
            data = await in_thread(os.pread, self._fd, size, offset)
        else:
            data = os.pread(self._fd, size, offset)
        if len(data) != size:
            raise ContentDamaged(f"{self._remote.identity}/{self.key[1]} became shorter than {self.size} bytes")
        return data

    async def _used(self, work: Awaitable[T]) -> T:
        """`work` is done before the content is closed."""
        self._busy += 1
        try:
            return await work
        finally:
            self._busy -= 1
            if self._closing and not self._busy:
                self._reader.close()

    def close(self) -> None:
        """Let go of, at once or when the reads under way are done. Idempotent."""
        self._closing = True
        if self._source is not None:
            self._cache.release(self._source)
        if not self._busy:
            self._reader.close()
