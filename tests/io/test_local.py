"""LocalFileStorage: the contract, the layout, and what only a directory can go through."""

from __future__ import annotations

import errno
import json
import os
import stat as modes
from collections.abc import Callable
from pathlib import Path

import pytest

from depotfs import errors
from depotfs.errors import FileNotStored, InvalidMetadata, VersionChanged
from depotfs.io.content import BytesContent
from depotfs.io.ids import new_uuid
from depotfs.io.interfaces import PAGE
from depotfs.io.local import LocalFileStorage
from depotfs.types import ABSENT, FileId, FileMetadata
from tests.io.contract import StorageContract
from tests.io.contract_sources import ABSENT_IDS, METADATA, OneWay, content_of, noise, put
from tests.io.faults import Steps, in_child

FILE, OTHER = ABSENT_IDS
EXACT = (
    b'{"filename": "\\u0438 \\"q\\" \\ud83c\\udf89.txt", "content_type": "text/plain",'
    b' "content_length": 3, "last_modified": "2001-02-03 04:05:06"}'
)


class TestLocalFileStorage(StorageContract):
    lacks = dict.fromkeys(
        ["test_commit_id_is_kept", "test_commit_id_survives_an_update", "test_commit_id_of_a_move_is_kept"],
        "filedepot reads no metadata.json with further keys; the content itself can be compared instead",
    )

    @pytest.fixture
    def storage(self, tmp_path: Path) -> LocalFileStorage:
        return LocalFileStorage(tmp_path / "storage")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / ".storage.depotfs"


@pytest.fixture
def storage(root: Path) -> LocalFileStorage:
    return LocalFileStorage(str(root))


class TestLayout:
    def test_bytes_on_disk(self, storage: LocalFileStorage, root: Path) -> None:
        stat = put(storage, b"abc", FILE, metadata=FileMetadata('и "q" 🎉.txt', "text/plain", METADATA.modified))
        assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*")) == [
            FILE,
            f"{FILE}/file",
            f"{FILE}/metadata.json",
        ]
        assert (root / FILE / "file").read_bytes() == b"abc"
        assert (root / FILE / "metadata.json").read_bytes() == EXACT
        storage.update(stat, filename="b")
        assert list(json.loads((root / FILE / "metadata.json").read_bytes())) == [
            "filename",
            "content_type",
            "content_length",
            "last_modified",
        ]

    def test_modes_follow_the_umask(self, storage: LocalFileStorage, root: Path) -> None:
        def modes_under(mask: int) -> list[int]:
            before = os.umask(mask)
            try:
                put(storage, b"abc", FILE)
            finally:
                os.umask(before)
            paths = (root / FILE, root / FILE / "file", root / FILE / "metadata.json")
            return [modes.S_IMODE(path.stat().st_mode) for path in paths]

        assert modes_under(0o022) == [0o755, 0o644, 0o644]
        assert modes_under(0o077) == [0o700, 0o600, 0o600]

    def test_constructor_touches_nothing(self, storage: LocalFileStorage, root: Path) -> None:
        assert storage.storage_path == str(root)
        assert storage.list() == []
        assert not storage.exists(FILE)
        storage.delete(FILE)
        assert not root.exists()

    def test_what_others_put_there_is_not_listed(self, storage: LocalFileStorage, root: Path) -> None:
        put(storage, b"abc", FILE)
        for name in ("lost+found", FILE.upper(), FILE.replace("-", ""), ".depotfs"):
            (root / name).mkdir()
        (root / "README").write_text("x")
        (root / OTHER).write_text("a file, not a directory")
        assert storage.list() == [FILE]
        assert [entry.file_id for page in storage.pages() for entry in page] == [FILE]
        assert not storage.exists(OTHER)
        assert put(storage, b"x", OTHER, expect=ABSENT).size == 1

    def test_further_files_in_a_directory_do_not_matter(self, storage: LocalFileStorage, root: Path) -> None:
        put(storage, b"abc", FILE)
        (root / FILE / "thumbnail").mkdir()
        (root / FILE / "thumbnail" / "small.png").write_bytes(b"x")
        assert content_of(storage, FILE) == b"abc"
        put(storage, b"new", FILE)
        assert sorted(path.name for path in (root / FILE).iterdir()) == ["file", "metadata.json"]
        assert [path.name for path in root.iterdir()] == [FILE]

    def test_reading_side_of_a_read_only_directory_makes_nothing(self, storage: LocalFileStorage, root: Path) -> None:
        stat = put(storage, b"abc", FILE)
        before = sorted(root.rglob("*")), root.stat().st_mtime_ns
        assert storage.list() == [FILE]
        assert content_of(storage, stat) == b"abc"
        storage.remove(OTHER)
        assert (sorted(root.rglob("*")), root.stat().st_mtime_ns) == before


