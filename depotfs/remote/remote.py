"""A `FileStorage` whose calls can be awaited."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import trio

from depotfs.errors import DepotError, FileNotStored, StorageFailed, StorageUnavailable
from depotfs.io.content import Content
from depotfs.io.interfaces import FileStorage
from depotfs.io.reader import ContentReader
from depotfs.remote.checking import ContentCheck
from depotfs.remote.health import Health
from depotfs.remote.retry import retry_delay
from depotfs.remote.workers import in_thread
from depotfs.types import ANY, Expected, FileEntry, FileId, FileMetadata, FileStat

_log = logging.getLogger(__name__)
T = TypeVar("T")

METADATA_THREADS = 64
"""Small requests in flight at once to one storage: latency-bound, so more than cores."""
TRANSFER_THREADS = 16
"""Transfers in flight at once to one storage: each holds up to 8 MiB."""
PROBE = FileId("00000000-0000-4000-8000-000000000000")
"""What a storage is asked about to see whether it answers: one small request, whether or not it has such a file."""
PROBE_SECONDS = 10.0
PROBE_THREADS = 4
"""Of probes alone: threads of calls that hang may have taken all others."""


class _UnderWay:
    """Counts the calls that worker threads make at this moment, of all storages."""

    count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


_under_way = _UnderWay()


def is_waiting() -> bool:
    """Whether any worker thread is busy for a storage, whose answer will want the event loop soon."""
    return _under_way.count > 0


class Remote:
    """One storage, its calls made in worker threads (or at once, where the storage is `inline`).

    Questions (`stat`, `pages`, reads) are abandoned at the deadline and repeated while the error is transient.
    Changes are never abandoned, since nobody could tell what became of them: they end when the storage says so.
    A storage that does not answer at all is not asked by everybody: see `depotfs.remote.health`.
    What a storage's class raises in a thread beside DepotErrors and OSErrors is logged with its traceback and becomes
    StorageFailed.

    Args:
        deadline: seconds that a question may take, repetitions included.
        identity: what makes it the same storage after a restart, and another than all others; by default its own.

    Attributes:
        health: whether it can be reached.
    """

    def __init__(self, storage: FileStorage, *, deadline: float, identity: str | None = None) -> None:
        self.storage = storage
        self.identity = identity or storage.identity()
        self.inline = storage.inline
        self.deadline = deadline
        storage.limit_calls(deadline)
        self._metadata = trio.CapacityLimiter(METADATA_THREADS)
        self._transfers = trio.CapacityLimiter(TRANSFER_THREADS)
        self._probes = trio.CapacityLimiter(PROBE_THREADS)
        self.health = Health(self.identity, self._probe)

    async def _probe(self) -> object:
        seconds = min(self.deadline, PROBE_SECONDS)
        with self._foreign_errors():
            return await self._once(lambda: self.storage.stat(PROBE), trio.current_time() + seconds, self._probes)

    async def ask(self, call: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
        """The answer of a call that changes nothing, in a thread; see the class for deadline and repetition."""
        end = trio.current_time() + self.deadline
        failures = 0
        while True:
            self.health.check()
            try:
                with self._watched(), self._foreign_errors():
                    return await self._once(call, end, limiter or self._metadata)
            except StorageFailed:
                raise
            except DepotError as error:
                failures += 1
                delay = retry_delay(failures, error.retry_after, end - trio.current_time(), random.random())
                if not error.transient or delay is None:
                    self._note_failed(error)
                    raise
                await trio.sleep(delay)

    async def _once(self, call: Callable[[], T], end: float, limiter: trio.CapacityLimiter) -> T:
        begun = trio.current_time()
        with trio.move_on_at(end), _under_way:
            return await in_thread(call, limiter=limiter, abandon=True)
        raise StorageUnavailable(f"{self.identity} did not answer within {end - begun:.3g} s")

    async def _change(self, call: Callable[[], T]) -> T:
        self.health.check()
        try:
            with self._watched(), self._foreign_errors(), trio.CancelScope(shield=True), _under_way:
                answer = await in_thread(call, limiter=self._transfers)
        except (DepotError, OSError) as error:
            self._note_failed(error)
            raise
        return answer

    def _note_failed(self, error: Exception) -> None:
        if isinstance(error, ConnectionError):
            self.health.note_failed()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Inside, a call is made whose failure may mean that the storage cannot be reached."""
        try:
            yield
        except ConnectionError:
            self.health.doubt()
            raise

    @contextmanager
    def _foreign_errors(self) -> Iterator[None]:
        """What the storage's class should never raise costs this call alone."""
        try:
            yield
        except (DepotError, OSError):
            raise
        except Exception as error:
            _log.exception("%s failed unexpectedly", self.identity)
            raise StorageFailed(f"{self.identity}: {type(error).__name__}: {error}") from error

    async def stat(self, file_id: FileId) -> FileStat:
        """As the storage's `stat`; StorageUnavailable past the deadline."""
        if self.inline:
            return self.storage.stat(file_id)
        return await self.ask(lambda: self.storage.stat(file_id))

    async def find(self, file_id: FileId) -> FileStat | None:
        """As `stat`, None where nothing is stored."""
        try:
            return await self.stat(file_id)
        except FileNotStored:
            return None

    def listing(self, after: str = "") -> RemoteListing:
        """As the storage's `pages`."""
        return RemoteListing(self, after)

    async def load(self, file_id: FileId, largest: int) -> tuple[FileStat, bytes | None] | None:
        """As the storage's `load`, None where nothing is stored."""
        try:
            return await self.ask(lambda: self.storage.load(file_id, largest), self._transfers)
        except FileNotStored:
            return None

    async def open_content(self, stat: FileStat) -> ContentReader:
        """As the storage's `open_content`."""
        if self.inline or (self.storage.ranged and stat.size):
            return self.storage.open_content(stat)
        return await self.ask(lambda: self.storage.open_content(stat))

    async def pread(self, reader: ContentReader, offset: int, size: int, check: ContentCheck | None = None) -> bytes:
        """As the reader's `pread`, in a thread, where the check is told of it."""
        return await self.ask(lambda: _checked(reader.pread(offset, size), offset, check), self._transfers)

    async def fetch(
        self,
        reader: ContentReader,
        offset: int,
        size: int,
        piece: int,
        arrived: Callable[[bytes | memoryview], None],
        check: ContentCheck | None = None,
    ) -> None:
        """As the reader's `pieces`: `arrived` is called with each of them, in the event loop.

        Args:
            check: is told of each piece before, in the thread; what it raises ends the request.
        After a transient failure it goes on where it was. A thread that is given up ends at its next piece.
        """
        if size <= piece:
            arrived(await self.pread(reader, offset, size, check))
            return
        token = trio.lowlevel.current_trio_token()
        position, end = offset, offset + size
        given_up = False

        def call() -> None:
            nonlocal position
            for data in reader.pieces(position, end - position, piece):
                if given_up:
                    return
                _checked(data, position, check)
                position += len(data)
                token.run_sync_soon(arrived, data)

        try:
            await self.ask(call, self._transfers)
        finally:
            given_up = True

    async def put(
        self, content: Content, metadata: FileMetadata, *, file_id: FileId, expect: Expected, commit: str, quick: bool
    ) -> FileStat:
        """As the storage's `put`.

        Args:
            quick: nothing needs to be copied or flushed, so that an inline storage may do it at once.
        """

        def call() -> FileStat:
            return self.storage.put(content, metadata, file_id=file_id, expect=expect, commit=commit)

        return call() if quick and self.inline else await self._change(call)

    async def update(self, stat: FileStat, *, modified: int) -> FileStat:
        """As the storage's `update`."""
        if self.inline:
            return self.storage.update(stat, modified=modified)
        return await self._change(lambda: self.storage.update(stat, modified=modified))

    async def copy(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected, commit: str
    ) -> FileStat:
        """As the storage's `copy`."""
        return await self._change(lambda: self.storage.copy(source, target, metadata, expect=expect, commit=commit))

    async def move(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected, commit: str
    ) -> FileStat:
        """As the storage's `move`."""

        def call() -> FileStat:
            return self.storage.move(source, target, metadata, expect=expect, commit=commit)

        return call() if self.inline else await self._change(call)

    async def remove(self, file_id: FileId, *, expect: Expected = ANY) -> None:
        """As the storage's `remove`."""
        if self.inline:
            self.storage.remove(file_id, expect=expect)
        else:
            await self._change(lambda: self.storage.remove(file_id, expect=expect))

    async def sync(self, file_id: FileId) -> None:
        """As the storage's `sync`."""
        await self._change(lambda: self.storage.sync(file_id))


def _checked(data: T, offset: int, check: ContentCheck | None) -> T:
    """The bytes, which the check was told of."""
    if check is not None:
        check.add(offset, data)  # type: ignore[arg-type]  # T is bytes or a view of them
    return data


class RemoteListing:
    """A storage's `pages`, awaited one by one; it can go on after a page that failed."""

    def __init__(self, remote: Remote, after: str) -> None:
        self._remote = remote
        self._after = after
        self._restart()

    def _restart(self) -> None:
        self._pages = self._remote.storage.pages(self._after)

    async def next_page(self) -> Sequence[FileEntry] | None:
        """The next page, None at the end; after an error, the same page once more."""
        try:
            page = await self._remote.ask(self._step)
        except StorageUnavailable:
            self._restart()  # the abandoned thread may still be inside the old one
            raise
        if page:
            self._after = page[-1].file_id
        return page

    def _step(self) -> Sequence[FileEntry] | None:
        try:
            return next(self._pages, None)
        except Exception:
            self._restart()  # a generator that raised is finished
            raise
