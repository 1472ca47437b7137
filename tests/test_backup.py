"""Backups: between any two kinds of storage, and everything that can go wrong on the way."""

from __future__ import annotations

import gc
import hashlib
import itertools
import threading
import time
import tracemalloc
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import depot.io.local
import pytest

from depotfs.backup import BackupProgress, backup
from depotfs.errors import (
    AccessDenied,
    ContentDamaged,
    StorageUnavailable,
    UnknownDepot,
)
from depotfs.io.content import BytesContent, Content
from depotfs.io.interfaces import FileStorage
from depotfs.io.local import LocalFileStorage
from depotfs.io.memory import MemoryFileStorage
from depotfs.io.reader import ContentReader
from depotfs.manager import DepotManager
from depotfs.types import FileEntry, FileId, FileMetadata, FileStat

OLD = 981_173_106  # 2001-02-03
LARGE = uuid.uuid4().bytes * (9 << 16)  # 9 MiB: more than a part of a multipart upload
LARGE_ID = "f0000000-0000-4000-8000-00000000000c"
FILES = {
    "0f4c2a31-7d0e-4d5f-8a55-0e6a3f6f7a01": (b"plain", FileMetadata("a.txt", "text/plain", OLD)),
    "1b2d3c4e-0000-4000-8000-00000000000a": (b"", FileMetadata("empty", "application/octet-stream", OLD + 1)),
    "590f20fdd9415e6db65e8496": (b"objectid", FileMetadata('Привет 100% "мир" 🎉.txt', "text/plain", OLD + 2)),
    "c0ffee00-0000-4000-8000-00000000000b": (b"\0\xff" * 999, FileMetadata("a.txt", "image/x-icon", 2_000_000_000)),
    LARGE_ID: (LARGE, FileMetadata("large", "application/x-tar", OLD + 3)),
}


SMALL_IDS = [file_id for file_id in FILES if file_id != LARGE_ID]


def fill(storage: FileStorage, files: dict[str, tuple[bytes, FileMetadata]]) -> None:
    for file_id, (data, metadata) in files.items():
        storage.put(BytesContent(data), metadata, file_id=FileId(file_id))


def contents(storage: FileStorage) -> dict[str, tuple[bytes, FileMetadata]]:
    """Everything that is stored, as filedepot's methods tell it."""
    found = {}
    for file_id in storage.list():
        file = storage.get(file_id)
        assert file.file_id == file_id
        assert file.last_modified is not None
        seconds = int((file.last_modified - datetime(1970, 1, 1)).total_seconds())
        found[file_id] = file.read(), FileMetadata(str(file.filename), str(file.content_type), seconds)
        file.close()
    return found


# --- every kind with every kind -------------------------------------------------------------------------------

KINDS = ("memory", "local", "gridfs", "s3", "gcs")
OLD_SPELLING = [("gridfs", "awss3"), ("s3", "awss3"), ("awss3", "local")]
PAIRS = [*itertools.product(KINDS, KINDS), *OLD_SPELLING]


