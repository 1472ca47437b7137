"""The chapter "Calls": what a storage sees of what programs do, looked at through the library beside the mount."""

from __future__ import annotations

import ctypes
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from depotfs.io.interfaces import FileStorage
from depotfs.types import FileId, FileStat
from tests.mount.harness import Mount
from tests.mount.shared import SharedMount
from tests.mount.storages import PERSISTENT, StorageUnderTest, on_kinds
from tests.posix.place import Place, opened, pattern, refused

LONG_AGO = 1_111_111_111
NOREPLACE, EXCHANGE = 1, 2


class Beside:
    """The storage of a place, through the library."""

    def __init__(self, place: Place, storage: FileStorage) -> None:
        self.storage = storage
        self._place = place

    def stat(self, name: str) -> FileStat:
        """Of the file that has that plain name."""
        return self.storage.stat(FileId(self._place.listed_as(name)))

    def read(self, name: str) -> bytes:
        content = self.storage.get(self._place.listed_as(name)).read()
        assert isinstance(content, bytes)
        return content

    def exists(self, name: str) -> bool:
        return bool(self.storage.exists(self._place.listed_as(name)))


@pytest.fixture
def beside(place: Place, checked: SharedMount) -> Iterator[Beside]:
    storage = checked.files.open()
    yield Beside(place, storage)
    storage.close()


def rename2(source: Path, target: Path, flags: int) -> None:
    """renameat2(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@on_kinds(*PERSISTENT)
def test_close_stores(kind: str, place: Place, beside: Beside) -> None:
    """Nothing before the close, everything after it; filename and type from the name."""
    with opened(place / "notes.html", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"<p>")
        assert not beside.exists("notes.html")
    stat = beside.stat("notes.html")
    assert (stat.metadata.filename, stat.metadata.content_type, stat.size) == ("notes.html", "text/html", 3)
    assert stat.metadata.modified == (place / "notes.html").stat().st_mtime
    assert beside.read("notes.html") == b"<p>"


@on_kinds(*PERSISTENT)
def test_new_id_is_unnamed(kind: str, place: Place, beside: Beside) -> None:
    name = str(uuid.uuid4())
    (place / name).write_bytes(b"content")
    stat = beside.storage.stat(FileId(name))
    assert (stat.metadata.filename, stat.metadata.content_type) == ("unnamed", "application/octet-stream")


@on_kinds(*PERSISTENT)
def test_replace_keeps_filename_and_type(kind: str, place: Place, beside: Beside) -> None:
    """By writing into it, by rename of a scratch file and of a plain name, by vim's way of saving."""
    stored = beside.storage.create(b"original", "Отчёт 2024.pdf", "application/x-special")
    path = place / stored

    def kept(content: bytes) -> None:
        stat = beside.storage.stat(FileId(stored))
        assert (stat.metadata.filename, stat.metadata.content_type) == ("Отчёт 2024.pdf", "application/x-special")
        assert beside.storage.get(stored).read() == content
        assert path.read_bytes() == content

    kept(b"original")
    path.write_bytes(b"by truncation")
    kept(b"by truncation")
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"!")
    kept(b"by truncation!")
    for temporary in (".scratch", "plain.txt"):
        (place / temporary).write_bytes(temporary.encode())
        os.rename(place / temporary, path)
        kept(temporary.encode())
    os.rename(path, place / f"{stored}~")
    path.write_bytes(b"as vim does")
    kept(b"as vim does")
    (place / f"{stored}~").unlink()
    kept(b"as vim does")


@on_kinds(*PERSISTENT)
def test_vims_backup_is_nothing_to_the_storage(kind: str, place: Place, beside: Beside) -> None:
    (place / "letter").write_bytes(b"old")
    os.rename(place / "letter", place / "letter~")
    assert not (place / "letter").exists()
    assert (place / "letter~").read_bytes() == b"old"
    assert beside.read("letter") == b"old", "the object stays until its id is made again"
    with opened(place / "letter", os.O_CREAT | os.O_EXCL | os.O_WRONLY) as fd:
        os.write(fd, b"new")
    assert (place / "letter~").read_bytes() == b"old"
    assert beside.read("letter") == b"new"
    (place / "letter~").unlink()
    assert beside.read("letter") == (place / "letter").read_bytes() == b"new"


@on_kinds(*PERSISTENT)
def test_unlinked_backup_is_a_deletion(kind: str, place: Place, beside: Beside) -> None:
    (place / "letter").write_bytes(b"old")
    os.rename(place / "letter", place / "letter~")
    (place / "letter~").unlink()
    assert not beside.exists("letter")
    assert not (place / "letter").exists()


