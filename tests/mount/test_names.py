"""The chapter "Names": what a name in a storage's directory means."""

from __future__ import annotations

import errno
import os
import subprocess
import uuid
from pathlib import Path

import pytest

from depotfs.types import FileId
from tests.mount.harness import Mount
from tests.mount.shared import SharedMount
from tests.mount.storages import KINDS, PERSISTENT, StorageUnderTest, on_kinds
from tests.posix.place import Place, opened, refused

pytestmark = pytest.mark.xdist_group("mount-local")


@pytest.mark.parametrize(
    ("name", "as_uuid", "as_object_id"),
    [
        ("photo.jpg", "590f20fd-d941-5e6d-b65e-8496d7f4da20", "590f20fdd9415e6db65e8496"),
        ("Привет-мир-🎉.txt", "7bc271dc-6a12-5a52-981c-d7a3abd00147", "7bc271dc6a125a52981cd7a3"),
    ],
)
def test_derived_ids_are_those_of_the_contract(
    name: str, as_uuid: str, as_object_id: str, checked: SharedMount
) -> None:
    gridfs = StorageUnderTest("gridfs", "", {})
    assert checked.files.derive(name) == as_uuid
    assert gridfs.derive(name) == as_object_id


@on_kinds(*KINDS)
def test_plain_name_is_stored_under_its_derived_id(kind: str, place: Place, checked: SharedMount) -> None:
    name = "photo.jpg"
    (place / name).write_bytes(b"content")
    derived = checked.files.derive(name)
    assert name not in os.listdir(place.directory)
    assert derived in os.listdir(place.directory)
    by_id = place.directory / derived
    assert by_id.read_bytes() == b"content"
    assert by_id.stat().st_ino == (place / name).stat().st_ino
    if kind in PERSISTENT:
        stat = checked.files.open().stat(FileId(derived))
        assert (stat.metadata.filename, stat.metadata.content_type, stat.size) == (name, "image/jpeg", 7)


@on_kinds(*KINDS)
def test_both_forms_of_id_are_kept(kind: str, place: Place) -> None:
    for name in (str(uuid.uuid4()), uuid.uuid4().hex[:24]):
        path = place / name
        with refused(errno.ENOENT):
            path.stat()
        path.write_bytes(name.encode())
        assert name in os.listdir(place.directory)
        assert path.read_bytes() == name.encode()


@on_kinds("local", "gridfs")
def test_name_finds_the_other_form(kind: str, storage: StorageUnderTest, tmp_path: Path) -> None:
    """As after a backup from GridFS to a storage with UUIDs, or the reverse: the name survives."""
    from depotfs.io.content import BytesContent
    from depotfs.types import FileMetadata
    from tests.posix.place import derived_object_id, derived_uuid

    name = "Привет-мир-🎉.txt"
    foreign = derived_uuid(name) if kind == "gridfs" else derived_object_id(name)
    metadata = FileMetadata(name, "text/plain", 1_000_000_000)
    storage.open().put(BytesContent(b"backed up"), metadata, file_id=FileId(foreign))
    with Mount(tmp_path / "m", {"files": storage.config}) as mount, mount.watched():
        path = mount.path / "files" / name
        assert path.read_bytes() == b"backed up"
        path.write_bytes(b"changed")
        assert os.listdir(path.parent) == [foreign]
        path.unlink()
        path.write_bytes(b"new")
        assert os.listdir(path.parent) == [storage.derive(name)]


def test_other_spellings_of_an_id_are_no_names(place: Place) -> None:
    canonical = str(uuid.uuid4())
    (place / canonical).write_bytes(b"stored")
    for spelling in (canonical.upper(), "{%s}" % canonical, f"urn:uuid:{canonical}", canonical[:24].upper()):
        if spelling == canonical[:24].upper():
            spelling = uuid.uuid4().hex[:24].upper()
        path = place.directory / spelling
        with refused(errno.ENOENT):
            path.stat()
        with refused(errno.ENOENT):
            os.open(path, os.O_RDONLY)
        with refused(errno.EINVAL):
            os.open(path, os.O_CREAT | os.O_WRONLY)
        with refused(errno.EINVAL):
            os.rename(place.directory / canonical, path)
    assert (place / canonical).read_bytes() == b"stored"


def test_bare_hex_is_a_plain_name(place: Place, checked: SharedMount) -> None:
    name = "d41d8cd98f00b204e9800998ecf8427e"
    (place / name).write_bytes(b"md5")
    assert checked.files.derive(name) in os.listdir(place.directory)
    assert name not in os.listdir(place.directory)


def test_file_of_an_application_is_not_reached_by_its_filename(place: Place, checked: SharedMount) -> None:
    storage = checked.files.open()
    theirs = storage.create(b"of the application", "photo.jpg", "image/jpeg")
    with refused(errno.ENOENT):
        (place / "photo.jpg").stat()
    (place / "photo.jpg").write_bytes(b"ours")
    assert storage.get(theirs).read() == b"of the application"
    assert (place / theirs).read_bytes() == b"of the application"


@on_kinds("local", "gridfs")
def test_scratch_name_is_stored_when_it_is_renamed(kind: str, place: Place, checked: SharedMount) -> None:
    storage = checked.files.open()
    before = set(storage.list())
    for scratch, final in ((".upload.x8Yz", "final.txt"), ("draft~", str(uuid.uuid4())), ("4913", "number.txt")):
        path = place / scratch
        path.write_bytes(scratch.encode())
        assert scratch in os.listdir(place.directory)
        assert path.read_bytes() == scratch.encode()
        assert set(storage.list()) == before, "a scratch file waits in the spool"
        target = place / final
        os.rename(path, target)
        assert scratch not in os.listdir(place.directory)
        assert target.read_bytes() == scratch.encode()
        assert storage.get(place.listed_as(final) if final.endswith(".txt") else final).read() == scratch.encode()
        before = set(storage.list())