class TestIncomplete:
    @pytest.mark.parametrize("what", ["no metadata", "nothing in it", "a file", "a fifo"])
    def test_is_no_stored_file(self, storage: LocalFileStorage, root: Path, what: str) -> None:
        """As a `create` of filedepot's leaves it when it dies, or what is no directory."""
        put(storage, b"x", OTHER)
        if what == "a fifo":
            os.mkfifo(root / FILE)
        elif what == "a file":
            (root / FILE).write_bytes(b"x")
        else:
            put(storage, b"abc", FILE)
            (root / FILE / "metadata.json").unlink()
            if what == "nothing in it":
                (root / FILE / "file").unlink()
        assert storage.list() == [OTHER]
        assert [entry.file_id for page in storage.pages() for entry in page] == [OTHER]
        assert not storage.exists(FILE)
        with pytest.raises(FileNotStored):
            storage.get(FILE)
        with pytest.raises(FileNotStored):
            storage.replace(FILE, b"x", "a", "b/c")
        assert put(storage, b"new", FILE, expect=ABSENT).size == 3
        assert content_of(storage, FILE) == b"new"
        (root / FILE / "file").unlink()
        storage.delete(FILE)
        assert [path.name for path in root.iterdir()] == [OTHER]


class TestUnreadableMetadata:
    @pytest.mark.parametrize("broken", [b"", b"{", b"[1]", b"\xff\xfe\x00", b"7", b"[" * 100_000], ids=range(6))
    def test_unreadable_metadata(self, storage: LocalFileStorage, root: Path, broken: bytes) -> None:
        put(storage, b"abc", FILE)
        put(storage, b"x", OTHER)
        (root / FILE / "metadata.json").write_bytes(broken)
        with pytest.raises(InvalidMetadata, match=FILE):
            storage.get(FILE)
        with pytest.raises(ValueError, match="Invalid file metadata"):
            storage.get(FILE)
        assert sorted(storage.list()) == sorted([FILE, OTHER])
        entries = {entry.file_id: entry.stat for page in storage.pages() for entry in page}
        assert entries[FILE] is None
        assert entries[OTHER] == storage.stat(OTHER)
        assert storage.exists(FILE)
        storage.replace(FILE, b"new", "a.txt", "text/plain")
        assert storage.get(FILE).read() == b"new"

    def test_missing_and_odd_values(self, storage: LocalFileStorage, root: Path) -> None:
        put(storage, b"abc", FILE)
        os.utime(root / FILE / "file", ns=(5 * 10**9 + 7, 5 * 10**9 + 7))
        for stored in (
            {},
            {"filename": None, "content_type": None, "content_length": None, "last_modified": None},
            {"filename": 7, "content_type": ["a"], "content_length": "x", "last_modified": "yesterday"},
            {"filename": "", "content_type": "", "content_length": 99, "last_modified": "2001-02-30 00:00:00"},
        ):
            (root / FILE / "metadata.json").write_text(json.dumps(stored))
            stat = storage.stat(FILE)
            assert stat.metadata == FileMetadata("unnamed", "application/octet-stream", 5)
            assert stat.size == 3