class Kinds:
    """Makes storages of every kind, and keeps one filled storage of each as a source."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self._request = request
        self._folder = folder
        self._numbers = itertools.count()
        self._sources: dict[str, FileStorage] = {}
        self._bucket = ""

    def new(self, kind: str) -> FileStorage:
        """An empty storage of that kind that nobody else uses."""
        name = f"pair{next(self._numbers)}-{uuid.uuid4().hex[:8]}"
        made: FileStorage = getattr(self, f"_{kind}")(name)
        return made

    def source(self, kind: str) -> FileStorage:
        """The storage of that kind that holds `FILES`."""
        if kind not in self._sources:
            self._sources[kind] = self.new(kind)
            fill(self._sources[kind], FILES)
        return self._sources[kind]

    def _memory(self, name: str) -> Any:
        return MemoryFileStorage()

    def _local(self, name: str) -> Any:
        return LocalFileStorage(str(self._folder / name))

    def _gridfs(self, name: str) -> Any:
        from depotfs.io.gridfs import GridFSStorage

        return GridFSStorage(self._request.getfixturevalue("mongod").uri(name))

    def _s3(self, name: str) -> Any:
        from depotfs.io.boto3 import S3Storage

        server, bucket = self._minio()
        keys = server.access_key, server.secret_key
        return S3Storage(*keys, bucket=bucket, endpoint_url=server.endpoint, prefix=f"{name}/")

    def _awss3(self, name: str) -> Any:
        from depotfs.io.awss3 import S3Storage

        server, bucket = self._minio()
        return S3Storage(server.access_key, server.secret_key, bucket, host=server.endpoint, prefix=f"{name}/")

    def _minio(self) -> tuple[Any, str]:
        server = self._request.getfixturevalue("minio")
        self._bucket = self._bucket or server.new_bucket()
        return server, self._bucket

    def _gcs(self, name: str) -> Any:
        from depotfs.io.gcs import GCSStorage

        server = self._request.getfixturevalue("gcs_fake")
        return GCSStorage(**server.storage_options(server.new_bucket()))


@pytest.mark.xdist_group("pairs")
class TestPairs:
    @pytest.fixture(scope="class")
    @staticmethod
    def kinds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kinds:
        return Kinds(request, tmp_path_factory.mktemp("pairs"))

    @pytest.mark.parametrize(("from_kind", "kind"), PAIRS)
    def test_a_backup_keeps_everything(self, kinds: Kinds, from_kind: str, kind: str) -> None:
        a, b = kinds.source(from_kind), kinds.new(kind)
        for file_id in a.list():
            file = a.get(file_id)
            assert b.replace(file, file) == file_id
        assert contents(b) == FILES
        report = backup(a, b)  # has nothing left to do
        assert (report.unchanged, report.copied, report.failures) == (len(FILES), 0, ())

        for file_id in SMALL_IDS:
            b.delete(file_id)
        report = backup(a, b)
        assert (report.unchanged, report.copied, report.failures) == (1, len(SMALL_IDS), ())
        assert contents(b) == FILES

    @pytest.mark.parametrize("kind", [*KINDS, "awss3"])
    def test_large_files_are_backed_up_and_back(self, kinds: Kinds, kind: str) -> None:
        a, b, c = kinds.source("local"), kinds.new(kind), kinds.new("memory")
        for one, other in ((a, b), (b, c)):
            report = backup(one, other)
            assert (report.copied, report.failures) == (len(FILES), ())
            assert report.copied_bytes == sum(len(data) for data, _ in FILES.values())
        assert contents(c) == FILES


# --- what is done, and what is not done again -----------------------------------------------------------------


class Watched(MemoryFileStorage):
    """A storage that notes which files' content is opened, and calls `before_open` and `before_put` first."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.before_open: Callable[[str], None] = lambda file_id: None
        self.before_put: Callable[[str], None] = lambda file_id: None

    def open_content(self, file: FileId | FileStat) -> ContentReader:
        file_id = file if isinstance(file, str) else file.file_id
        self.opened.append(file_id)
        self.before_open(file_id)
        return super().open_content(file)

    def put(self, content: Content, metadata: FileMetadata, *, file_id: FileId, **options: Any) -> FileStat:
        self.before_put(file_id)
        return super().put(content, metadata, file_id=file_id, **options)


def numbered(count: int) -> dict[str, tuple[bytes, FileMetadata]]:
    return {
        f"{n:08}-0000-4000-8000-000000000000": (b"%d" % n, FileMetadata(f"file {n}", "text/plain", OLD + n))
        for n in range(count)
    }


@pytest.fixture
def source() -> Watched:
    storage = Watched()
    fill(storage, numbered(20))
    return storage


@pytest.fixture
def target() -> Watched:
    return Watched()


def only_once(act: Callable[[], object]) -> Callable[[str], None]:
    """Acts at the first call."""
    first = threading.Semaphore(1)

    def call(file_id: str) -> None:
        if first.acquire(blocking=False):
            act()

    return call


def raising(error: BaseException, *ids: str) -> Callable[[str], None]:
    def call(file_id: str) -> None:
        if file_id in ids:
            raise error

    return call


