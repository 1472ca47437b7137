"""A backup: one storage's files brought into another, as they are, under their own ids.

What a run has done stays done, and the next one goes on from there: that is how it is incremental, and how it resumes.
"""

from __future__ import annotations

import enum
import io
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, Final

from depotfs.errors import (
    AlreadyStored,
    ConfigurationError,
    ContentDamaged,
    DepotError,
    FileNotStored,
    InvalidFileId,
    InvalidMetadata,
    UnknownDepot,
    VersionChanged,
)
from depotfs.io.checksums import ALGORITHMS, Checksums, algorithm
from depotfs.io.content import StreamContent
from depotfs.io.foreign import ForeignStorage, adopt
from depotfs.io.interfaces import FileStorage
from depotfs.io.native import NativeStorage
from depotfs.io.reader import ContentReader, ReaderStream
from depotfs.manager import DepotManager
from depotfs.types import ABSENT, ANY, OCTET_STREAM, PRESENT, UNNAMED, FileEntry, FileId, FileMetadata, FileStat

_WINDOW: Final = 8 << 20
"""Bytes fetched at once, per worker: what keeps the cost of a request small beside its transfer."""
_SETTLING: Final = 2.0
"""Seconds from the time of a file until no other one is stored with that time: its second, and as long for an upload
to arrive and for clocks to differ."""


@dataclass(frozen=True, slots=True)
class BackupFailure:
    """A file that is not in the target as it is in the source (or, to be deleted, is still there), and why."""

    file_id: FileId
    error: Exception


