"""The spool holds dirty files until their storages have them, through crashes and restarts.

On the disk, in a directory of mode 0700:

    lock       flock(2) by the daemon that owns it, with its process id
    journal    what was promised, see `depotfs.spool.journal`
    data/<n>   the bytes of file n, unless they are staged where their storage can rename them into place
    lost/<n>   bytes that no record is left of, moved aside at the start; for a person
    journal.damaged    the last journal that had unreadable lines in it
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from depotfs import disk
from depotfs.errors import SpoolBusy
from depotfs.spool import place
from depotfs.spool.file import SpoolFile
from depotfs.spool.home import Budget, Home
from depotfs.spool.journal import Journal
from depotfs.spool.lines import read
from depotfs.spool.recovery import Record, decide, last_records
from depotfs.spool.state import State
from depotfs.spool.target import Target

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")  # random(4): new at each boot
_MANY: Final = 64
"""Files whose bytes are better sent to the disk together than one after the other."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SpoolStatistics:
    """Files and dirty bytes (all states), how many files of each state, bytes of journal."""

    current_files: int
    current_bytes: int
    current_open: int
    current_sealed: int
    current_held: int
    current_missing: int
    current_journal_bytes: int
    peak_bytes: int
    total_files: int


class Spool:
    """All dirty files of one daemon.

    Args:
        directory: made if missing; on a local disk, since flock(2) and fsync(2) are relied on.
        limit: dirty bytes that all files together may have, None for as many as the disk holds.

    Attributes:
        lost_directory: where bytes without a record are put aside; it need not be there.
    """

    def __init__(self, directory: str, limit: int | None = None) -> None:
        self.directory = os.path.abspath(directory)
        self.lost_directory = os.path.join(self.directory, "lost")
        self._data = os.path.join(self.directory, "data")
        self._home = Home(Journal(os.path.join(self.directory, "journal"), "", 0), Budget(limit))
        self._stagings: dict[str, tuple[str, int]] = {}
        self._lock = -1
        self._next = 1
        self._total = 0

    def open(self) -> list[SpoolFile]:
        """The spool is this process's; returns what was left of the time before, in the order of their last records.

        Sealed files are to be landed once `is_intact` says so; open ones were never closed and held ones failed: for
        a person; of missing ones their storage is to be asked.

        Raises:
            SpoolBusy: another daemon has it.
            SpoolUnreadable: written by a newer program; nothing was changed.
            OSError: of the disk.
        """
        disk.make_directory(self.directory, 0o700)
        self._lock = lock(os.path.join(self.directory, "lock"))
        try:
            self._recover()
        except BaseException:
            self.close()
            raise
        return list(self._home.files.values())

    def close(self) -> None:
        """Descriptors and the lock are given up, files stay as they are for the next `open`. May be called again."""
        for file in self._home.files.values():
            file.close()
        self._home.journal.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def new_file(self, target: Target, staging: str | None = None) -> SpoolFile:
        """An empty open file, journalled.

        Args:
            staging: directory on the storage's own disk; the bytes are then the only file, `file`, of a new
                directory `spool-<random hex>` in it, which the storage may rename into place.

        Raises:
            SpoolFull: no room for the record.
            OSError: of the disk or the staging directory.
        """
        number, self._next = self._next, self._next + 1
        if staging is None:
            path, disk_id = f"data/{number}", 0
        else:
            place, disk_id = self._staging(staging)
            path = f"{place}/spool-{os.urandom(8).hex()}/file"
        file = self._file(number, path, disk_id, target)
        file.create()
        self._home.files[number] = file
        self._total += 1
        return file

    def make_durable(self) -> None:
        """What is promised or held survives a loss of power, as an orderly end has it; the log names what may not.

        Bytes that nobody was promised anything of are flushed, too. The journal is flushed once, for all.
        """
        files = self.files()
        if len(files) >= _MANY:
            for directory in {os.path.dirname(os.path.dirname(file.path)) for file in files}:
                with suppress(OSError):
                    disk.sync_filesystem(directory)
        for file in files:
            try:
                file.prepare_end()
            except OSError as error:
                _logger.warning("spool file %d may not survive a loss of power: %s", file.number, error)
        try:
            self._home.journal.flush()
        except OSError as error:
            _logger.warning("what was changed last in the spool may not survive a loss of power: %s", error)

    def free_space(self) -> int:
        """Bytes that may still be written: what the disk has, at most what the limit leaves. Raises OSError."""
        free, room = disk.free_space(self.directory), self.room
        return free if room is None else min(free, room)

    @property
    def room(self) -> int | None:
        """Bytes that the limit leaves, None without one."""
        limit = self._home.budget.limit
        return None if limit is None else max(0, limit - self._home.budget.used)

    def files(self) -> list[SpoolFile]:
        """All files that are not done, oldest first."""
        return sorted(self._home.files.values(), key=lambda file: file.number)

    def has_staged(self, directory: str) -> bool:
        """Whether a file that is not done is staged there."""
        within = os.path.abspath(directory) + os.sep
        return any(file.staged and file.path.startswith(within) for file in self._home.files.values())

    def statistics(self) -> SpoolStatistics:
        states = Counter(file.state for file in self._home.files.values())
        return SpoolStatistics(
            current_files=len(self._home.files),
            current_bytes=self._home.budget.used,
            current_open=states[State.OPEN],
            current_sealed=states[State.SEALED],
            current_held=states[State.HELD],
            current_missing=states[State.MISSING],
            current_journal_bytes=self._home.journal.size,
            peak_bytes=self._home.budget.peak,
            total_files=self._total,
        )

    def _file(self, number: int, path: str, disk_id: int, target: Target) -> SpoolFile:
        return SpoolFile(
            number,
            os.path.join(self.directory, path),
            target,
            recorded_path=path,
            disk_id=disk_id,
            home=self._home,
        )

    def _staging(self, directory: str) -> tuple[str, int]:
        """Absolute path of a staging directory and f_fsid of its disk, found out once."""
        if directory not in self._stagings:
            self._stagings[directory] = os.path.abspath(directory), disk_of(directory)
        return self._stagings[directory]

    def _recover(self) -> None:
        """Replays the journal. Wherever this is cut short, the next start replays the same."""
        path = Path(self._home.journal.path)
        replay = read(path.read_bytes() if path.exists() else b"")
        boot = _boot_id()
        os.makedirs(self._data, 0o700, exist_ok=True)
        records = last_records(replay.records)
        highest = max(replay.highest, self._set_lost_aside(records))
        self._next = highest + 1
        self._home.journal = Journal(str(path), boot, highest)
        kept = [self._recover_file(record, rebooted=replay.boot != boot) for record in records.values()]
        if replay.damaged:
            _keep_damaged(path, replay.damaged)
        # The bytes of files that are done were removed above, so now their records may go.
        self._home.journal.begin(record for record in kept if record is not None)

    def _recover_file(self, record: Record, *, rebooted: bool) -> Record | None:
        """The record that the journal keeps of that file, None if nothing is left of it. Raises OSError."""
        path = os.path.join(self.directory, record.path)
        found, away = _look(path, record.disk)
        verdict = decide(record, None if found is None else found.st_size, away=away, rebooted=rebooted)
        if verdict.state is State.DONE or record.target is None:
            if record.state is State.HELD:
                _logger.info("spool file %d was held, and somebody took its bytes", record.number)
            removed = place.remove(path, staged=os.path.isabs(record.path))
            return None if removed else Record(record.number, "done", State.DONE, record.path)
        if verdict.reason != record.reason:
            _logger.warning("spool file %d, %r: %s", record.number, record.target.filename, verdict.reason)
        file = self._file(record.number, record.path, record.disk, record.target)
        file.adopt(record, found, verdict)
        self._home.files[record.number] = file
        if not verdict.final:
            return record
        return replace(record, event="recover", state=file.state, reason=file.reason, since=file.since)

    def _set_lost_aside(self, records: dict[int, Record]) -> int:
        """Bytes without a record are in `lost/`; returns the highest number that is in use in either place."""
        lost = self.lost_directory
        known = {record.path for record in records.values()}
        for name in sorted(os.listdir(self._data)):
            if f"data/{name}" not in known:
                os.makedirs(lost, 0o700, exist_ok=True)
                os.rename(os.path.join(self._data, name), os.path.join(lost, name))
                _logger.warning("bytes without a record are now in %s/%s", lost, name)
        names = os.listdir(self._data) + (os.listdir(lost) if os.path.isdir(lost) else [])
        return max((int(name) for name in names if name.isascii() and name.isdigit()), default=0)


def lock(path: str) -> int:
    """A descriptor that holds the lock until closed, by the death of the process too. Raises SpoolBusy, OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(OSError):  # only for people; the disk may be full
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        owner = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise SpoolBusy(
            f"the spool {os.path.dirname(path)} is in use by the process {owner}; "
            "stop that one, or give this one a spool directory of its own"
        ) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def disk_of(path: str) -> int:
    """f_fsid (statvfs(3)) of the file system that `path` is, or would be, on; a reboot keeps it. Raises OSError."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.statvfs(path).f_fsid


def _look(path: str, disk_id: int) -> tuple[os.stat_result | None, bool]:
    """What is at `path`, and if nothing, whether that is since its disk is away. A broken disk is away."""
    try:
        return os.stat(path), False
    except FileNotFoundError:
        return None, disk_id not in (0, disk_of(path))
    except OSError as error:
        _logger.warning("%s cannot be looked at: %s", path, error)
        return None, True


def _keep_damaged(journal: Path, lines: int) -> None:
    kept = journal.with_name("journal.damaged")
    kept.unlink(missing_ok=True)
    os.link(journal, kept)
    _logger.warning("%d lines of %s are damaged and were ignored; it is kept as %s", lines, journal, kept)


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
