"""Two daemons on one storage: what one of them sees of the other, and who wins."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mount.harness import Mount
from tests.mount.storages import PERSISTENT, StorageUnderTest, make_storage, on_kinds
from tests.posix.place import opened, pattern, refused


@pytest.fixture(scope="module")
def both(
    kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Mount, Mount, StorageUnderTest]]:
    """Two mounts that ask the storage at every access."""
    directory = tmp_path_factory.mktemp(f"two-{kind}").resolve()
    storage = make_storage(kind, directory, request)
    with contextlib.ExitStack() as stack:
        one, other = (
            Mount(
                directory / name,
                {"files": storage.config},
                expected=["STALE", "EEXIST", "changed", "already", "spool", "conflict", "replaced"],
                mount={"attr_timeout": "0"},
            )
            for name in ("one", "other")
        )
        for mount in (one, other):
            stack.enter_context(mount)
            stack.enter_context(mount.watched(200))
        yield one, other, storage
        one.stop(code=None)
        other.stop(code=None)


@on_kinds(*PERSISTENT)
def test_one_creates_first(kind: str, both: tuple[Mount, Mount, StorageUnderTest]) -> None:
    one, other, _ = both
    paths = [mount.path / "files" / "contested" for mount in (one, other)]
    first = os.open(paths[0], os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    second = os.open(paths[1], os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(first, b"the first to close")
    os.write(second, b"the second")
    os.close(first)
    with refused(errno.EEXIST):
        os.close(second)
    assert [path.read_bytes() for path in paths] == [b"the first to close"] * 2
    paths[1].write_bytes(b"later")
    assert [path.read_bytes() for path in paths] == [b"later"] * 2


@on_kinds(*PERSISTENT)
def test_one_replaces_first(kind: str, both: tuple[Mount, Mount, StorageUnderTest]) -> None:
    one, other, _ = both
    paths = [mount.path / "files" / "shared" for mount in (one, other)]
    paths[0].write_bytes(b"original")
    first, second = (os.open(path, os.O_WRONLY) for path in paths)
    os.pwrite(first, b"FIRST", 0)
    os.pwrite(second, b"SECOND", 0)
    os.close(first)
    with refused(errno.ESTALE):
        os.close(second)
    assert [path.read_bytes() for path in paths] == [b"FIRSTnal"] * 2


@on_kinds(*PERSISTENT)
def test_changes_are_seen(kind: str, both: tuple[Mount, Mount, StorageUnderTest]) -> None:
    one, other, storage = both
    mine, theirs = (mount.path / "files" / "news" for mount in (one, other))
    assert not theirs.exists()
    for content in (b"first", b"second, longer", b"3"):
        mine.write_bytes(content)
        assert theirs.stat().st_size == len(content)
        assert theirs.read_bytes() == content
        assert storage.derive("news") in os.listdir(theirs.parent)
    os.utime(mine, (1_000_000_000, 1_000_000_000))
    assert theirs.stat().st_mtime == 1_000_000_000
    beside = storage.open()
    beside.replace(storage.derive("news"), b"by an application", "renamed.txt")
    assert mine.read_bytes() == theirs.read_bytes() == b"by an application"
    os.rename(mine, mine.with_name("renamed"))
    assert not theirs.exists()
    assert theirs.with_name("renamed").read_bytes() == b"by an application"
    theirs.with_name("renamed").unlink()
    assert not mine.with_name("renamed").exists()
    assert storage.derive("renamed") not in os.listdir(mine.parent)


@on_kinds(*PERSISTENT)
def test_open_handle_reads_one_version(kind: str, both: tuple[Mount, Mount, StorageUnderTest]) -> None:
    """The old content to its end, or ESTALE; never a mix."""
    one, other, _ = both
    mine, theirs = (mount.path / "files" / "versioned" for mount in (one, other))
    old, new = pattern(20 << 20, 1), pattern(20 << 20, 2)
    mine.write_bytes(old)
    with opened(theirs, os.O_RDONLY) as fd:
        assert os.pread(fd, 4096, 0) == old[:4096]
        mine.write_bytes(new)
        offset = 0
        while offset < len(old):
            try:
                piece = os.pread(fd, 1 << 20, offset)
            except OSError as error:
                assert error.errno == errno.ESTALE  # noqa: PT017 - both outcomes are right
                break
            assert piece, f"the content ends at {offset}"
            assert piece == old[offset : offset + len(piece)], f"mixed at {offset}"
            offset += len(piece)
    assert theirs.read_bytes() == new


@on_kinds(*PERSISTENT)
@pytest.mark.parametrize("way", ["scratch", "stored"])
def test_readers_never_see_a_mix(kind: str, way: str, both: tuple[Mount, Mount, StorageUnderTest]) -> None:
    """Eight readers, half of them on the writer's own mount, while a scratch or stored file is renamed over theirs."""
    one, other, _ = both
    mine, theirs = (mount.path / "files" / f"replaced by {way}" for mount in (one, other))
    size = 1_500_000
    versions = 30 if kind == "local" else 8

    def content(version: int) -> bytes:
        return bytes([version + 1]) * (size + version)

    def replace(version: int) -> None:
        temporary = mine.with_name(".replacing" if way == "scratch" else "replacing")
        temporary.write_bytes(content(version))
        os.rename(temporary, mine)

    replace(0)
    finished = threading.Event()
    whole = [0] * 8

    def read(reader: int) -> None:
        path = mine if reader % 2 else theirs
        last = 0
        while True:
            ending = finished.is_set()
            try:
                with open(path, "rb", buffering=0) as file:
                    got = file.readall()
            except OSError as error:
                assert error.errno == errno.ESTALE, error  # noqa: PT017 - the version is gone: try again
                continue
            version = got[0] - 1
            assert got == content(version), f"{len(got)} bytes, versions {sorted({byte - 1 for byte in got})}"
            assert version >= last, "time went backwards"
            last = version
            whole[reader] += 1
            if ending:
                assert version == versions - 1
                return

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read, number) for number in range(8)]
        try:
            for version in range(1, versions):
                replace(version)
        finally:
            finished.set()
        for reader in readers:
            reader.result()
    assert all(whole)


