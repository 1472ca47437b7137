"""A storage as seen from trio."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
import trio

from depotfs.errors import FileNotStored, StorageFailed, StorageUnavailable
from depotfs.io.content import BytesContent
from depotfs.io.memory import MemoryFileStorage
from depotfs.io.reader import ContentReader
from depotfs.remote.remote import Remote
from depotfs.types import FileEntry, FileId, FileMetadata, FileStat

ID = FileId("590f20fd-d941-5e6d-b65e-8496d7f4da20")


class FarStorage(MemoryFileStorage):
    """Memory behind a line that can fail or hang; not inline, so that threads are used."""

    inline = False

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = []
        self.hang: threading.Event | None = None
        self.calls = 0

    def _line(self) -> None:
        self.calls += 1
        if self.hang is not None:
            self.hang.wait(10)
        if self.failures:
            raise self.failures.pop(0)

    def stat(self, file_id: FileId) -> FileStat:
        self._line()
        return super().stat(file_id)

    def pages(self, after: str = "") -> Iterator[Sequence[FileEntry]]:
        for page in super().pages(after):
            for entry in page:
                self._line()
                yield [entry]


def stored(storage: MemoryFileStorage, count: int = 1) -> list[str]:
    ids = [FileId(f"590f20fd-d941-5e6d-b65e-8496d7f4da2{n:x}") for n in range(count)]
    for file_id in ids:
        storage.put(BytesContent(b"x"), FileMetadata("x", "text/plain", 0), file_id=file_id)
    return list(ids)


def test_transient_errors_are_repeated() -> None:
    storage = FarStorage()
    stored(storage)
    storage.failures = [StorageUnavailable("first"), StorageUnavailable("second")]
    stat = trio.run(Remote(storage, deadline=30).stat, FileId(stored(storage)[0]))
    assert stat.size == 1
    assert storage.calls == 3


def test_other_errors_are_not() -> None:
    storage = FarStorage()
    assert trio.run(Remote(storage, deadline=30).find, ID) is None
    with pytest.raises(FileNotStored):
        trio.run(Remote(storage, deadline=30).stat, ID)
    assert storage.calls == 2


def test_a_question_is_abandoned_at_its_deadline() -> None:
    storage = FarStorage()
    storage.hang = threading.Event()
    try:
        with pytest.raises(StorageUnavailable, match="did not answer"):
            trio.run(Remote(storage, deadline=0.05).stat, ID)
    finally:
        storage.hang.set()


class SlowReader(ContentReader):
    """Four pieces of a byte, each after the first one only when it may go on."""

    def __init__(self) -> None:
        self.go, self.ended = threading.Event(), threading.Event()
        self.brought = 0

    def pread(self, offset: int, size: int) -> bytes:
        raise NotImplementedError

    def pieces(self, offset: int, size: int, piece: int) -> Iterator[bytes]:
        try:
            for self.brought in range(1, 5):
                yield b"x"
                self.go.wait(10)
        finally:
            self.ended.set()

    def close(self) -> None:
        """Nothing is held."""


def test_a_fetch_that_is_given_up_ends_at_its_next_piece() -> None:
    reader = SlowReader()

    async def given_up() -> bool:
        with pytest.raises(StorageUnavailable, match="did not answer"):
            await Remote(FarStorage(), deadline=0.1).fetch(reader, 0, 4, 1, lambda data: None)
        reader.go.set()
        return await trio.to_thread.run_sync(reader.ended.wait, 10)

    assert trio.run(given_up)
    assert reader.brought == 2


def test_a_listing_goes_on_after_a_page_that_failed() -> None:
    storage = FarStorage()
    ids = stored(storage, 5)

    async def listed() -> list[str]:
        listing = Remote(storage, deadline=30).listing()
        found: list[str] = []
        while (page := await listing.next_page()) is not None:
            found += [entry.file_id for entry in page]
            if len(found) == 2:
                storage.failures = [StorageUnavailable("line cut")]
        return found

    assert trio.run(listed) == ids


def test_what_no_storage_should_raise_is_logged_and_costs_one_call(caplog: pytest.LogCaptureFixture) -> None:
    storage = FarStorage()
    storage.failures = [RuntimeError("a bug of its own")]
    with pytest.raises(StorageFailed, match="RuntimeError: a bug of its own"):
        trio.run(Remote(storage, deadline=30).stat, ID)
    assert storage.calls == 1  # a bug is not repeated at once
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ConnectionResetError("a line")])
def test_a_listing_goes_on_after_any_error(error: Exception) -> None:
    storage = FarStorage()
    ids = stored(storage, 3)

    async def listed() -> list[str]:
        listing = Remote(storage, deadline=30).listing()
        found: list[str] = [entry.file_id for entry in await listing.next_page() or ()]
        storage.failures = [error]
        with pytest.raises((StorageFailed, ConnectionResetError)):
            await listing.next_page()
        while page := await listing.next_page():
            found += [entry.file_id for entry in page]
        return found

    assert trio.run(listed) == ids
