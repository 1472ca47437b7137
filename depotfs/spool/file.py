"""A spool file is one file's dirty bytes and what is promised about them."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress
from typing import Final

from depotfs import disk
from depotfs.errors import SpoolFull
from depotfs.spool.checksum import RunningChecksum
from depotfs.spool.journal import Journal
from depotfs.spool.recovery import Record
from depotfs.spool.state import State
from depotfs.spool.target import Target

_BLOCK: Final = 512  # unit of st_blocks, stat(2)
_SMALL: Final = 4 << 20
"""Bytes whose checksum takes no longer than a few milliseconds of an event loop."""
_PIECE: Final = 1 << 20
_logger = logging.getLogger(__name__)


class Budget:
    """How many dirty bytes there are in all files of a spool, and how many there may be.

    Attributes:
        limit: bytes, None for as many as the disk holds.
        used, peak: bytes now, and the most there ever were.
    """

    __slots__ = ("limit", "peak", "used")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.used = 0
        self.peak = 0

    def check(self, size: int) -> None:
        """Raises SpoolFull if that many bytes more are too many; fewer never are."""
        if self.limit is not None and size > 0 and self.used + size > self.limit:
            raise SpoolFull(f"the spool's limit of {self.limit} bytes is reached")

    def charge(self, size: int) -> None:
        """Counts `size` bytes more, or fewer if negative."""
        self.used += size
        if self.used > self.peak:
            self.peak = self.used


class SpoolFile:
    """Bytes of a file on their way to a storage.

    One task at a time uses it. No method waits for anything but the local disk; `seal(durable=True)` and the
    removal of large files are worth a thread, the rest is not.

    Attributes:
        number: names it in this spool, for people too; never used twice.
        path: absolute path of the bytes while they are the spool's.
        size: bytes.
        target: where they go.
        reason: why it is held, or why its last commit failed, "" otherwise.
    """

    __slots__ = (
        "_budget",
        "_charged",
        "_checksum",
        "_disk",
        "_durable",
        "_entry_durable",
        "_fd",
        "_files",
        "_flush_failed",
        "_journal",
        "_recorded_path",
        "_written",
        "number",
        "path",
        "reason",
        "size",
        "staged",
        "state",
        "target",
    )

    def __init__(
        self,
        number: int,
        path: str,
        target: Target,
        *,
        recorded_path: str,
        disk_id: int,
        journal: Journal,
        budget: Budget,
        files: dict[int, SpoolFile],
    ) -> None:
        self.number = number
        self.path = path
        self.target = target
        self.size = 0
        self.state = State.OPEN
        self.reason = ""
        self.staged = os.path.isabs(recorded_path)
        self._recorded_path = recorded_path
        self._disk = disk_id
        self._journal = journal
        self._budget = budget
        self._files = files
        self._fd = -1
        self._written = 0
        self._charged = 0
        self._durable = False
        self._entry_durable = False
        self._flush_failed = False
        self._checksum = RunningChecksum()

    def __repr__(self) -> str:
        return f"<SpoolFile {self.number} {self.state.value} {self.size} bytes for {self.target.file_id}>"

    @property
    def fd(self) -> int:
        """A read-write descriptor, opened after a restart when first asked for, or done with. Raises OSError then."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        return self._fd

    def pwrite(self, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Bytes written at `offset`, as pwrite(2); a sealed or held file is open again.

        Raises:
            SpoolFull: the spool's limit would be exceeded; nothing was written.
            OSError: of the disk, as it is.
        """
        if self.state is not State.OPEN:
            self.reopen()
        self._budget.check(min(self._written + len(data), max(self.size, offset + len(data))) - self._charged)
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
        self._budget.check(written)
        self.truncate(size)
        self._written = written
        self._checksum.give_up()
        self._account()

    def seal(self, target: Target, *, durable: bool) -> None:
        """Promised: these bytes go to `target`, even if the daemon dies now; if `durable`, the machine.

        The file is on the disk before the record is. A crash before the record leaves an open file, which
        is kept but not landed; nobody was told otherwise. What the last record says already is not said again:
        on a full disk that would keep from their storage the very bytes that would make room.

        Raises:
            SpoolFull: no room for the record; the state is as before.
            OSError: of the disk.
        """
        self._expect_alive()
        if durable:
            self._flush()
        elif self.state is State.SEALED and target == self.target:
            return
        if not self._checksum.covers(self.size) and (durable or self.size <= _SMALL):
            self._checksum = RunningChecksum.of(self.fd, self.size)
        # Bytes that were flushed for an earlier seal, and not changed since, still are.
        flushed = durable or (self._durable and self.state is not State.OPEN)
        self._record("seal", State.SEALED, target, durable=flushed, flush=durable)

    def make_durable(self) -> None:
        """What is promised, or held for a person, survives a loss of power. Raises as `seal`."""
        if self.state is State.SEALED and not self._durable:
            self.seal(self.target, durable=True)
        elif self.state is State.HELD and not self._durable:
            self._flush()
            self._record("hold", State.HELD, self.target, durable=True, reason=self.reason, flush=True)

    def is_intact(self) -> bool:
        """Whether the bytes are those that were sealed, as far as a checksum was kept. Reads them all; OSError."""
        return RunningChecksum.of(self.fd, self.size).agrees(self._checksum)

    def reopen(self) -> None:
        """A write is coming that supersedes the seal: from here on a crash lands nothing. Same target.

        The record precedes the write: a promise about bytes that are being changed would land a mix. It is
        flushed if the seal was, since after a power loss the seal would be there, with some of the new bytes.
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

        Where the journal has no room for that, it is so until the restart, which decides anew.
        """
        self._expect_alive()
        try:
            self._record("hold", State.HELD, self.target, durable=self._durable, reason=reason)
        except SpoolFull as error:
            _logger.warning("spool file %d is held (%s): %s", self.number, reason, error)
            self.state, self.reason = State.HELD, reason

    def committed(self, *, moved: bool = False) -> None:
        """The storage has acknowledged the bytes: they are no longer the spool's, `fd` still reads them.

        A crash before the record leaves a sealed file: the commit is found done by its id, or, if `moved`,
        its path is found empty. A crash after it leaves bytes that the next start removes.

        Args:
            moved: the storage took the file itself (renamed the directory into place).
        """
        self._finish(remove=not moved)

    def discard(self) -> None:
        """Nobody wants the bytes; they never land. `fd` still reads them. A crash leaves what `committed` leaves."""
        self._finish(remove=True)

    def close(self) -> None:
        """The descriptor is closed; the bytes stay what they are. May be called again."""
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
            self._budget.charge(charged - self._charged)
            self._charged = charged

    def _flush(self) -> None:
        if self._flush_failed:
            self._write_again()
        self._flush_failed = True
        disk.sync_file(self.fd)
        self._flush_failed = False
        if not self._entry_durable:
            directory = os.path.dirname(self.path)
            disk.sync_directory(directory)
            if self.staged:
                disk.sync_directory(os.path.dirname(directory))
            self._entry_durable = True

    def _write_again(self) -> None:
        """After a flush that failed the kernel takes its pages for clean, whatever the disk has (fsync(2), NOTES)."""
        for offset in range(0, self.size, _PIECE):
            if data := os.pread(self.fd, _PIECE, offset):
                os.pwrite(self.fd, data, offset)

    def _record(
        self, event: str, state: State, target: Target, *, durable: bool = False, reason: str = "", flush: bool = False
    ) -> None:
        checksum = self._checksum.text(self.size)
        record = Record(
            self.number, event, state, self._recorded_path, self.size, durable, reason, target, self._disk, checksum
        )
        self._journal.append(record, durable=flush)
        self.state = state
        self.target = target
        self.reason = reason
        self._durable = durable

    def create(self) -> None:
        """The file exists, empty. For the spool only; raises as `Spool.new_file`.

        The record precedes it: bytes without a record could not be told from a stranger's.
        """
        self._record("open", State.OPEN, self.target)
        try:
            self._fd = self._create_staged() if self.staged else self._open_new(0o600)
        except BaseException:
            self._journal.append(Record(self.number, "done", State.DONE, self._recorded_path))
            self._journal.forget(self.number)
            raise

    def _open_new(self, mode: int) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)

    def _create_staged(self) -> int:
        directory = os.path.dirname(self.path)
        try:
            os.mkdir(directory)
        except FileNotFoundError:
            # The storage removes its staging directory whenever it is idle.
            os.makedirs(directory)
        try:
            # The storage's file in the end: with the modes that any program's new file gets.
            return self._open_new(0o666)
        except BaseException:
            with suppress(OSError):
                os.rmdir(directory)
            raise

    def adopt(self, record: Record, found: os.stat_result | None, state: State, reason: str) -> None:
        """As it was before a restart; for the spool only. Its descriptor is opened when needed: there may be many."""
        self.size = record.size if found is None else found.st_size
        self.state = state
        self.reason = reason
        self._durable = record.durable
        self._checksum = RunningChecksum.parsed(record.checksum, record.size)
        if found is not None:
            self._written = min(found.st_size, found.st_blocks * _BLOCK)
            self._account()

    def _finish(self, *, remove: bool) -> None:
        if self.state is State.DONE:
            return
        with suppress(OSError):  # gone already, or too many are open: reading tells
            _ = self.fd  # opened while the bytes have a path
        try:
            self._journal.append(Record(self.number, "done", State.DONE, self._recorded_path))
        except SpoolFull as error:
            # As good, once the bytes are away: a record without them is done. And removing them makes room.
            _logger.warning("spool file %d is done: %s", self.number, error)
        self.state = State.DONE
        self._budget.charge(-self._charged)
        self._charged = self._written = 0
        self._files.pop(self.number, None)
        if remove:
            remove_bytes(self.path, staged=self.staged)
        self._journal.forget(self.number)


def remove_bytes(path: str, *, staged: bool) -> None:
    """Nothing is at `path`; if staged, its directory is gone too. What cannot be removed is logged: it is done with."""
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        if staged:
            _remove_directory(os.path.dirname(path))
    except OSError as error:
        _logger.warning("%s is not needed any more but cannot be removed: %s", path, error)


def _remove_directory(directory: str) -> None:
    with suppress(FileNotFoundError):
        try:
            os.rmdir(directory)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            # What a storage began to write beside the bytes when it died.
            for name in os.listdir(directory):
                os.unlink(f"{directory}/{name}")
            os.rmdir(directory)