@on_kinds("local", "s3")
def test_changes_are_seen_within_the_timeout(kind: str, storage: StorageUnderTest, tmp_path: Path) -> None:
    """With a timeout above zero: soon."""
    with Mount(tmp_path / "m", {"files": storage.config}, mount={"attr_timeout": "300ms"}) as mount, mount.watched():
        path = mount.path / "files" / "news"
        path.write_bytes(b"old")
        beside = storage.open()
        assert path.read_bytes() == b"old"
        beside.replace(storage.derive("news"), b"new content", "news")
        mount.wait_until(lambda: path.read_bytes() == b"new content", "new content", 5)
        assert path.stat().st_size == 11
        beside.delete(storage.derive("news"))
        mount.wait_until(lambda: not path.exists(), "deletion", 5)
        beside.create(b"x", "y")
        mount.wait_until(lambda: len(os.listdir(path.parent)) == 1, "new file in the listing", 5)


@on_kinds("local", "gridfs")
def test_both_append(kind: str, both: tuple[Mount, Mount, StorageUnderTest]) -> None:
    """In turns nothing is lost: each open sees what the other mount's close stored."""
    one, other, _ = both
    paths = [mount.path / "files" / "log" for mount in (one, other)]
    expected = b""
    for number in range(10):
        line = b"line %d\n" % number
        with opened(paths[number % 2], os.O_CREAT | os.O_WRONLY | os.O_APPEND) as fd:
            os.write(fd, line)
        expected += line
    assert [path.read_bytes() for path in paths] == [expected] * 2


def test_handle_that_lost_a_race_says_so(storage: StorageUnderTest, tmp_path: Path) -> None:
    """Nothing that is written through it later is acknowledged either."""
    asked = {"attr_timeout": "0"}
    with Mount(tmp_path / "m", {"files": storage.config}, expected=["spool"], mount=asked) as mount, mount.watched():
        path = mount.path / "files" / "contested"
        path.write_bytes(b"original")
        with refused(errno.ESTALE), opened(path, os.O_RDWR) as fd:
            os.pwrite(fd, b"LOST", 0)
            storage.open().replace(storage.derive("contested"), b"winner", "contested")
            for change in (lambda: None, lambda: os.pwrite(fd, b"lost, too", 0), lambda: os.ftruncate(fd, 0)):
                with refused(errno.ESTALE):
                    change()
                    os.fsync(fd)
        assert path.read_bytes() == b"winner"
        mount.stop(code=None)