def test_only_what_differs_is_sent_again(source: Watched, target: Watched) -> None:
    assert backup(source, target).copied == 20
    source.opened.clear()
    assert backup(source, target).unchanged == 20
    assert source.opened == []

    ids = list(numbered(20))
    changes = [
        (b"other length", FileMetadata("file 0", "text/plain", OLD)),
        (b"1", FileMetadata("another name", "text/plain", OLD + 1)),
        (b"2", FileMetadata("file 2", "text/html", OLD + 2)),
        (b"x", FileMetadata("file 3", "text/plain", OLD + 99)),
    ]
    fill(source, dict(zip(ids, changes, strict=False)))
    assert backup(source, target).copied == 4
    assert sorted(source.opened) == ids[:4]
    assert contents(target) == contents(source)


class Hashing(Watched):
    """A storage that keeps checksums, and lists ids only."""

    def stat(self, file_id: FileId) -> FileStat:
        return self._with_checksum(super().stat(file_id))

    def put(self, *args: Any, **options: Any) -> FileStat:
        return self._with_checksum(super().put(*args, **options))

    def pages(self, after: str = "") -> Iterator[Sequence[FileEntry]]:
        for page in super().pages(after):
            yield [FileEntry(entry.file_id) for entry in page]

    def open_content(self, file: FileId | FileStat) -> ContentReader:
        reader = super().open_content(file)
        reader.stat = self._with_checksum(reader.stat)
        return reader

    def _with_checksum(self, stat: FileStat) -> FileStat:
        return replace(stat, checksum=f"md5:{hashlib.md5(self.files[stat.file_id]['data']).hexdigest()}")


def test_checksums_tell_what_times_and_sizes_do_not() -> None:
    source, target = Hashing(), Hashing()
    fill(source, numbered(3))
    assert backup(source, target).copied == 3
    assert target.opened == []  # the checksum that it keeps was enough
    first = next(iter(numbered(1)))
    fill(source, {first: (b"z", numbered(1)[first][1])})
    assert backup(source, target).copied == 1
    assert contents(target) == contents(source)


def test_a_file_replaced_within_the_second_of_its_time_is_not_taken_for_unchanged(target: Watched) -> None:
    source = Watched()
    for data in (b"one", b"two"):
        fill(source, {LARGE_ID: (data, FileMetadata("file", "text/plain", int(time.time())))})
        assert backup(source, target).copied == 1
        assert contents(target) == contents(source)


def test_a_storage_is_no_backup_of_itself(tmp_path: Path) -> None:
    DepotManager._clear()
    try:
        a = DepotManager.configure("a", {"depot.storage_path": str(tmp_path / "files")})
        fill(a, numbered(1))
        DepotManager.configure("same place", {"depot.storage_path": f"{tmp_path}/./files"})
        DepotManager.configure("theirs", {"depot.backend": depot.io.local.LocalFileStorage, "depot.storage_path": "x"})
        for name in ("a", "theirs"):
            DepotManager.alias(f"alias of {name}", name)
        (tmp_path / "link").symlink_to("files")
        for one, other in (
            ("a", "a"),
            ("a", "alias of a"),
            ("alias of a", a),
            ("a", "same place"),
            (a, LocalFileStorage(tmp_path / "link")),
            ("theirs", "alias of theirs"),
        ):
            with pytest.raises(ValueError, match="same storage"):
                DepotManager.backup(one, other)
        (tmp_path / "copies").mkdir()
        theirs = [depot.io.local.LocalFileStorage(str(tmp_path / name)) for name in ("files", "copies")]
        assert backup(*theirs).copied == 1  # only its object tells a storage of others from another
    finally:
        DepotManager._clear()


def test_storages_may_be_named(source: Watched) -> None:
    DepotManager._clear()
    DepotManager.configure("a", {"depot.backend": "depotfs.io.memory.MemoryFileStorage"})
    b = DepotManager.configure("b", {"depot.backend": "depotfs.io.memory.MemoryFileStorage"})
    DepotManager.alias("other", "b")
    try:
        fill(DepotManager.get("a"), numbered(3))
        assert DepotManager.backup("a", "other").copied == 3
        assert contents(b) == numbered(3)
        with pytest.raises(UnknownDepot, match="'c'"):
            backup("a", "c")
    finally:
        DepotManager._clear()


