"""The staging directory of a local storage: what is taken out of it, where it is, and what others left in it."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat as modes
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import depot.io.local
import pytest

from depotfs import errors
from depotfs.errors import AlreadyStored, VersionChanged
from depotfs.io import localcontent
from depotfs.io.content import FileContent, StreamContent
from depotfs.io.local import LocalFileStorage
from depotfs.types import ABSENT, ANY
from tests.io.contract_sources import ABSENT_IDS, METADATA, content_of, noise, put
from tests.io.faults import Steps, in_child

FILE, OTHER = ABSENT_IDS
NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / ".storage.depotfs"


@pytest.fixture
def storage(root: Path) -> LocalFileStorage:
    return LocalFileStorage(str(root))


def staged(directory: str | Path, data: bytes) -> FileContent:
    """What a mount's spool has in a staging directory."""
    own = f"{directory}/spool-7"
    os.makedirs(own)
    fd = os.open(f"{own}/file", os.O_RDWR | os.O_CREAT, 0o666)
    os.write(fd, data)
    return FileContent(f"{own}/file", fd, len(data), movable=True)


def held(storage: LocalFileStorage) -> str:
    directory = storage.staging_directory()
    assert directory is not None
    return directory


class TestTaking:
    """A movable file out of the staging directory."""

    @pytest.mark.parametrize("expect", [ABSENT, ANY], ids=["absent", "any"])
    def test_new_file_is_taken_not_copied(
        self, storage: LocalFileStorage, root: Path, staging: Path, expect: str | None
    ) -> None:
        content = staged(held(storage), b"abc")
        stat = storage.put(content, METADATA, file_id=FILE, expect=expect)
        assert content.moved
        assert os.fstat(content.fd).st_ino == (root / FILE / "file").stat().st_ino
        assert storage.stat(FILE) == stat
        assert content_of(storage, stat) == b"abc"
        assert not (staging / "spool-7").exists()
        os.close(content.fd)
        storage.close()
        assert [path.name for path in root.iterdir()] == [FILE]
        assert not staging.exists()

    def test_file_that_cannot_be_taken_is_left_alone(
        self, storage: LocalFileStorage, staging: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = staged(held(storage), b"abc")

        def refuse() -> None:
            raise OSError(errno.ENOSPC, "full")

        for name in ("write", "renameat2"):
            with monkeypatch.context() as patch:
                steps = Steps(1, refuse, only=name)
                steps.install(patch)
                with pytest.raises(errors.StorageFull):
                    storage.put(content, METADATA, file_id=FILE, expect=ABSENT)
                assert steps.reached
            assert os.listdir(staging / "spool-7") == ["file"]
        assert storage.put(content, METADATA, file_id=FILE, expect=ABSENT) == storage.stat(FILE)
        os.close(content.fd)

    def test_replacing_file_is_taken_not_copied(self, storage: LocalFileStorage, root: Path, staging: Path) -> None:
        old = put(storage, b"old", FILE)
        for expect in (old.version, ANY):
            content = staged(held(storage), b"new")
            stat = storage.put(content, METADATA, file_id=FILE, expect=expect)
            assert content.moved
            assert os.fstat(content.fd).st_ino == (root / FILE / "file").stat().st_ino
            assert os.fstat(content.fd).st_nlink == 1
            assert storage.stat(FILE) == stat
            assert not (staging / "spool-7").exists()
            os.close(content.fd)

    @pytest.mark.parametrize("written", ["relative", "relative//", "./relative/../relative"])
    def test_staging_directory_by_any_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
        monkeypatch.chdir(tmp_path)
        storage = LocalFileStorage(written)
        content = staged(held(storage), b"abc")
        content.path = os.path.abspath(content.path)
        storage.put(content, METADATA, file_id=FILE)
        assert content.moved
        os.close(content.fd)

    def test_refused_file_stays_where_it_was(self, storage: LocalFileStorage, staging: Path) -> None:
        put(storage, b"old", FILE)
        content = staged(held(storage), b"new")
        with pytest.raises(AlreadyStored):
            storage.put(content, METADATA, file_id=FILE, expect=ABSENT)
        with pytest.raises(VersionChanged):
            storage.put(content, METADATA, file_id=FILE, expect="another")
        assert not content.moved
        assert [path.name for path in (staging / "spool-7").iterdir()] == ["file"]
        assert (staging / "spool-7" / "file").read_bytes() == b"new"
        assert content_of(storage, FILE) == b"old"
        os.close(content.fd)

    def test_file_from_elsewhere_is_copied(self, storage: LocalFileStorage, tmp_path: Path) -> None:
        data = noise(3_000_001)
        path = tmp_path / "file"
        path.write_bytes(data)
        with path.open("rb") as file:
            content = FileContent(str(path), file.fileno(), len(data), movable=True)
            storage.put(content, METADATA, file_id=FILE)
        assert not content.moved
        assert content_of(storage, FILE) == data
        assert path.read_bytes() == data

    @pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS])
    def test_file_is_copied_where_the_kernel_cannot(
        self, storage: LocalFileStorage, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        data = noise(3_000_001)
        source = put(storage, data)

        def refuse() -> None:
            raise OSError(code, os.strerror(code))

        steps = Steps(1, refuse, only="copy_file_range")
        monkeypatch.setattr(localcontent, "_clone", lambda source, target: False)
        steps.install(monkeypatch)
        storage.copy(source, FILE, METADATA)
        assert steps.reached
        assert content_of(storage, FILE) == data

    def test_what_an_earlier_version_had_inside_the_storage_is_taken(
        self, storage: LocalFileStorage, root: Path
    ) -> None:
        for number, file_id in enumerate((FILE, FILE, OTHER)):
            content = staged(root / ".depotfs", b"%d" % number)
            storage.put(content, METADATA, file_id=file_id)
            assert content.moved
            assert os.fstat(content.fd).st_ino == (root / file_id / "file").stat().st_ino
            os.close(content.fd)
        assert sorted(path.name for path in root.iterdir()) == sorted([FILE, OTHER])

    def test_directory_that_only_looks_like_it_is_not_taken(self, storage: LocalFileStorage, tmp_path: Path) -> None:
        """Its file is another one than that which is to be stored."""
        content = staged(held(storage), b"abc")
        Path(content.path).rename(tmp_path / "away")
        Path(content.path).symlink_to(tmp_path / "away")
        storage.put(content, METADATA, file_id=FILE)
        assert not content.moved
        assert content_of(storage, FILE) == (tmp_path / "away").read_bytes() == b"abc"
        os.close(content.fd)

    def test_rename_that_is_impossible_is_found_out(
        self, storage: LocalFileStorage, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A quota of one directory alone, for one."""

        def refuse() -> None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        for number, file_id in enumerate((FILE, FILE, OTHER)):
            content = staged(held(storage), b"%d" % number)
            with monkeypatch.context() as patch:
                Steps(1, refuse, only="renameat2").install(patch)
                Steps(1, refuse, only="link").install(patch)
                storage.put(content, METADATA, file_id=file_id)
            assert not content.moved
            assert content_of(storage, file_id) == b"%d" % number
            shutil.rmtree(os.path.dirname(content.path))
            os.close(content.fd)
            storage.close()

    def test_what_cannot_be_renamed_once_can_be_the_next_time(
        self, storage: LocalFileStorage, root: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse() -> None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        with monkeypatch.context() as patch:
            Steps(1, refuse, only="renameat2").install(patch)
            with pytest.raises(errors.StorageUnavailable):
                put(storage, b"x", FILE)
        assert held(storage) == str(root / ".depotfs")
        put(storage, b"x", FILE)
        storage.close()
        assert (storage.list(), staging.exists()) == ([FILE], False)


class TestPlace:
    """Where the staging directory is."""

    def test_is_beside_the_storage_and_only_while_needed(
        self, storage: LocalFileStorage, root: Path, staging: Path
    ) -> None:
        put(storage, b"old", FILE)
        put(storage, b"new", FILE)
        storage.remove(FILE)
        assert list(root.parent.iterdir()) == [root]
        assert storage.staging_directory() == str(staging) == storage.staging_directory()
        LocalFileStorage(root).create(b"another process comes and goes")
        assert staging.is_dir()
        storage.close()
        storage.close()
        assert list(root.parent.iterdir()) == [root]

    def test_filedepot_beside_us_sees_files_only(self, storage: LocalFileStorage, root: Path, tmp_path: Path) -> None:
        """Its own list, and its own loop for backups."""
        content = staged(held(storage), b"on its way")
        theirs = depot.io.local.LocalFileStorage(str(root))
        target = depot.io.local.LocalFileStorage(str(tmp_path / "backup"))
        made = [storage.create(b"x"), theirs.create(b"y")]
        assert sorted(theirs.list()) == sorted(made)
        for file_id in theirs.list():
            file = theirs.get(file_id)
            target.replace(file, file)
        assert sorted(target.list()) == sorted(made)
        os.close(content.fd)

    @pytest.mark.parametrize("written", ["link", "./link/", "sub/../link"])
    def test_storage_by_a_symbolic_link(
        self, root: Path, staging: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
    ) -> None:
        """It is beside what the link leads to: a link may lead to another disk."""
        root.mkdir()
        (tmp_path / "sub").mkdir()
        (tmp_path / "link").symlink_to(root)
        monkeypatch.chdir(tmp_path)
        storage = LocalFileStorage(written)
        assert held(storage) == str(staging)
        put(storage, b"x", FILE)
        storage.close()
        assert LocalFileStorage(root).list() == [FILE]

    def test_is_as_open_as_the_storage(self, storage: LocalFileStorage, root: Path, staging: Path) -> None:
        """What is being stored must not be readable by others on its way; a group's files get that group."""
        root.mkdir()
        for mode in (0o700, 0o2770, 0o755):
            root.chmod(mode)
            if os.geteuid() == 0:
                os.chown(root, NOBODY, NOBODY)
            held(storage)
            found, wanted = staging.stat(), root.stat()
            assert (modes.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, wanted.st_uid, wanted.st_gid)
            put(storage, b"x", FILE)
            assert mode != 0o2770 or (root / FILE).stat().st_gid == wanted.st_gid
            storage.close()

    def test_hands_down_the_rights_that_the_storage_hands_down(self, storage: LocalFileStorage, root: Path) -> None:
        """By a default ACL (acl(5)): owner, the user nobody, group, mask and others."""
        entries = [(1, 7, -1), (2, 7, NOBODY), (4, 5, -1), (16, 7, -1), (32, 5, -1)]
        root.mkdir()
        try:
            acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
            os.setxattr(root, "system.posix_acl_default", acl)
        except OSError as error:
            pytest.skip(f"the file system has no ACLs: {error}")
        put(storage, b"x", FILE)
        assert struct.pack("<HHi", 2, 7, NOBODY) in os.getxattr(root / FILE / "file", "system.posix_acl_access")

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")
    @pytest.mark.parametrize("bound", [False, True], ids=["own file system", "bind mount"])
    def test_is_inside_where_no_rename_leads_from_beside(
        self, storage: LocalFileStorage, root: Path, tmp_path: Path, bound: bool
    ) -> None:
        root.mkdir()
        (tmp_path / "bound").mkdir()
        what = ["--bind", tmp_path / "bound"] if bound else ["-t", "tmpfs", "none"]
        subprocess.run(["mount", *what, root], check=True)
        try:
            self._check_inside(storage, root)
        finally:
            subprocess.run(["umount", "-l", root], check=True)

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
    def test_is_inside_where_the_parent_takes_no_new_names(self) -> None:
        with tempfile.TemporaryDirectory() as parent:  # pytest's are closed to others, with all that is above them
            os.chmod(parent, 0o755)
            root = Path(parent, "storage")
            root.mkdir()
            os.chown(root, NOBODY, NOBODY)

            def as_nobody() -> None:
                os.setuid(NOBODY)
                self._check_inside(LocalFileStorage(root), root)

            assert in_child(as_nobody) == 0

    def _check_inside(self, storage: LocalFileStorage, root: Path) -> None:
        assert held(storage) == str(root / ".depotfs")
        content = staged(root / ".depotfs", b"abc")
        storage.put(content, METADATA, file_id=FILE)
        assert content.moved
        storage.move(put(storage, b"new", FILE), OTHER, METADATA)
        storage.close()
        assert [path.name for path in root.iterdir()] == [OTHER]
        assert [path.name for path in root.parent.iterdir() if "storage" in path.name] == [root.name]

    def test_that_cannot_be_anywhere(self, root: Path) -> None:
        root.write_bytes(b"no directory")
        assert LocalFileStorage(root).staging_directory() is None
        assert list(root.parent.iterdir()) == [root]

    @pytest.mark.parametrize(
        "plant",
        [
            lambda path, elsewhere: path.symlink_to(elsewhere),
            lambda path, elsewhere: path.symlink_to("/nowhere/at/all"),
            lambda path, elsewhere: path.write_bytes(b"no directory"),
            lambda path, elsewhere: os.mkfifo(path),
            lambda path, elsewhere: shutil.chown(shutil.copytree(elsewhere, path), NOBODY, NOBODY),
        ],
        ids=["link", "link to nowhere", "file", "fifo", "somebody else's"],
    )
    def test_what_others_put_beside_the_storage_is_not_used(
        self,
        storage: LocalFileStorage,
        root: Path,
        staging: Path,
        tmp_path: Path,
        plant: Callable[[Path, Path], object],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root, to make a directory of somebody else's")
        elsewhere = self._elsewhere(tmp_path)
        plant(staging, elsewhere)
        with caplog.at_level(logging.WARNING):
            for number in range(3):
                put(storage, b"%d" % number, FILE)
                assert content_of(storage, FILE) == b"%d" % number
            assert held(storage) == str(root / ".depotfs")
            storage.remove(FILE)
            storage.close()
        assert [record.getMessage().partition(" is not used")[0] for record in caplog.records] == [str(staging)]
        assert storage.list() == []
        for place in (elsewhere, staging) if staging.is_dir() else (elsewhere,):
            assert sorted(path.name for path in place.iterdir()) == ["build-1", f"old-{OTHER}"]

    def test_link_inside_the_storage_is_not_followed(
        self, storage: LocalFileStorage, root: Path, tmp_path: Path
    ) -> None:
        elsewhere = self._elsewhere(tmp_path)
        root.mkdir()
        (root / ".depotfs").symlink_to(elsewhere)
        put(storage, b"x", FILE)
        storage.remove(FILE)
        storage.close()
        assert storage.list() == []
        assert sorted(path.name for path in elsewhere.iterdir()) == ["build-1", f"old-{OTHER}"]
        assert os.listdir(root) == [".depotfs"]

    def _elsewhere(self, tmp_path: Path) -> Path:
        """What would be swept, or brought back as a file, if it were a staging directory."""
        elsewhere = tmp_path / "elsewhere"
        made = LocalFileStorage(elsewhere)
        put(made, b"not to be shown", OTHER)
        put(made, b"not to be swept", FILE)
        (elsewhere / OTHER).rename(elsewhere / f"old-{OTHER}")
        (elsewhere / FILE).rename(elsewhere / "build-1")
        return elsewhere


class TestLeftovers:
    @pytest.mark.parametrize("inside", [False, True], ids=["beside", "inside"])
    def test_are_swept_but_not_what_is_in_use(
        self, storage: LocalFileStorage, root: Path, staging: Path, inside: bool
    ) -> None:
        reached, go_on = threading.Event(), threading.Event()

        class Slow:
            """A source that is still sending when the other storage sweeps."""

            def __init__(self) -> None:
                self._pieces = [b"a", b"b", b""]

            def read(self, size: int = -1) -> bytes:
                reached.set()
                assert go_on.wait(60)
                return self._pieces.pop(0) if self._pieces else b""

        thread = threading.Thread(target=lambda: storage.put(StreamContent(Slow()), METADATA, file_id=FILE))
        thread.start()
        assert reached.wait(60)
        place = root / ".depotfs" if inside else staging
        for name in ("build-left", "spool-mine"):
            (place / name).mkdir(parents=True)
            (place / name / "file").write_bytes(b"x")
        (place / "build-link").symlink_to(root)
        LocalFileStorage(root).create(b"x")
        left = [path.name for directory in {place, staging} for path in directory.iterdir()]
        assert sorted(name.partition("-")[0] for name in left) == ["build", "spool"]
        assert {"build-left", "build-link"}.isdisjoint(left)
        go_on.set()
        thread.join()
        assert content_of(storage, FILE) == b"ab"


class TestInterruptedSwap:
    """What is left by a process that died on a file system that cannot exchange two names."""

    @pytest.fixture(params=["beside", "inside"])
    def old(self, request: pytest.FixtureRequest, storage: LocalFileStorage, root: Path, staging: Path) -> Path:
        put(storage, b"older", FILE)
        place = staging if request.param == "beside" else root / ".depotfs"
        place.mkdir()
        old = place / f"old-{FILE}"
        (root / FILE).rename(old)
        return old

    def test_old_file_is_back_whoever_asks_first(self, root: Path, old: Path) -> None:
        assert LocalFileStorage(root).list() == [FILE]
        assert not old.exists()

        for ask in (
            lambda storage: storage.exists(FILE),
            lambda storage: storage.stat(FILE),
            lambda storage: storage.open_content(FILE).close() is None,
            lambda storage: next(storage.pages()),
            lambda storage: put(storage, b"x", OTHER),
        ):
            old.parent.mkdir(exist_ok=True)
            (root / FILE).rename(old)
            assert ask(LocalFileStorage(root))
            assert (root / FILE / "file").read_bytes() == b"older"

    def test_old_file_is_deleted_with_the_new(self, storage: LocalFileStorage, root: Path, old: Path) -> None:
        old.rename(root / "aside")
        put(storage, b"newer", FILE)
        old.parent.mkdir(exist_ok=True)
        (root / "aside").rename(old)  # the swap had ended, but for this
        storage.remove(FILE)
        assert not storage.exists(FILE)
        assert storage.list() == []

    def test_expectations_know_it(self, storage: LocalFileStorage, root: Path, old: Path) -> None:
        with pytest.raises(AlreadyStored):
            put(storage, b"x", FILE, expect=ABSENT)
        old.parent.mkdir(exist_ok=True)
        (root / FILE).rename(old)
        storage.remove(FILE)
        assert not storage.exists(FILE)
        storage.close()
        assert list(root.iterdir()) == []