@dataclass(frozen=True, slots=True)
class BackupProgress:
    """How far a backup is. Files are counted when they are done with.

    Attributes:
        copied, unchanged, deleted, failed: files.
        vanished: files that were listed and then gone before they could be copied; no failure.
        copied_bytes: of the files copied.
        file_id: the file that was done with last.
    """

    copied: int = 0
    unchanged: int = 0
    vanished: int = 0
    deleted: int = 0
    failed: int = 0
    copied_bytes: int = 0
    file_id: FileId | None = None


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup did, in the words of `BackupProgress`, and every file that it could not do."""

    copied: int
    unchanged: int
    vanished: int
    deleted: int
    copied_bytes: int
    failures: tuple[BackupFailure, ...]

    @property
    def ok(self) -> bool:
        """Every file of the source that was there all the time is in the target, the same."""
        return not self.failures


def backup(
    source: str | Any,
    target: str | Any,
    *,
    workers: int = 4,
    delete: bool = False,
    verify: bool = True,
    progress: Callable[[BackupProgress], None] | None = None,
) -> BackupReport:
    """Every file of `source` is in `target` with its id, filename, content type and time, but for those in `failures`.

    Files that are there already, by size, metadata and (where both sides keep one) checksum, are not sent again.
    What the target holds of a file is replaced only by the whole new one. Memory is bounded by
    `workers` × 16 MiB and what the target's uploads take, with `delete` also by the ids to delete.

    Args:
        source, target: storages, of any class, or their names or aliases at the `DepotManager`.
        workers: files handled at the same time.
        delete: files that only the target has are deleted there, after everything else, and only if the whole source
            could be listed; each is looked up in the source once more before.
        verify: what was stored is compared: by the checksum that the target keeps, else by reading it back. A file
            that differs is removed from the target again, so that no later run takes it for a good one.
        progress: called in this thread after each file; what it raises ends the backup.

    Raises:
        UnknownDepot: no storage has that name.
        ConfigurationError: (a ValueError) source and target are the same storage.
        DepotError …: what listing either storage raised. The files that were handled until then stay;
            nothing is deleted.
    """
    run = _Run(*_two(_resolve(source), _resolve(target)), verify=verify)
    count = _Count(progress)
    only_in_target: list[FileEntry] | None = [] if delete else None
    _work(run, run.bring, _to_bring(run, only_in_target), workers, count)
    _work(run, run.delete, iter(only_in_target or ()), workers, count)
    return count.report()


class _Done(enum.Enum):
    """What became of a file; the values are fields of `BackupProgress`."""

    COPIED = "copied"
    UNCHANGED = "unchanged"
    VANISHED = "vanished"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class _Pair:
    """A file as the listings tell of it; `there` is None if the target has none of that id."""

    here: FileEntry
    there: FileEntry | None

    @property
    def file_id(self) -> FileId:
        return self.here.file_id


class _Count:
    """Progress and failures, kept by the thread that called `backup`."""

    def __init__(self, tell: Callable[[BackupProgress], None] | None) -> None:
        self._tell = tell
        self._progress = BackupProgress()
        self._failures: list[BackupFailure] = []

    def done(self, file_id: FileId, what: _Done, size: int) -> None:
        now = self._progress
        counted = {what.value: getattr(now, what.value) + 1}
        self._now(replace(now, file_id=file_id, copied_bytes=now.copied_bytes + size, **counted))

    def failed(self, file_id: FileId, error: Exception) -> None:
        _release(error)
        self._failures.append(BackupFailure(file_id, error))
        self._now(replace(self._progress, file_id=file_id, failed=self._progress.failed + 1))

    def report(self) -> BackupReport:
        p = self._progress
        return BackupReport(p.copied, p.unchanged, p.vanished, p.deleted, p.copied_bytes, tuple(self._failures))

    def _now(self, progress: BackupProgress) -> None:
        self._progress = progress
        if self._tell is not None:
            self._tell(progress)


class _Run:
    """What the workers do with one file each."""

    def __init__(self, source: FileStorage, target: FileStorage, *, verify: bool) -> None:
        self.source = source
        self.target = target
        self.stopped = threading.Event()
        self._verify = verify
        # A class of others may set the time itself; then it is that of the copying.
        self._keeps_time = isinstance(target, NativeStorage)
        self._algorithms = ALGORITHMS if verify else frozenset[str]()

    def bring(self, pair: _Pair) -> tuple[_Done, int]:
        """The target has the file as the source has it; what was done, and bytes copied."""
        file_id = pair.here.file_id
        there = None if pair.there is None else pair.there.stat or _find_or_damaged(self.target, file_id)
        try:
            try:
                return self._bring(pair.here.stat or self.source.stat(file_id), there)
            except (VersionChanged, AlreadyStored):
                # Written meanwhile, here or there. One that is written all the time is for another run.
                return self._bring(self.source.stat(file_id), _find_or_damaged(self.target, file_id))
        except FileNotStored:
            if _find(self.source, file_id) is not None:
                raise
            return _Done.VANISHED, 0

    def _bring(self, here: FileStat, there: FileStat | None) -> tuple[_Done, int]:
        if there is not None and self._agree(here, there):
            return _Done.UNCHANGED, 0
        here = self._settled(here)
        self._copy(here, there)
        return _Done.COPIED, here.size

    def _settled(self, here: FileStat) -> FileStat:
        """The file as the source has it when whatever replaces it gets a later time.

        Until then one of equal size and time could, which no later run would take for another file.
        """
        left = here.metadata.modified + _SETTLING - time.time()
        if not 0 < left <= 2 * _SETTLING:  # a time further ahead is one that somebody set
            return here
        self.stopped.wait(left)
        _go_on(self.stopped)
        return self.source.stat(here.file_id)

    def delete(self, entry: FileEntry) -> tuple[_Done, int]:
        """The target does not have the file, unless the source has it now."""
        if _find(self.source, entry.file_id) is not None:
            return _Done.UNCHANGED, 0
        self.target.remove(entry.file_id, expect=entry.stat.version if entry.stat else ANY)
        return _Done.DELETED, 0

    def _agree(self, here: FileStat, there: FileStat) -> bool:
        ours, theirs = here.metadata, there.metadata
        late = not self._keeps_time and theirs.modified > ours.modified
        return (
            here.size == there.size
            and (ours.modified == theirs.modified or late)
            and (ours.filename, ours.content_type) == (theirs.filename, theirs.content_type)
            and (algorithm(here) != algorithm(there) or here.checksum.lower() == there.checksum.lower())
        )

    def _copy(self, here: FileStat, there: FileStat | None) -> None:
        reader = self.source.open_content(here)
        try:
            content = _Passing(reader, self._algorithms, self.stopped)
            expect = ABSENT if there is None else there.version
            stored = self.target.put(content, here.metadata, file_id=here.file_id, expect=expect)
            if self._verify:
                self._check(here, stored, content)
        finally:
            reader.close()

    def _check(self, here: FileStat, stored: FileStat, content: _Passing) -> None:
        what = f"File {here.file_id} in {self.target.identity()}"
        if stored.size != here.size or not self._same_bytes(stored, content):
            self.target.remove(stored.file_id, expect=stored.version)
            raise ContentDamaged(f"{what} was stored with other bytes than were sent, and is removed again")
        if self._keeps_time and stored.metadata != here.metadata:
            raise ContentDamaged(f"{what} was stored as {stored.metadata} instead of {here.metadata}")

    def _same_bytes(self, stored: FileStat, content: _Passing) -> bool:
        kept = algorithm(stored)
        # Of the next files only what this target keeps is worked out; without that, what reading back needs.
        self._algorithms = frozenset({kept if kept in ALGORITHMS else "sha256"})
        sent = content.checksums.values()
        if kept in sent:
            return sent[kept] == stored.checksum.lower()
        back = Checksums(sent)
        reader = self.target.open_content(stored)
        try:
            for offset in range(0, stored.size, _WINDOW):
                _go_on(self.stopped)
                back.add(reader.pread(offset, _WINDOW))
        finally:
            reader.close()
        return back.values() == sent


class _Passing(StreamContent):
    """The source's content on its way into the target.

    At its last byte ContentDamaged is raised, so that nothing is stored, if the source keeps a checksum and it is
    another one (`ReaderStream`).

    Attributes:
        checksums: of what was read.
    """

    def __init__(self, reader: ContentReader, algorithms: Iterable[str], stopped: threading.Event) -> None:
        size = reader.stat.size
        super().__init__(io.BufferedReader(ReaderStream(reader), max(1, min(size, _WINDOW))), size)
        self._algorithms = frozenset(algorithms)
        self._stopped = stopped
        self.checksums = Checksums(self._algorithms)

    def read(self, size: int) -> bytes:
        _go_on(self._stopped)
        data = super().read(size)
        self.checksums.add(data)
        return data

    def restart(self) -> bool:
        self.checksums = Checksums(self._algorithms)
        return super().restart()


def _resolve(storage: Any) -> FileStorage:
    if not isinstance(storage, str):
        return adopt(storage)
    found = DepotManager.get(storage)
    if found is None:
        raise UnknownDepot(f"No depot {storage!r} has been configured, so there is nothing to back up")
    return adopt(found)


def _two(source: FileStorage, target: FileStorage) -> tuple[FileStorage, FileStorage]:
    """Both, if they are two: a backup into the storage itself saves nothing, and would look as if it had."""
    one, other = (storage.wrapped if isinstance(storage, ForeignStorage) else storage for storage in (source, target))
    # Classes of others may all have one identity.
    alike = isinstance(source, NativeStorage) and source.identity() == target.identity()
    if one is other or alike:
        raise ConfigurationError(f"The source of a backup and its target are the same storage, {source.identity()}")
    return source, target


def _find(storage: FileStorage, file_id: FileId) -> FileStat | None:
    try:
        return storage.stat(file_id)
    except (FileNotStored, InvalidFileId):
        return None


def _find_or_damaged(target: FileStorage, file_id: FileId) -> FileStat | None:
    """As `_find`; of a file that is damaged, a stat that no file agrees with and whose version is that it is there."""
    try:
        return _find(target, file_id)
    except InvalidMetadata:
        return FileStat(file_id, -1, PRESENT, "", FileMetadata(UNNAMED, OCTET_STREAM, 0), 0)


def _release(error: BaseException | None) -> None:
    """The error keeps nothing alive but the lines of its traceback: frames hold buffers, and failures may be many."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _go_on(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise DepotError("The backup was stopped")


