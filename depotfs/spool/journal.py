"""The journal: one append-only file of what was promised about every spool file, see `depotfs.spool.lines`."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from depotfs import disk
from depotfs.errors import SpoolFull
from depotfs.spool.flush import SharedFlush
from depotfs.spool.lines import encode, encode_begin
from depotfs.spool.recovery import Record

_logger = logging.getLogger(__name__)


class Journal:
    """Appends records; thread-safe, since a durable seal waits for the disk in a thread.

    Args:
        boot: the kernel's id of this boot.
        highest: the highest number that any file had so far.

    Attributes:
        size: bytes of the file.
        compact_at: bytes beyond twice what is alive; those of some 10,000 small files, so that its flush is rare.
    """

    compact_at = 4 << 20

    def __init__(self, path: str, boot: str, highest: int) -> None:
        self.path = path
        self.size = 0
        self._boot = boot
        self._highest = highest
        self._fd = -1
        self._lock = threading.Lock()
        self._alive: dict[int, bytes] = {}
        self._alive_size = 0
        self._owed: dict[int, bytes] = {}
        self._compact_beyond = 0
        self._torn = False
        self._doubtful = False
        self._flushing = False
        self._shared = SharedFlush(self._flush)

    def begin(self, records: Iterable[Record]) -> None:
        """The file holds these records alone, on the disk; the old one is replaced in one step.

        On a full disk the old one is gone on with: decided anew it says the same, and daemons must start to make room.

        Raises:
            SpoolFull: no room, and there is no old one.
            OSError: of the disk.
        """
        self._alive = {record.number: encode(record) for record in records}
        self._alive_size = sum(map(len, self._alive.values()))
        try:
            self._rewrite()
        except SpoolFull as error:
            if not os.path.exists(self.path):
                raise
            _logger.warning("%s", error)
            self._continue()

    def append(self, record: Record, *, durable: bool = False) -> None:
        """The record survives the death of the daemon; if `durable`, of the machine, by a flush that many share.

        Raises:
            SpoolFull: no room for it; the journal says what it said before.
            OSError: of the disk; the same.
        """
        line = encode(record)
        with self._lock:
            before = self._alive.get(record.number)
            self._write(line)
            self._keep(record.number, line)
            if self.size > max(self._compact_beyond, self.compact_at + 2 * self._alive_size) and not self._flushing:
                self._compact()
        if durable:
            try:
                self.flush()
            except OSError:
                self._take_back(record.number, line, before)
                raise

    def owe(self, record: Record) -> None:
        """As `append`, but where it cannot be written now, it is with the next one that can be.

        For what is so whatever the journal says; a crash before that leaves the record before it.
        """
        line = encode(record)
        with self._lock:
            self._keep(record.number, line)
            self._owed[record.number] = line
            self._pay()

    def flush(self) -> None:
        """Every record so far survives the death of the machine. Raises OSError: those since the last flush may not."""
        self._shared.wait()

    def forget(self, number: int) -> None:
        """The file is done and nothing is left of its bytes: its record goes with the next compaction."""
        with self._lock:
            self._alive_size -= len(self._alive.pop(number, b""))
            if self._owed:
                self._pay()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _keep(self, number: int, line: bytes) -> None:
        self._alive_size += len(line) - len(self._alive.pop(number, b""))
        self._alive[number] = line
        self._highest = max(self._highest, number)

    def _take_back(self, number: int, line: bytes, before: bytes | None) -> None:
        """The record could not be flushed, so that nobody believes in it: the one before it counts again."""
        with self._lock:
            if self._alive.get(number) is line and before is not None:
                self._keep(number, before)
                self._owed[number] = before
                self._pay()

    def _pay(self) -> None:
        try:
            self._write(b"")
        except OSError as error:
            _logger.warning("%s; %d records are written with the next one", error, len(self._owed))

    def _write(self, line: bytes) -> None:
        """The line, and what is owed before it, is in the file, or nothing of it."""
        if self._torn:
            os.ftruncate(self._fd, self.size)
            self._torn = False
        content = b"".join(self._owed.values()) + line
        try:
            _write_all(self._fd, content, self.path)
        except OSError:
            # Half a line would swallow the next one. If the daemon dies before it is cut off, it is a torn last line.
            self._torn = True
            with suppress(OSError):
                os.ftruncate(self._fd, self.size)
                self._torn = False
            raise
        self.size += len(content)
        self._owed.clear()

    def _flush(self) -> None:
        with self._lock:
            fd = self._fd
            if self._owed:
                self._pay()
            # Meanwhile it is not compacted, so that the descriptor stays what it is.
            self._flushing = flushable = not self._doubtful
        if flushable:
            try:
                disk.sync_file(fd)
                return
            except OSError as error:
                _logger.warning("the spool's journal %s is written anew, it could not be flushed: %s", self.path, error)
                self._doubtful = True
            finally:
                self._flushing = False
        # What a flush failed to write no other one tries (fsync(2), NOTES): another file takes its place.
        with self._lock:
            self._rewrite()

    def _compact(self) -> None:
        try:
            self._rewrite()
        except OSError as error:
            # The long journal says the same. It is tried again after as many bytes more.
            _logger.warning("the spool's journal %s could not be shortened: %s", self.path, error)
            self._compact_beyond = self.size + self.compact_at

    def _rewrite(self) -> None:
        content = encode_begin(self._boot, self._highest) + b"".join(self._alive.values())
        fresh = Path(self.path + ".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, content, str(fresh))
            disk.sync_file(fd)
            # A crash before this line leaves the old journal, after it the new one; they say the same.
            fresh.rename(self.path)
        except BaseException:
            os.close(fd)
            with suppress(OSError):
                fresh.unlink()
            raise
        # From here on a loss of power may still leave the old one, so none may be flushed that is not flushed anew.
        self._use(fd, len(content), doubtful=True)
        disk.sync_directory(str(fresh.parent))
        self._doubtful = False

    def _continue(self) -> None:
        """Records are appended to the old journal, behind its last whole line."""
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        size = Path(self.path).read_bytes().rfind(b"\n") + 1
        os.ftruncate(fd, size)
        self._use(fd, size, doubtful=False)

    def _use(self, fd: int, size: int, *, doubtful: bool) -> None:
        self.close()
        self._fd, self.size, self._doubtful = fd, size, doubtful
        self._torn = False
        self._owed.clear()


def _write_all(fd: int, content: bytes, path: str) -> None:
    """Raises SpoolFull if not all of it fits, OSError: some of it may be there."""
    reason = "the disk is full"
    try:
        if os.write(fd, content) == len(content):
            return
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        reason = error.strerror or reason
    raise SpoolFull(f"no room for the spool's journal {path}: {reason}")