def test_classes_of_others_take_part_as_well_as_they_can(source: Watched) -> None:
    from depot.io.memory import MemoryFileStorage as TheirStorage

    theirs, back = TheirStorage(), Watched()
    for again in (20, 0):
        report = backup(source, theirs)  # it sets the times itself
        assert (report.ok, report.copied, report.unchanged) == (True, again, 20 - again)
    assert backup(theirs, back).copied == 20
    for file_id, (data, metadata) in contents(back).items():
        sent = numbered(20)[file_id]
        assert (data, metadata.filename, metadata.content_type) == (sent[0], sent[1].filename, sent[1].content_type)


def test_files_are_handled_at_the_same_time(source: Watched, target: Watched) -> None:
    together = threading.Barrier(5)

    def meet(file_id: str) -> None:
        together.wait(30)  # broken unless five come

    source.before_open = meet
    assert backup(source, target, workers=5).copied == 20


def test_progress_is_told_in_the_calling_thread_up_to_what_the_report_says(source: Watched, target: Watched) -> None:
    told: list[tuple[int, BackupProgress]] = []
    source.before_open = raising(AccessDenied("no"), next(iter(numbered(1))))
    report = backup(source, target, progress=lambda p: told.append((threading.get_ident(), p)))
    assert {thread for thread, _ in told} == {threading.get_ident()}
    assert [p.copied + p.failed for _, p in told] == list(range(1, 21))
    last = told[-1][1]
    assert (last.copied, last.failed, last.copied_bytes) == (19, 1, report.copied_bytes) == (19, 1, 29)
    assert {p.file_id for _, p in told} == set(numbered(20))


# --- deletions ------------------------------------------------------------------------------------------------


def test_deletions_are_mirrored_only_when_asked(source: Watched, target: Watched) -> None:
    backup(source, target)
    gone = list(numbered(20))[5:9]
    for file_id in gone:
        source.delete(file_id)
    assert backup(source, target).deleted == 0
    assert len(target.list()) == 20
    assert backup(source, target, delete=True).deleted == 4
    assert contents(target) == contents(source)


def test_what_the_source_has_again_is_not_deleted(source: Watched, target: Watched) -> None:
    extra = {"00000003-5555-4000-8000-000000000000": (b"back", FileMetadata("back", "text/plain", OLD))}
    fill(target, extra)
    told = only_once(lambda: fill(source, extra))
    report = backup(source, target, delete=True, progress=lambda p: told(""))
    assert report.deleted == 0
    assert next(iter(extra)) in target.list()


class Breaking(Watched):
    """A storage whose listing breaks off after ten files until `broken` is False."""

    broken = True

    def pages(self, after: str = "") -> Iterator[Sequence[FileEntry]]:
        for page in super().pages(after):
            yield page[:10]
            if self.broken:
                raise StorageUnavailable("The listing broke off")
            yield page[10:]


@pytest.mark.parametrize("side", ["source", "target"])
def test_nothing_is_deleted_after_a_listing_that_failed(side: str) -> None:
    source, target = (Breaking(), Watched()) if side == "source" else (Watched(), Breaking())
    fill(source, numbered(20))
    fill(target, {i: f for i, f in numbered(25).items() if i not in list(numbered(3))})
    before = set(target.files)
    with pytest.raises(StorageUnavailable):
        backup(source, target, delete=True)
    assert before <= set(target.files)
    source.broken = target.broken = False  # type: ignore[attr-defined]
    report = backup(source, target, delete=True)
    assert report.deleted == 5
    assert contents(target) == contents(source)


# --- errors and interruptions ---------------------------------------------------------------------------------