def test_backup_renamed_back(place: Place, beside: Beside) -> None:
    (place / "letter").write_bytes(b"old")
    os.rename(place / "letter", place / "letter~")
    os.rename(place / "letter~", place / "letter")
    assert beside.read("letter") == (place / "letter").read_bytes() == b"old"
    assert not (place / "letter~").exists()


@on_kinds(*PERSISTENT)
def test_rename_matrix(kind: str, place: Place, beside: Beside) -> None:
    """From a scratch, a plain name and an id to each of them, onto nothing and onto a file."""

    def names(form: str) -> str:
        return {"scratch": f".{uuid.uuid4().hex[:8]}", "plain": f"p{uuid.uuid4().hex[:8]}", "id": str(uuid.uuid4())}[
            form
        ]

    for source_form in ("scratch", "plain", "id"):
        for target_form in ("scratch", "plain", "id"):
            for onto_file in (False, True):
                source, target = place / names(source_form), place / names(target_form)
                case = f"{source_form} to {target_form}, {'onto a file' if onto_file else 'onto nothing'}"
                if onto_file:
                    target.write_bytes(b"in the way")
                source.write_bytes(case.encode())
                os.utime(source, (LONG_AGO, LONG_AGO))
                os.rename(source, target)
                assert not source.exists(), case
                assert target.read_bytes() == case.encode(), case
                assert target.stat().st_mtime == LONG_AGO, case
                if target_form != "scratch":
                    stored = target.name if target_form == "id" else place.listed_as(target.name)
                    assert beside.storage.get(stored).read() == case.encode(), case
                    assert beside.storage.stat(FileId(stored)).metadata.modified == LONG_AGO, case
                if target_form == "plain":
                    assert beside.stat(target.name).metadata.filename == target.name, case
                os.rename(target, place / "removed")  # by an id that its name was used with, unlink may be refused
                (place / "removed").unlink()
                assert not target.exists(), case
    assert not [name for name in os.listdir(place.directory) if name.startswith(".")]


@on_kinds("local", "s3")
def test_rename_flags(kind: str, place: Place) -> None:
    one, other, new = place / "one", place / "other", place / "new"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    with refused(errno.EEXIST):
        rename2(one, other, NOREPLACE)
    with refused(errno.EINVAL):
        rename2(one, other, EXCHANGE)
    assert (one.read_bytes(), other.read_bytes()) == (b"1", b"2")
    rename2(one, new, NOREPLACE)
    assert (one.exists(), new.read_bytes()) == (False, b"1")
    (place / ".scratch").write_bytes(b"3")
    with refused(errno.EEXIST):
        rename2(place / ".scratch", other, NOREPLACE)
    assert (other.read_bytes(), (place / ".scratch").read_bytes()) == (b"2", b"3")


@pytest.mark.xdist_group("mount-local")
def test_rename_across_storages(place: Place, checked: SharedMount) -> None:
    other = checked.place("other")
    (place / "one").write_bytes(b"1")
    with refused(errno.EXDEV):
        os.rename(place / "one", other / "one")
    with refused(errno.EXDEV, errno.EPERM):
        os.rename(place / "one", checked.mount.path / "one")
    assert (place / "one").read_bytes() == b"1"
    assert not (other / "one").exists()


@on_kinds(*PERSISTENT)
def test_times_before_and_after_the_commit(kind: str, place: Place, beside: Beside) -> None:
    path = place / "timed"
    with opened(path, os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"content")
        os.utime(fd, (LONG_AGO, LONG_AGO))
    first = beside.stat("timed")
    assert first.metadata.modified == path.stat().st_mtime == LONG_AGO
    os.utime(path, (LONG_AGO + 5, LONG_AGO + 5))
    second = beside.stat("timed")
    assert second.metadata.modified == path.stat().st_mtime == LONG_AGO + 5
    assert second.metadata.filename == "timed"
    os.utime(path, ns=(0, (LONG_AGO + 7) * 10**9 + 999_999_999))
    assert beside.stat("timed").metadata.modified == path.stat().st_mtime == LONG_AGO + 7
    assert path.read_bytes() == beside.read("timed") == b"content"


@on_kinds("local", "gridfs", "s3")
def test_time_set_while_a_reader_is_open(kind: str, place: Place) -> None:
    """A touch changes no content: a handle that is open reads on."""
    data = pattern(3_000_000)
    path = place / "touched"
    path.write_bytes(data)
    with opened(path, os.O_RDONLY) as fd:
        assert os.pread(fd, 1000, 0) == data[:1000]
        os.utime(path, (LONG_AGO, LONG_AGO))
        assert os.pread(fd, len(data), 0) == data