def test_scratch_file_that_stays_is_stored_at_unmount(storage: StorageUnderTest, tmp_path: Path) -> None:
    with Mount(tmp_path / "m", {"files": storage.config}) as mount, mount.watched():
        path = mount.path / "files" / ".htaccess"
        path.write_bytes(b"deny from all")
        mount.remount()
        assert path.read_bytes() == b"deny from all"
        assert os.listdir(path.parent) == [storage.derive(".htaccess")]
    assert storage.open().get(storage.derive(".htaccess")).filename == ".htaccess"


def test_scratch_file_is_stored_after_its_delay(storage: StorageUnderTest, tmp_path: Path) -> None:
    config = {**storage.config, "mount": {"scratch_delay": "200ms"}}
    with Mount(tmp_path / "m", {"files": config}) as mount, mount.watched():
        (mount.path / "files" / ".htaccess").write_bytes(b"x")
        beside = storage.open()
        mount.wait_until(lambda: beside.exists(storage.derive(".htaccess")), "commit of the scratch file")
        assert (mount.path / "files" / ".htaccess").read_bytes() == b"x"


def test_unlinked_scratch_file_is_never_stored(place: Place, checked: SharedMount) -> None:
    before = checked.files.open().list()
    (place / ".gone").write_bytes(b"x")
    (place / ".gone").unlink()
    with refused(errno.ENOENT):
        (place / ".gone").stat()
    assert ".gone" not in os.listdir(place.directory)
    assert checked.files.open().list() == before


def test_scratch_patterns_are_configurable(storage: StorageUnderTest, tmp_path: Path) -> None:
    config = {**storage.config, "mount": {"scratch": ["*.part"]}}
    with Mount(tmp_path / "m", {"files": config}) as mount, mount.watched():
        directory = mount.path / "files"
        (directory / "a.part").write_bytes(b"a")
        (directory / ".hidden").write_bytes(b"h")
        assert set(os.listdir(directory)) == {"a.part", storage.derive(".hidden")}
        os.rename(directory / "a.part", directory / "a")
        assert set(os.listdir(directory)) == {storage.derive("a"), storage.derive(".hidden")}


@on_kinds(*PERSISTENT)
def test_inode_numbers_are_unique_and_stable(kind: str, storage: StorageUnderTest, tmp_path: Path) -> None:
    """A file keeps its own through renames; after a remount it is again the one that its id derives, in aliases too."""
    with Mount(tmp_path / "m", {"files": storage.config}, aliases={"same": "files"}) as mount, mount.watched():
        path = mount.path / "files" / "kept.txt"
        path.write_bytes(b"1")
        number = path.stat().st_ino
        assert (mount.path / "same" / "kept.txt").stat().st_ino == number
        with path.open("rb") as replaced:
            (mount.path / "files" / "new").write_bytes(b"2")
            new = (mount.path / "files" / "new").stat().st_ino
            os.rename(mount.path / "files" / "new", path)
            assert path.stat().st_ino == new != number == os.fstat(replaced.fileno()).st_ino
            path.unlink()
            path.write_bytes(b"3")
            assert path.stat().st_ino not in (new, number)
        mount.remount()
        assert path.stat().st_ino == number
        assert {entry.name: entry.inode() for entry in os.scandir(path.parent)}[storage.derive("kept.txt")] == number


def test_alias_shows_the_same_files(place: Place, checked: SharedMount) -> None:
    alias = checked.place("same")
    (place / "one").write_bytes(b"through the storage")
    assert (alias / "one").read_bytes() == b"through the storage"
    with opened(alias / "one", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b", and the alias")
    assert (place / "one").read_bytes() == b"through the storage, and the alias"
    assert sorted(os.listdir(alias.directory)) == sorted(os.listdir(place.directory))
    os.rename(alias / "one", alias / "two")
    checked.mount.wait_until(lambda: not (place / "one").exists(), "end of the old name in the other directory")
    assert (place / "two").read_bytes() == b"through the storage, and the alias"
    (place / "two").unlink()
    checked.mount.wait_until(lambda: not (alias / "two").exists(), "end of the name in the other directory")


def test_root(checked: SharedMount) -> None:
    root = checked.mount.path
    assert sorted(os.listdir(root)) == ["files", "other", "same"]
    for refuse in (
        lambda: os.open(root / "file", os.O_CREAT | os.O_WRONLY),
        lambda: os.mkdir(root / "directory"),
        lambda: os.rmdir(root / "files"),
        lambda: os.rename(root / "files", root / "renamed"),
        lambda: os.symlink("files", root / "link"),
    ):
        with refused(errno.EPERM):
            refuse()
    with refused(errno.ENOENT):
        os.stat(root / "nothing")
    numbers = [entry.stat().st_ino for entry in os.scandir(root)]
    assert len(set(numbers)) == 3
    assert os.path.samefile(root / "files" / "..", root)


def test_unlink_by_id_after_use_by_name_is_refused(place: Place, checked: SharedMount) -> None:
    """A mirroring tool that sees ids instead of the names it wrote must not delete its own files."""
    checked.mount.expected.append("is refused: its process group")
    names = ["mirrored", "mirrored too"]
    for name in names:
        (place / name).write_bytes(b"x")
        with refused(errno.EPERM):
            (place.directory / checked.files.derive(name)).unlink()
        assert (place / name).read_bytes() == b"x"
    checked.mount.wait_log("is refused: its process group")
    assert checked.mount.log_text().count("is refused: its process group") == 1, "once for all files"
    subprocess.run(["rm", place.directory / checked.files.derive(names[0])], check=True, start_new_session=True)
    (place / names[1]).unlink()
