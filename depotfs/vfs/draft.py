"""A `Draft` is bytes of a file that its storage does not have yet, in a spool file."""

from __future__ import annotations

import enum
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


class Phase(enum.Enum):
    """How far a draft is."""

    WRITABLE = "writable"
    """It may be changed: nobody was promised anything about these very bytes."""
    SEALED = "sealed"
    """A close or an fsync was answered on the word of the journal: a change goes into a copy."""
    DETACHED = "detached"
    """Stored, held for a person or unlinked: only those who have the file open see it."""


class Draft:
    """What a file is for everybody on this mount while its commit is to come.

    Attributes:
        file: the spool file with the whole content.
        modified: seconds since the epoch, as it will be stored.
        changed: there is something to commit: bytes, a size, or the very existence of the file.
        written: bytes were written since the last commit (a close then commits, see the contract).
        attempts: ids of the commits that were tried and may have landed though their reply was lost.
        places: file ids that those attempts went to.
        failures: commits of these very bytes that failed for causes that can pass, in a row.
        unverified: it is an earlier daemon's, and its bytes were not compared with what was promised.
        storing: the bytes are being read for a commit or flushed: who wants to change them waits for the file's lock.
        sealed_earlier: an earlier state that was acknowledged: it lands if we die before `file` is sealed.
    """

    __slots__ = (
        "attempts", "changed", "failures", "file", "modified", "phase", "places", "sealed_earlier", "storing",
        "unverified", "written",
    )  # fmt: skip

    def __init__(self, file: SpoolFile, *, changed: bool) -> None:
        self.file = file
        self.modified = int(time.time())
        self.changed = changed
        self.written = False
        self.attempts: set[str] = set()
        self.places: set[FileId] = set()
        self.failures = 0
        self.phase = Phase.WRITABLE
        self.storing = False
        self.unverified = False
        self.sealed_earlier: SpoolFile | None = None

    @property
    def writable(self) -> bool:
        """Whether the bytes may be changed at this moment."""
        return self.phase is not Phase.SEALED and not self.storing

    @property
    def due(self) -> bool:
        """Whether these bytes are to be stored: somebody asked for it, and nobody has changed them since."""
        return self.phase is Phase.SEALED or self.failures > 0

    @property
    def retry_delay(self) -> float:
        """Seconds until a commit is made again, after so many failures."""
        return float(min(_LONGEST_DELAY, 2 ** min(self.failures, 10)))

    @property
    def may_have_landed(self) -> bool:
        """Whether the storage may have these bytes, or earlier ones of this draft, though no reply said so."""
        return bool(self.attempts)

    @contextmanager
    def stored_from(self) -> Iterator[None]:
        """While inside nobody changes the bytes; only with the file's lock held."""
        self.storing = True
        try:
            yield
        finally:
            self.storing = False

    # --- transitions ---------------------------------------------------------------------------------------------

    def acknowledge(self) -> None:
        """`file` was sealed, and somebody is told so: it is the promise now, instead of any earlier one."""
        assert self.phase is not Phase.DETACHED, self
        self.phase = Phase.SEALED
        self.written = False
        self._drop_earlier()

    def continue_in(self, file: SpoolFile) -> None:
        """`file` has the same bytes and takes the changes that come; what was acknowledged stays as it is."""
        assert self.phase is Phase.SEALED, self
        self._drop_earlier()
        self.sealed_earlier, self.file, self.phase = self.file, file, Phase.WRITABLE

    def detach(self) -> None:
        """The storage has the bytes, or a person is to decide about them: no earlier state is needed any more."""
        self.phase = Phase.DETACHED
        self._drop_earlier()

    def discard(self) -> None:
        """Never committed, gone from the disk; handles go on reading `file`."""
        self.file.discard()
        self.detach()

    def drop(self) -> None:
        """As `discard`, and nobody reads it."""
        self.file.discard(read_on=False)
        self.file.close()
        self.detach()

    def supersede(self, other: Draft) -> None:
        """It takes the place of the other: what that one may have stored, its reply lost, is replaced."""
        self.attempts |= other.attempts
        self.places |= other.places

    def park(self) -> None:
        """Nobody reads or writes it for now: its descriptor is given up until somebody does."""
        if self.file.state is State.SEALED and not self.storing:
            self.file.close()

    def _drop_earlier(self) -> None:
        if self.sealed_earlier is not None:
            self.sealed_earlier.discard(read_on=False)
            self.sealed_earlier.close()
            self.sealed_earlier = None

    # --- changes -------------------------------------------------------------------------------------------------

    def write(self, data: bytes, offset: int) -> int:
        """The bytes are in the file; returns how many. SpoolFull, OSError of the disk."""
        assert self.writable, self
        if self.file.state is State.DONE:  # unlinked: nobody but its handles ever sees it
            count = os.pwrite(self.file.fd, data, offset)
            self.file.size = max(self.file.size, offset + count)
        else:
            count = self.file.pwrite(data, offset)
        self.written = True
        self._note_change()
        return count

    def truncate(self, size: int) -> None:
        """The file has that size. SpoolFull, OSError of the disk."""
        assert self.writable, self
        if self.file.state is State.DONE:
            os.ftruncate(self.file.fd, size)
            self.file.size = size
        else:
            self.file.truncate(size)
        self._note_change()

    def touch(self, modified: int) -> None:
        """It will be stored with that time (seconds since the epoch)."""
        self.modified = modified
        self.changed = True

    def _note_change(self) -> None:
        self.changed = True
        self.failures = 0
        self.modified = int(time.time())

    def check_invariants(self) -> None:
        """AssertionError if its state contradicts itself."""
        assert (self.file.state in (State.DONE, State.HELD)) == (self.phase is Phase.DETACHED), self
        assert self.phase is not Phase.SEALED or self.file.state is State.SEALED, self
        assert self.sealed_earlier is None or self.phase is Phase.WRITABLE, self

    def __repr__(self) -> str:
        storing = " storing" if self.storing else ""
        return f"<Draft {self.phase.value}{storing} {self.file.state.value} {self.file.size} bytes>"


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