@on_kinds("local", "gridfs")
def test_fsync_stores(kind: str, place: Place, beside: Beside) -> None:
    with opened(place / "synced", os.O_CREAT | os.O_WRONLY) as fd:
        for number in range(3):
            os.write(fd, b"%d" % number)
            os.fsync(fd)
            assert beside.read("synced") == b"012"[: number + 1]
    with opened(place / ".scratch", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x")
        os.fsync(fd)
        assert not beside.exists(".scratch")


@on_kinds("local", "gridfs")
def test_unlinked_dirty_file_never_commits(kind: str, place: Place, beside: Beside) -> None:
    path = place / "doomed"
    path.write_bytes(b"old")
    with opened(path, os.O_RDWR) as fd:
        os.write(fd, b"new")
        path.unlink()
        os.fsync(fd)
        assert not beside.exists("doomed")
    assert not beside.exists("doomed")


@on_kinds("local", "gridfs")
def test_shells_early_close_commits_nothing(kind: str, place: Place, beside: Beside) -> None:
    """A shell closes a duplicate before its command writes: the old content stays until there is a new one."""
    path = place / "redirected"
    path.write_bytes(b"old")
    version = beside.stat("redirected").version
    fd = os.open(path, os.O_WRONLY)
    os.close(os.dup(fd))
    assert beside.stat("redirected").version == version
    os.write(fd, b"new")
    os.close(os.dup(fd))
    assert beside.read("redirected") == b"new"
    os.close(fd)
    with opened(path, os.O_RDWR):
        pass
    assert beside.read("redirected") == b"new"


@on_kinds("local", "gridfs", "s3")
def test_truncation_alone_is_stored(kind: str, place: Place, beside: Beside) -> None:
    path = place / "cut"
    path.write_bytes(b"0123456789")
    os.truncate(path, 4)
    assert beside.read("cut") == b"0123"
    with opened(path, os.O_WRONLY | os.O_TRUNC):
        pass
    os.stat(path)
    with opened(path, os.O_RDONLY) as fd:
        os.fsync(fd)
    assert path.read_bytes() == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads what others own")
@on_kinds("local", "gridfs")
def test_modes_and_owners_come_from_the_configuration(kind: str, tmp_path: Path, storage: StorageUnderTest) -> None:
    settings = {"uid": 1234, "gid": 2345, "file_mode": "0640", "dir_mode": "0750"}
    with Mount(tmp_path / "m", {"files": {**storage.config, "mount": settings}}) as mount, mount.watched():
        path = mount.path / "files" / "file"
        path.write_bytes(b"x")
        os.chmod(path, 0o777)
        os.chown(path, 1, 1)
        for found, mode in ((path.stat(), 0o100640), (path.parent.stat(), 0o040750)):
            assert (found.st_uid, found.st_gid, oct(found.st_mode)) == (1234, 2345, oct(mode))


def _read_only_refusals(directory: Path) -> None:
    for change in (
        lambda: os.open(directory / "new", os.O_CREAT | os.O_WRONLY),
        lambda: os.open(directory / "kept", os.O_WRONLY),
        lambda: os.unlink(directory / "kept"),
        lambda: os.rename(directory / "kept", directory / "moved"),
        lambda: os.truncate(directory / "kept", 0),
        lambda: os.utime(directory / "kept", (1, 1)),
    ):
        with refused(errno.EROFS):
            change()


@pytest.mark.xdist_group("mount-local")
def test_read_only_storage(tmp_path: Path, storage: StorageUnderTest) -> None:
    with Mount(tmp_path / "m", {"files": storage.config}) as mount, mount.watched():
        (mount.path / "files" / "kept").write_bytes(b"content")
    with Mount(tmp_path / "r", {"files": {**storage.config, "mount": {"read_only": True}}}) as mount, mount.watched():
        assert (mount.path / "files" / "kept").read_bytes() == b"content"
        _read_only_refusals(mount.path / "files")
        assert (mount.path / "files" / "kept").read_bytes() == b"content"
    assert storage.open().get(storage.derive("kept")).read() == b"content"


@pytest.mark.xdist_group("mount-local")
def test_statfs_is_that_of_the_storage(place: Place, checked: SharedMount) -> None:
    (place / "x").write_bytes(b"x")
    beneath = os.statvfs(checked.files.options["storage_path"])
    assert os.statvfs(place.directory).f_blocks * os.statvfs(place.directory).f_frsize == (
        beneath.f_blocks * beneath.f_frsize
    )


@pytest.mark.xdist_group("mount-local")
def test_unknown_attributes_are_not_supported(place: Place) -> None:
    path = place / "attributed"
    path.write_bytes(b"x")
    of_root = ("security.something", "trusted.something")  # the kernel refuses them to others (xattr(7))
    for name in ("user.something", *(of_root if os.geteuid() == 0 else ())):
        with refused(errno.ENOTSUP, errno.ENODATA):
            os.getxattr(path, name)
        with refused(errno.ENOTSUP):
            os.setxattr(path, name, b"value")