def _to_bring(run: _Run, only_in_target: list[FileEntry] | None) -> Iterator[_Pair]:
    """Every file of the source; what the target alone has is added to the list, if there is one, on the way."""
    for here, there in _side_by_side(_entries(run.source), _entries(run.target)):
        if here is not None:
            yield _Pair(here, there)
        elif there is not None and only_in_target is not None:
            only_in_target.append(there)


def _entries(storage: FileStorage) -> Iterator[FileEntry]:
    for page in storage.pages():
        yield from page


def _side_by_side(
    left: Iterator[FileEntry], right: Iterator[FileEntry]
) -> Iterator[tuple[FileEntry | None, FileEntry | None]]:
    """Entries of two listings in the order of ids, those of one id together."""
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        if a is None or (b is not None and b.file_id.encode() < a.file_id.encode()):
            yield None, b
            b = next(right, None)
        elif b is None or a.file_id.encode() < b.file_id.encode():
            yield a, None
            a = next(left, None)
        else:
            yield a, b
            a, b = next(left, None), next(right, None)


def _work(
    run: _Run, do: Callable[[Any], tuple[_Done, int]], items: Iterator[_Pair | FileEntry], workers: int, count: _Count
) -> None:
    """`do` was called with each item and counted; what it raised is counted, what `items` raises is raised."""
    with ThreadPoolExecutor(workers, "depotfs-backup") as pool:
        running: dict[Future[tuple[_Done, int]], FileId] = {}
        try:
            for item in items:
                running[pool.submit(do, item)] = item.file_id
                if len(running) >= 2 * workers:  # as many again, so that no worker waits for the listing
                    _reap(running, count)
            while running:
                _reap(running, count)
        except BaseException:
            run.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _reap(running: dict[Future[tuple[_Done, int]], FileId], count: _Count) -> None:
    finished, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in finished:
        file_id = running.pop(future)
        error = future.exception()
        if error is None:
            count.done(file_id, *future.result())
        elif isinstance(error, Exception):
            count.failed(file_id, error)
        else:
            raise error
