"""A spool file is one file's dirty bytes and what is promised about them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from depotfs import disk
from depotfs.errors import SpoolDamaged
from depotfs.spool import place
from depotfs.spool.checksum import RunningChecksum
from depotfs.spool.home import Home
from depotfs.spool.recovery import Record, Verdict
from depotfs.spool.state import State
from depotfs.spool.target import Target

_BLOCK: Final = 512  # unit of st_blocks, stat(2)
_SMALL: Final = 4 << 20
"""Bytes that are read and summed up within some two milliseconds, which an event loop can spare."""
_PIECE: Final = 1 << 20


class SpoolFile:
    """Bytes of a file on their way to a storage.

    One task at a time uses it. No method waits for anything but the local disk; `seal(durable=True)`, `sum_up`,
    `is_intact` and the removal of large files are worth a thread, the rest is not. A descriptor is opened when it is
    first needed, and again after `close`: at the limit of open files the call raises OSError, and nothing has changed.

    Attributes:
        number: names it in this spool, for people too; never used twice.
        path: absolute path of the bytes while they are the spool's.
        size: bytes.
        target: where they go.
        since: seconds since the epoch at which it came to be in its state.
        reason: why it is held, or why its last commit failed, "" otherwise.
    """

    __slots__ = (
        "_charged", "_checksum", "_disk", "_doubtful", "_durable", "_entry_durable", "_fd", "_home",
        "_recorded_path", "_written", "number", "path", "reason", "since", "size", "staged", "state", "target",
    )  # fmt: skip

    def __init__(self, number: int, path: str, target: Target, *, recorded_path: str, disk_id: int, home: Home) -> None:
        self.number = number
        self.path = path
        self.target = target
        self.size = 0
        self.state = State.OPEN
        self.since = 0.0
        self.reason = ""
        self.staged = os.path.isabs(recorded_path)
        self._recorded_path = recorded_path
        self._disk = disk_id
        self._home = home
        self._fd = -1
        self._written = 0
        self._charged = 0
        self._durable = False
        self._entry_durable = False
        self._doubtful = False
        self._checksum = RunningChecksum()

    def __repr__(self) -> str:
        return f"<SpoolFile {self.number} {self.state.value} {self.size} bytes for {self.target.file_id}>"

    @property
    def fd(self) -> int:
        """A read-write descriptor, opened when first asked for. Raises OSError then."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        return self._fd

    @property
    def is_durable(self) -> bool:
        """Whether what the journal promises of it survives a loss of power."""
        return self._durable

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Bytes written at `offset`, as pwrite(2); a sealed or held file is open again.

        Raises:
            SpoolFull: the spool's limit would be exceeded; nothing was written.
            OSError: of the disk, as it is.
        """
        if self.state is not State.OPEN:
            self.reopen()
        self._home.budget.check(min(self._written + len(data), max(self.size, offset + len(data))) - self._charged)
        count = os.pwrite(self._fd if self._fd >= 0 else self.fd, data, offset)
        self._checksum.add(data if count == len(data) else memoryview(data)[:count], offset)
        self._written += count
        if offset + count > self.size:
            self.size = offset + count
        self._account()
        return count

    def pread(self, size: int, offset: int) -> bytes:
        """At most `size` bytes from `offset`, fewer only at the end. Raises OSError."""
        return os.pread(self._fd if self._fd >= 0 else self.fd, size, offset)

    def truncate(self, size: int) -> None:
        """The file has that size, zeros where it grew (they cost nothing of the limit). Raises OSError, SpoolFull."""
        if self.state is not State.OPEN:
            self.reopen()
        os.ftruncate(self.fd, size)
        self.size = size
        self._checksum.cut(size)
        # Which of the bytes written are gone is not known: as many as fit are taken to be there.
        self._written = min(self._written, size)
        self._account()

    def allot(self, size: int, written: int) -> None:
        """The new, empty file has that size; `written` bytes that are about to be copied to `fd` are counted already.

        Raises:
            SpoolFull: the spool's limit would be exceeded; nothing has changed.
            OSError: of the disk.
        """
        self._home.budget.check(written)
        self.truncate(size)
        self._written = written
        self._checksum.give_up()
        self._account()

    def seal(self, target: Target, *, durable: bool) -> None:
        """Promised: these bytes go to `target`, even if the daemon dies now; if `durable`, the machine.

        The file is on the disk before the record is. A crash before the record leaves an open file, which
        is kept but not landed; nobody was told otherwise. What the last record says already is not said again:
        on a full disk that would keep from their storage the very bytes that would make room.

        The record has the checksum of the bytes, unless more than 4 MiB would have to be read for it where a thread
        does not wait for the disk anyway: see `sum_up`.

        Raises:
            SpoolFull: no room for the record; the state is as before.
            SpoolDamaged: a flush had failed, and the bytes are not those that were written any more.
            OSError: of the disk; the state is as before.
        """
        self._expect_alive()
        if not durable and self.state is State.SEALED and target == self.target:
            return
        if durable or self.size - self._checksum.end <= _SMALL:
            self.sum_up()
        if durable:
            self.flush()
        # Bytes that were flushed for an earlier seal, and not changed since, still are.
        flushed = durable or (self._durable and self.state is not State.OPEN)
        self._record("seal", State.SEALED, target, durable=flushed, flush=durable)

    def sum_up(self) -> None:
        """The checksum is that of all the bytes: what was not written in order is read. Raises OSError."""
        if self._checksum.end < self.size:
            with self._opened() as fd:
                self._checksum.read_on(fd, self.size)

    @property
    def is_summed_up(self) -> bool:
        """Whether a seal has the checksum without reading more than an event loop can spare."""
        return self.size - self._checksum.end <= _SMALL

    @property
    def checksum(self) -> RunningChecksum:
        """Of as many of the bytes as it is known of: of those of an earlier daemon, as they were sealed."""
        return self._checksum

    def is_intact(self) -> bool:
        """Whether the bytes are those that were sealed, as far as a checksum was kept. Reads them all; OSError."""
        found = self._checksum.fresh()
        with self._opened() as fd:
            found.read_on(fd, self._checksum.end)
        return found.agrees(self._checksum)

    def flush(self) -> None:
        """The bytes are on the disk, and found there; what is promised of them is not changed.

        Raises:
            SpoolDamaged: an earlier flush failed, and they are not those that were written any more.
            OSError: of the disk.
        """
        with self._opened() as fd:
            if self._doubtful:
                self._write_again(fd)
            try:
                disk.sync_file(fd)
            except OSError:
                # What it could not write the kernel takes for clean: the next flush would be silent, and what is read
                # may be as it was before (fsync(2), NOTES). Written again it is there for both.
                self._doubtful = True
                with suppress(OSError):
                    self._write_again(fd)
                raise
        if not self._entry_durable:
            if self.staged:
                disk.sync_directory(os.path.dirname(self.path))
            for directory in place.shared_directories(self.path, staged=self.staged):
                self._home.directories.flush(directory)
            self._entry_durable = True

    def prepare_end(self) -> None:
        """The bytes are on the disk, and once it is flushed the journal says so; what is promised stays. As `flush`."""
        if self.state is State.MISSING or self._durable:
            return
        self.flush()
        if self.state is not State.OPEN:
            self._record("flush", self.state, self.target, durable=True, reason=self.reason)

    def reopen(self) -> None:
        """A write is coming that supersedes the seal: from here on a crash lands nothing. Same target.

        The record precedes the write: a promise about bytes that are being changed would land a mix. It is
        flushed if the seal was, since after a power loss the seal would be there, with some of the new bytes.

        Raises:
            SpoolFull: no room for the record; the seal stands.
            OSError: of the disk; the seal stands, but after a loss of power the file may be an open one.
        """
        self._expect_alive()
        if self.state is not State.OPEN:
            self._record("reopen", State.OPEN, self.target, flush=self._durable)

    def retarget(self, target: Target) -> None:
        """The bytes go elsewhere, by another name or on other terms; the state stays. Journalled, not flushed."""
        self._expect_alive()
        self._record("retarget", self.state, target, durable=self._durable, reason=self.reason)

    def hold(self, reason: str) -> None:
        """Kept for a person, over restarts, until sealed again, written again or discarded.

        Where the journal has no room for that, it says so as soon as it has; a crash before lets the restart decide.
        """
        self._expect_alive()
        self._record("hold", State.HELD, self.target, durable=self._durable, reason=reason, must=False)

    def delay(self, reason: str) -> None:
        """Its commit failed for a cause that can pass: people are told the reason, after a restart, too."""
        self._expect_alive()
        if reason != self.reason:
            self._record("delay", self.state, self.target, durable=self._durable, reason=reason, must=False)

    def committed(self, *, moved: bool = False, read_on: bool = True) -> None:
        """The storage has acknowledged the bytes: they are no longer the spool's.

        A crash before the record leaves a sealed file: the commit is found done by its id, or, if `moved`,
        its path is found empty. A crash after it leaves bytes that the next start removes.

        Args:
            moved: the storage took the file itself (renamed the directory into place).
            read_on: `fd` still reads them.
        """
        self._finish(remove=not moved, read_on=read_on)

    def discard(self, *, read_on: bool = True) -> None:
        """Nobody wants the bytes; they never land. A crash leaves what `committed` leaves. `read_on`: as there."""
        self._finish(remove=True, read_on=read_on)

    def close(self) -> None:
        """The descriptor is closed; the bytes stay what they are, and whoever needs them opens them again."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _expect_alive(self) -> None:
        if self.state is State.DONE:
            raise ValueError(f"spool file {self.number} is done")

    def _account(self) -> None:
        # Overwriting costs nothing, and never more is counted than there is.
        charged = min(self._written, self.size)
        if charged != self._charged:
            self._home.budget.charge(charged - self._charged)
            self._charged = charged

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor, closed afterwards unless there was one before: a file that waits holds none."""
        resting = self._fd < 0
        try:
            yield self.fd
        finally:
            if resting:
                self.close()

    def _write_again(self, fd: int) -> None:
        if not self.is_intact():
            raise SpoolDamaged(f"The bytes of spool file {self.number} were lost when they could not be flushed")
        for offset, end in disk.data_ranges(fd, self.size):
            for piece in range(offset, end, _PIECE):
                os.pwrite(fd, os.pread(fd, min(_PIECE, end - piece), piece), piece)
        self._doubtful = False

    def _record(
        self,
        event: str,
        state: State,
        target: Target,
        *,
        durable: bool = False,
        reason: str = "",
        flush: bool = False,
        must: bool = True,
    ) -> None:
        """The journal says so; unless it `must`, it need not have room for that now. Raises SpoolFull, OSError."""
        since = self.since if state is self.state and self.since else time.time()
        checksum = str(self._checksum) if self._checksum.end == self.size else ""
        record = Record(
            self.number,
            event,
            state,
            self._recorded_path,
            self.size,
            durable,
            reason,
            target,
            self._disk,
            checksum,
            since,
        )
        if must:
            self._home.journal.append(record, durable=flush)
        else:
            self._home.journal.owe(record)
        self.state = state
        self.since = since
        self.target = target
        self.reason = reason
        self._durable = durable

    def create(self) -> None:
        """The file exists, empty. For the spool only; raises as `Spool.new_file`.

        The record precedes it: bytes without a record could not be told from a stranger's.
        """
        self._record("open", State.OPEN, self.target)
        try:
            self._fd = place.create(self.path, staged=self.staged)
            for directory in place.shared_directories(self.path, staged=self.staged):
                self._home.directories.note_entry(directory)
        except BaseException:
            self._home.journal.owe(Record(self.number, "done", State.DONE, self._recorded_path))
            self._home.journal.forget(self.number)
            raise

    def adopt(self, record: Record, found: os.stat_result | None, verdict: Verdict) -> None:
        """As it was before a restart; for the spool only. Its descriptor is opened when needed: there may be many."""
        self.size = record.size if found is None else found.st_size
        self.state = verdict.state
        self.since = record.since or (time.time() if found is None else found.st_mtime)
        if verdict.state not in (record.state, State.MISSING):
            self.since = time.time()
        self.reason = verdict.reason
        self._durable = record.durable
        if record.state is not State.OPEN and self.size == record.size:
            self._checksum = RunningChecksum.parsed(record.checksum, record.size)
        if found is not None:
            self._written = min(found.st_size, found.st_blocks * _BLOCK)
            self._account()

    def _finish(self, *, remove: bool, read_on: bool) -> None:
        if self.state is State.DONE:
            return
        if read_on:
            with suppress(OSError):  # gone already, or too many are open: reading tells
                _ = self.fd  # opened while the bytes have a path
        journal = self._home.journal
        journal.owe(Record(self.number, "done", State.DONE, self._recorded_path))
        self.state = State.DONE
        self._home.budget.charge(-self._charged)
        self._charged = self._written = 0
        self._home.files.pop(self.number, None)
        if not remove or place.remove(self.path, staged=self.staged):
            journal.forget(self.number)