def test_a_file_that_fails_is_reported_and_done_by_the_next_run(source: Watched, target: Watched) -> None:
    bad, worse = list(numbered(20))[3:5]
    source.before_open = raising(AccessDenied("no"), bad)
    target.before_put = raising(KeyError("a class of others"), worse)
    report = backup(source, target)
    assert not report.ok
    assert {(f.file_id, type(f.error)) for f in report.failures} == {(bad, AccessDenied), (worse, KeyError)}
    assert (report.copied, bad in target.list()) == (18, False)
    source.before_open = target.before_put = lambda file_id: None
    report = backup(source, target)
    assert (report.ok, report.copied, report.unchanged) == (True, 2, 18)


class Interruption(BaseException):
    """As KeyboardInterrupt is."""


def test_an_interrupted_backup_is_continued(source: Watched, target: Watched) -> None:
    def stop(progress: BackupProgress) -> None:
        if progress.copied == 5:
            raise Interruption

    with pytest.raises(Interruption):
        backup(source, target, workers=2, progress=stop)
    done = contents(target)
    assert 5 <= len(done) < 20
    assert done == {file_id: numbered(20)[file_id] for file_id in done}
    report = backup(source, target)
    assert (report.unchanged, report.copied) == (len(done), 20 - len(done))
    assert contents(target) == numbered(20)


def test_an_interruption_does_not_wait_for_a_large_file() -> None:
    source = Endless(16 << 30)
    fill(source, numbered(2))

    def stop(progress: BackupProgress) -> None:
        assert source.first_read.wait(30)
        raise Interruption

    with pytest.raises(Interruption):
        backup(source, Discarding(), progress=stop)
    assert source.end < 16 << 30


def test_a_file_that_is_written_meanwhile_is_copied_as_it_is_then(source: Watched, target: Watched) -> None:
    first = next(iter(numbered(1)))
    newer = {first: (b"newer", FileMetadata("newer", "text/html", OLD + 500))}
    source.before_open = only_once(lambda: fill(source, newer))
    report = backup(source, target, workers=1)
    assert (report.ok, report.copied) == (True, 20)
    assert contents(target)[first] == newer[first]


def test_a_file_that_is_written_all_the_time_is_a_failure(source: Watched, target: Watched) -> None:
    first = next(iter(numbered(1)))
    source.before_open = lambda file_id: fill(source, {first: numbered(1)[first]}) if file_id == first else None
    report = backup(source, target)
    assert [f.file_id for f in report.failures] == [first]
    assert first not in target.list()


def test_a_file_that_goes_meanwhile_is_no_failure(source: Watched, target: Watched) -> None:
    first = next(iter(numbered(1)))
    source.before_open = only_once(lambda: source.delete(first))
    report = backup(source, target, workers=1)
    assert (report.ok, report.vanished, report.copied) == (True, 1, 19)


def test_what_others_store_in_the_target_meanwhile_is_not_overwritten_unseen(source: Watched, target: Watched) -> None:
    first = next(iter(numbered(1)))
    target.before_put = only_once(
        lambda: MemoryFileStorage.put(target, BytesContent(b"0"), numbered(1)[first][1], file_id=FileId(first))
    )
    report = backup(source, target, workers=1)
    assert (report.ok, report.unchanged, report.copied) == (True, 1, 19)


# --- verification ---------------------------------------------------------------------------------------------


class Corrupting(Watched):
    """A storage that stores one file with other bytes of the same length."""

    bad = list(numbered(20))[7]

    def put(self, content: Content, metadata: FileMetadata, *, file_id: FileId, **options: Any) -> FileStat:
        if file_id == self.bad:
            content = BytesContent(b"?" * len(content.read(1 << 20)))
        return super().put(content, metadata, file_id=file_id, **options)


class CorruptingHashing(Corrupting, Hashing):
    """The same, keeping the checksum of what it stored."""


@pytest.mark.parametrize("kind", [Corrupting, CorruptingHashing])
def test_a_target_that_corrupts_is_found_out(source: Watched, kind: type[Corrupting]) -> None:
    target = kind()
    report = backup(source, target)
    assert [(f.file_id, type(f.error)) for f in report.failures] == [(Corrupting.bad, ContentDamaged)]
    assert Corrupting.bad not in target.list()  # or the next run would take it for a good one
    assert contents(target) == {i: f for i, f in numbered(20).items() if i != Corrupting.bad}
    assert backup(source, kind(), verify=False).ok


