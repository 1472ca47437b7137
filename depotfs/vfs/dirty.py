"""Dirty content: bytes of a file that its storage does not have yet, in a spool file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from depotfs.errors import Stale
from depotfs.io.reader import ContentReader
from depotfs.spool import SpoolFile, State
from depotfs.types import FileId, FileStat

_LONGEST_DELAY: Final = 300
"""Seconds: a storage that is back has what was kept for it within minutes."""


class Dirty:
    """What a file is for everybody on this mount while its commit is to come.

    Attributes:
        file: the spool file with the whole content.
        base: what the content was made from and its commit will be conditional on; None: nothing is stored.
        modified: seconds since the epoch, as it will be stored.
        changed: there is something to commit: bytes, a size, or the very existence of the file.
        written: bytes were written since the last commit (a close then commits, see the contract).
        attempts: ids of the commits that were tried and may have landed without our hearing of it.
        places: ids that were the file's own when one was.
        failures: commits of these very bytes that failed for causes that can pass, in a row.
        frozen: the bytes are being read for a commit or flushed: who wants to change them waits for the node's lock.
        acknowledged: a close or fsync was answered on the word of `file`'s seal; it is not written to any more.
        promise: an earlier state that was acknowledged: it lands if we die before `file` is sealed.
    """

    __slots__ = (
        "acknowledged", "attempts", "base", "changed", "failures", "file", "frozen", "modified", "places", "promise",
        "written",
    )  # fmt: skip

    def __init__(self, file: SpoolFile, base: FileStat | None, *, changed: bool) -> None:
        self.file = file
        self.base = base
        self.modified = int(time.time())
        self.changed = changed
        self.written = False
        self.attempts: set[str] = set()
        self.places: set[FileId] = set()
        self.failures = 0
        self.frozen = False
        self.acknowledged = False
        self.promise: SpoolFile | None = None

    def continue_in(self, file: SpoolFile) -> None:
        """`file` has the same bytes and takes the changes that come; what was acknowledged stays as it is."""
        self.keep_promise()
        self.promise, self.file, self.acknowledged = self.file, file, False

    def acknowledge(self) -> None:
        """`file` was sealed, and somebody is told so: it is the promise now, instead of any earlier one."""
        self.written = False
        self.acknowledged = True
        self.keep_promise()

    def keep_promise(self) -> None:
        """A later state was sealed or stored: the earlier one is not needed any more."""
        if self.promise is not None:
            self.promise.discard()
            self.promise.close()
            self.promise = None

    def discard(self) -> None:
        """Never committed, gone from the disk; handles go on reading `file`."""
        self.file.discard()
        self.acknowledged = False
        self.keep_promise()

    def supersede(self, other: Dirty) -> None:
        """It takes the place of the other: what that one may have stored without our hearing of it is replaced."""
        self.attempts |= other.attempts
        self.places |= other.places

    @property
    def due(self) -> bool:
        """Whether these bytes are to be stored: somebody asked for it, and nobody has changed them since."""
        return self.acknowledged or self.failures > 0

    @property
    def retry_delay(self) -> float:
        """Seconds until a commit is made again, after so many failures."""
        return float(min(_LONGEST_DELAY, 2 ** min(self.failures, 10)))

    @contextmanager
    def freeze(self) -> Iterator[None]:
        """While inside nobody changes the bytes; only with the node's lock held."""
        self.frozen = True
        try:
            yield
        finally:
            self.frozen = False

    def write(self, data: bytes, offset: int) -> int:
        """The bytes are in the file; returns how many. SpoolFull, OSError of the disk."""
        if self.file.state is State.DONE:  # unlinked: nobody but its handles ever sees it
            count = os.pwrite(self.file.fd, data, offset)
            self.file.size = max(self.file.size, offset + count)
        else:
            count = self.file.pwrite(data, offset)
        self.changed = self.written = True
        self.failures = 0
        self.modified = int(time.time())
        return count

    def truncate(self, size: int) -> None:
        """The file has that size. SpoolFull, OSError of the disk."""
        if self.file.state is State.DONE:
            os.ftruncate(self.file.fd, size)
            self.file.size = size
        else:
            self.file.truncate(size)
        self.changed = True
        self.failures = 0
        self.modified = int(time.time())

    def touch(self, modified: int) -> None:
        """It will be stored with that time (seconds since the epoch)."""
        self.modified = modified
        self.changed = True

    def drop(self) -> None:
        """Nobody wants the bytes any more: never committed, gone from the disk."""
        self.discard()
        self.file.close()


class SpoolReader(ContentReader):
    """The content that was committed, read from the descriptor it was written through."""

    def __init__(self, file: SpoolFile, stat: FileStat) -> None:
        self._file = file
        self.stat = stat

    def pread(self, offset: int, size: int) -> bytes:
        if offset >= self.stat.size:
            return b""
        data = self._file.pread(min(size, self.stat.size - offset), offset)
        if not data:
            raise Stale(f"The spooled content of {self.stat.file_id} is gone")
        return data

    def fileno(self) -> int | None:
        return self._file.fd

    def close(self) -> None:
        self._file.close()