class TestErrors:
    @pytest.mark.parametrize(
        ("step", "code", "error"),
        [
            ("write", errno.ENOSPC, errors.StorageFull),
            ("write", errno.EDQUOT, errors.QuotaExceeded),
            ("write", errno.EFBIG, errors.TooLarge),
            ("write", errno.EIO, errors.StorageUnavailable),
            ("mkdir", errno.EROFS, errors.ReadOnly),
            ("mkdir", errno.EACCES, errors.AccessDenied),
            ("renameat2", errno.EPERM, errors.AccessDenied),
        ],
    )
    def test_of_the_file_system(
        self,
        storage: LocalFileStorage,
        monkeypatch: pytest.MonkeyPatch,
        step: str,
        code: int,
        error: type[Exception],
    ) -> None:
        def fail() -> None:
            raise OSError(code, os.strerror(code))

        put(storage, b"old", FILE)
        Steps(1, fail, only=step, onwards=True).install(monkeypatch)
        with pytest.raises(error, match=FILE):
            put(storage, b"new", FILE)
        assert content_of(storage, FILE) == b"old"

    def test_of_the_source_stay_what_they_are(self, storage: LocalFileStorage) -> None:
        failure = OSError(errno.ENOSPC, "the source's own")
        with pytest.raises(OSError, match="the source's own") as caught:
            storage.create(OneWay(b"x" * 200_000, fail_at=70_000, error=failure))
        assert caught.value is failure

    def test_delete_tells_why_it_failed(self, storage: LocalFileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> None:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))

        put(storage, b"old", FILE)
        Steps(1, fail, only="rename", onwards=True).install(monkeypatch)
        with pytest.raises(errors.AccessDenied):
            storage.delete(FILE)
        assert storage.exists(FILE)

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_delete_works_on_a_full_disk(
        self, storage: LocalFileStorage, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        def fail() -> None:
            raise OSError(code, os.strerror(code))

        put(storage, b"old", FILE)
        Steps(1, fail, only="mkdir", onwards=True).install(monkeypatch)
        storage.delete(FILE)
        assert list(root.iterdir()) == []

    def test_path_that_is_no_directory(self, tmp_path: Path) -> None:
        (tmp_path / "plain").write_text("x")
        storage = LocalFileStorage(tmp_path / "plain")
        with pytest.raises(errors.StorageMissing):
            storage.list()
        with pytest.raises(errors.DepotError):
            storage.create(b"x")
        assert storage.staging_directory() is None

    def test_file_limit_of_the_process(self, storage: LocalFileStorage) -> None:
        """A real EFBIG, by RLIMIT_FSIZE."""

        def work() -> None:
            import resource
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            with pytest.raises(errors.TooLarge):
                put(storage, b"x" * 200_000, FILE)
            assert storage.list() == []

        assert in_child(work) == 0


def test_metadata_that_would_not_be_read_again_are_refused(storage: LocalFileStorage) -> None:
    stat = put(storage, b"x", FILE)
    longest = FileMetadata("x" * 1_000_000, "a/b", 1)
    assert storage.stat(put(storage, b"x", OTHER, metadata=longest).file_id).metadata == longest
    too_long = FileMetadata("\N{GRINNING FACE}" * 100_000, "a/b", 1)
    calls: list[Callable[[], object]] = [
        lambda: put(storage, b"new", FILE, metadata=too_long),
        lambda: storage.update(stat, filename=too_long.filename),
        lambda: storage.move(stat, new_uuid(), too_long),
    ]
    for call in calls:
        with pytest.raises(InvalidMetadata, match="too long"):
            call()
    assert sorted(storage.list()) == sorted([FILE, OTHER])
    assert (content_of(storage, stat), storage.stat(FILE).metadata) == (b"x", METADATA)


class TestMoves:
    def test_content_of_any_size_stays_where_it_is_on_the_disk(self, storage: LocalFileStorage, root: Path) -> None:
        source = put(storage, b"", FILE)
        with (root / FILE / "file").open("r+b") as file:
            file.truncate(1 << 40)  # all of it a hole
        source = storage.stat(FILE)
        before = (root / FILE / "file").stat()
        moved = storage.move(source, OTHER, METADATA)
        after = (root / OTHER / "file").stat()
        assert (after.st_ino, after.st_blocks, after.st_nlink) == (before.st_ino, before.st_blocks, 1)
        assert (moved.version, storage.stat(OTHER)) == (source.version, moved)
        assert [path.name for path in root.iterdir()] == [OTHER]

    def test_file_system_without_links(
        self, storage: LocalFileStorage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        source = put(storage, noise(300_000), FILE)
        steps = Steps(1, fail, only="link")
        steps.install(monkeypatch)
        moved = storage.move(source, OTHER, METADATA, expect=ABSENT)
        assert steps.reached
        assert content_of(storage, moved) == noise(300_000)
        assert storage.stat(OTHER) == moved
        assert storage.list() == [OTHER]

    def test_who_reads_a_file_reads_on_when_it_moves(self, storage: LocalFileStorage) -> None:
        source = put(storage, b"data", FILE)
        reader = storage.open_content(source)
        put(storage, b"old", OTHER)
        storage.move(source, OTHER, METADATA)
        assert reader.pread(0, 9) == b"data"
        reader.close()


class TestVersions:
    def test_differ_however_quick(self, storage: LocalFileStorage) -> None:
        """An inode number is taken again at once, and the kernel's clock stands still for milliseconds."""
        stats = [put(storage, b"%02d" % number, FILE) for number in range(40)]
        assert len({stat.version for stat in stats}) == 40
        stat = stats[-1]
        revisions = {stat.revision}
        for number in range(40):
            stat = storage.update(stat, filename=str(number))
            revisions.add(stat.revision)
        assert len(revisions) == 41
        assert stat.version == stats[-1].version

    def test_change_when_somebody_edits_in_place(self, storage: LocalFileStorage, root: Path) -> None:
        stat = put(storage, b"abcdef", FILE)
        reader = storage.open_content(stat)
        (root / FILE / "file").write_bytes(b"longer than before")
        assert storage.stat(FILE).version != stat.version
        assert storage.stat(FILE).size == 18
        (root / FILE / "file").write_bytes(b"a")
        with pytest.raises(VersionChanged):
            reader.pread(0, 6)
        reader.close()


class TestListing:
    def test_pages_are_made_as_they_are_asked_for(
        self, storage: LocalFileStorage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(storage, b"x", FILE)
        ids = sorted([FILE, *(FileId(new_uuid()) for _ in range(2 * PAGE + 10))])
        for file_id in ids:
            if file_id != FILE:  # as a file restored by links
                (root / file_id).mkdir()
                for name in ("file", "metadata.json"):
                    os.link(root / FILE / name, root / file_id / name)
        asked = 0
        real = LocalFileStorage.stat

        def counted(storage: LocalFileStorage, file_id: FileId) -> object:
            nonlocal asked
            asked += 1
            return real(storage, file_id)

        monkeypatch.setattr(LocalFileStorage, "stat", counted)
        pages = storage.pages()
        assert asked == 0
        assert [entry.file_id for entry in next(pages)] == ids[:PAGE]
        assert asked == PAGE
        storage.remove(ids[PAGE])
        assert [entry.file_id for page in pages for entry in page] == ids[PAGE + 1 :]
        assert sorted(storage.list()) == [file_id for file_id in ids if file_id != ids[PAGE]]

    def test_entries_carry_exact_stats(self, storage: LocalFileStorage) -> None:
        stats = {(stat := put(storage, noise(size))).file_id: stat for size in range(5)}
        for page in storage.pages():
            for entry in page:
                stat = stats[entry.file_id]
                assert entry.stat == stat
                assert (entry.size, entry.revision, entry.changed_ns) == (stat.size, stat.revision, stat.changed_ns)


def test_durable_storage_flushes_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")).partition("-")[0])
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    quick, durable = LocalFileStorage(tmp_path / "root"), LocalFileStorage(tmp_path / "root", durable=True)

    def flushed(storage: LocalFileStorage) -> list[str]:
        synced.clear()
        storage.put(BytesContent(b"x"), METADATA, file_id=FILE)
        return list(synced)

    assert flushed(quick) == []
    assert flushed(quick) == ["file", "metadata.json", "build"]
    assert flushed(durable) == ["file", "metadata.json", "build", "root"]
    durable.remove(FILE)
    assert flushed(durable) == ["file", "metadata.json", "build", "root"]