def test_what_is_damaged_in_a_local_source_is_told_and_its_good_copy_stays(target: Watched, tmp_path: Path) -> None:
    source = LocalFileStorage(tmp_path)
    fill(source, numbered(4))
    assert backup(source, target).ok
    lost, unreadable, linked, half = sorted(numbered(4))
    (tmp_path / lost / "file").unlink()
    (tmp_path / unreadable / "metadata.json").write_bytes(b"{")
    (tmp_path / linked).rename(tmp_path / "elsewhere")
    (tmp_path / linked).symlink_to("elsewhere")
    for name in ("file", "metadata.json"):  # as a `create` leaves it that was cut off
        (tmp_path / half / name).unlink()
    report = backup(source, target, delete=True)
    assert sorted(failure.file_id for failure in report.failures) == sorted([lost, unreadable, linked])
    assert sorted(target.list()) == sorted([lost, unreadable, linked])


def test_a_damaged_copy_is_made_anew(source: Watched, tmp_path: Path) -> None:
    target = LocalFileStorage(tmp_path)
    assert backup(source, target).copied == 20
    damaged = sorted(numbered(20))[:3]
    (tmp_path / damaged[0] / "file").unlink()
    (tmp_path / damaged[1] / "metadata.json").write_bytes(b"{")
    (tmp_path / damaged[2] / "metadata.json").unlink()
    report = backup(source, target)
    assert (report.ok, report.copied, report.unchanged) == (True, 3, 17)
    assert contents(target) == contents(source)


def test_damage_in_the_source_is_not_copied(target: Watched) -> None:
    class Damaged(Hashing):
        def open_content(self, file: FileId | FileStat) -> ContentReader:
            reader = super().open_content(file)
            whole = reader.pread
            reader.pread = lambda offset, size: b"!" * len(whole(offset, size))  # type: ignore[method-assign]
            return reader

    source = Damaged()
    fill(source, numbered(3))
    report = backup(source, target, verify=False)
    assert [type(f.error) for f in report.failures] == [ContentDamaged] * 3
    assert target.list() == []


# --- memory ---------------------------------------------------------------------------------------------------


class Endless(MemoryFileStorage):
    """A storage whose first file has `size` bytes, made when they are read.

    Attributes:
        largest: bytes that were asked for at once; end: up to where was read.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.largest = self.end = 0
        self.first_read = threading.Event()

    def open_content(self, file: FileId | FileStat) -> ContentReader:
        reader = super().open_content(file)
        if reader.stat.file_id not in numbered(1):
            return reader
        reader.stat = replace(reader.stat, size=self.size)

        def pread(offset: int, size: int) -> bytes:
            self.largest, self.end = max(self.largest, size), offset + size
            self.first_read.set()
            return bytes(min(size, self.size - offset))

        reader.pread = pread  # type: ignore[method-assign]
        return reader


class Discarding(MemoryFileStorage):
    """A storage that only counts what it is given."""

    def put(self, content: Content, metadata: FileMetadata, *, file_id: FileId, **options: Any) -> FileStat:
        size = 0
        while piece := content.read(1 << 20):
            size += len(piece)
        return FileStat(file_id, size, "v", "v", metadata, 0)


def test_a_large_file_passes_in_bounded_memory() -> None:
    source = Endless(200 << 20)
    fill(source, numbered(1))
    tracemalloc.start()
    try:
        assert backup(source, Discarding(), verify=False).copied == 1
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert source.largest <= 8 << 20


def test_failures_keep_no_content_alive(source: Watched) -> None:
    alive: list[weakref.ref[Content]] = []

    class Refusing(MemoryFileStorage):
        def put(self, content: Content, metadata: FileMetadata, *, file_id: FileId, **options: Any) -> FileStat:
            alive.append(weakref.ref(content))
            try:
                raise KeyError(content.read(100))
            except KeyError as error:
                raise AccessDenied(f"No {file_id} here") from error

    report = backup(source, Refusing())
    gc.collect()
    assert len(report.failures) == len(alive) == 20
    assert [ref for ref in alive if ref() is not None] == []
