"""The daemon is killed while a program writes: what was acknowledged is there, whole, after the next mount."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.harness import Mount
from tests.mount.storages import StorageUnderTest, on_kinds
from tests.posix.place import opened, refused

NAMES = 5
_WRITER = """
import hashlib, itertools, os, sys
directory, first = sys.argv[1], int(sys.argv[2])
for version in itertools.count(first):
    name = f"file {version % 5}"
    body = version.to_bytes(4, "big") * (1 + version * 7919 % 60_000)
    content = b"%d %s\\n" % (version, hashlib.sha256(body).hexdigest().encode()) + body
    target = os.path.join(directory, name)
    try:
        path = os.path.join(directory, f".new-{version}") if version % 3 == 0 else target
        with open(path, "wb") as file:
            file.write(content)
        if path != target:
            os.rename(path, target)
    except OSError as error:
        print("stopped", error, flush=True)
        break
    print(version, flush=True)
"""
"""Writes numbered versions of a few files, every third one by a scratch file and a rename, and tells each one that
is acknowledged: by close, or by rename."""


def _version(content: bytes) -> int:
    """The version that a file's content is; AssertionError if it is torn."""
    head, _, body = content.partition(b"\n")
    version, digest = head.split()
    assert hashlib.sha256(body).hexdigest().encode() == digest, f"version {version!r} is torn ({len(body)} bytes)"
    return int(version)


def _has(path: Path, version: int) -> Callable[[], bool]:
    """Whether that version, or a later one, is there; what was journalled may land a moment after the start."""

    def look() -> bool:
        try:
            return _version(path.read_bytes()) >= version
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno == errno.ESTALE:  # it landed right now
                return False
            raise

    return look


def _write_until_killed(mount: Mount, first: int, acknowledgements: int) -> dict[str, int]:
    """The daemon dies after so many acknowledged writes. Returns the last acknowledged version by name."""
    command = [sys.executable, "-c", _WRITER, str(mount.path / "files"), str(first)]
    acknowledged: dict[str, int] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for count, line in enumerate(writer.stdout):
            if line.startswith("stopped"):
                break
            acknowledged[f"file {int(line) % NAMES}"] = int(line)
            if count == acknowledgements:
                mount.kill()
    return acknowledged


@on_kinds("local", "gridfs", "s3")
@pytest.mark.parametrize("commit", ["close", "background"])
def test_acknowledged_files_survive(kind: str, commit: str, storage: StorageUnderTest, tmp_path: Path) -> None:
    """Killed again and again at random points; versions only go up, and none is torn."""
    config = {**storage.config, "mount": {"commit": commit}}
    mount = Mount(tmp_path / "m", {"files": config}, expected=[r"recover", r"spool", r"journal"])
    chance = random.Random(f"{kind}-{commit}")
    last: dict[str, int] = {}
    first = 1
    with mount, mount.watched(240):
        for _ in range(5 if kind == "local" else 3):
            last |= _write_until_killed(mount, first, chance.randint(3, 25))
            first = max(last.values()) + NAMES + 1
            mount.start()
            for name, version in last.items():
                path = mount.path / "files" / name
                mount.wait_until(_has(path, version), f"version {version} of {name}, which was acknowledged")
                last[name] = _version(path.read_bytes())
                assert last[name] < first
            beside = storage.open()
            for file_id in beside.list():
                _version(beside.get(file_id).read())
        mount.stop()
    beside = storage.open()
    for name, version in last.items():
        assert _version(beside.get(storage.derive(name)).read()) == version
    left = [beside.get(file_id).filename for file_id in beside.list()]
    assert len(left) == len(set(left))


@on_kinds("local", "gridfs")
def test_scratch_file_is_found_again(kind: str, storage: StorageUnderTest, tmp_path: Path) -> None:
    with Mount(tmp_path / "m", {"files": storage.config}, expected=["in the spool"]) as mount, mount.watched():
        directory = mount.path / "files"
        (directory / "kept.txt").write_bytes(b"old")
        (directory / ".kept.txt.swp").write_bytes(b"swap")
        os.utime(directory / ".kept.txt.swp", (1_000_000_000, 1_000_000_000))
        mount.kill()
        assert storage.open().list() == [storage.derive("kept.txt")]
        mount.start()
        mount.wait_until((directory / ".kept.txt.swp").exists, "scratch file of the earlier mount")
        assert (directory / ".kept.txt.swp").read_bytes() == b"swap"
        assert (directory / ".kept.txt.swp").stat().st_mtime == 1_000_000_000
        os.rename(directory / ".kept.txt.swp", directory / "kept.txt")
        assert storage.open().get(storage.derive("kept.txt")).read() == b"swap"


@on_kinds("local", "gridfs")
def test_backup_of_an_editor_is_still_stored(kind: str, storage: StorageUnderTest, tmp_path: Path) -> None:
    """Killed between vim's two steps: the file is there under its id."""
    with Mount(tmp_path / "m", {"files": storage.config}) as mount, mount.watched():
        directory = mount.path / "files"
        (directory / "letter").write_bytes(b"old")
        os.rename(directory / "letter", directory / "letter~")
        mount.kill()
        mount.start()
        assert (directory / storage.derive("letter")).read_bytes() == b"old"
        assert (directory / "letter").read_bytes() == b"old"


@pytest.mark.xdist_group("mount-local")
@pytest.mark.parametrize("existed", [False, True])
def test_bytes_that_were_never_closed_do_not_land(existed: bool, storage: StorageUnderTest, tmp_path: Path) -> None:
    with Mount(tmp_path / "m", {"files": storage.config}, expected=[r"recover", r"spool"]) as mount, mount.watched():
        path = mount.path / "files" / "open"
        if existed:
            path.write_bytes(b"old")
        fd = os.open(path, os.O_CREAT | os.O_RDWR)
        os.write(fd, b"never closed")
        mount.kill()
        with refused(errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
            os.close(fd)
        mount.start()
        if existed:
            assert path.read_bytes() == b"old"
        else:
            assert not path.exists()
        mount.stop(code=None)
    assert storage.open().list() == ([storage.derive("open")] if existed else [])


@pytest.mark.xdist_group("mount-local")
def test_synced_bytes_survive(storage: StorageUnderTest, tmp_path: Path) -> None:
    with Mount(tmp_path / "m", {"files": storage.config}, expected=[r"recover", r"spool"]) as mount, mount.watched():
        path = mount.path / "files" / "synced"
        fd = os.open(path, os.O_CREAT | os.O_RDWR)
        os.write(fd, b"synced")
        os.fsync(fd)
        os.write(fd, b", and not")
        mount.kill()
        with refused(errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
            os.close(fd)
        mount.start()
        assert path.read_bytes() == b"synced"
        mount.stop(code=None)


@pytest.mark.xdist_group("mount-local")
def test_callers_of_a_dead_daemon_get_an_error(storage: StorageUnderTest, tmp_path: Path) -> None:
    """Never an empty directory, which a mirroring tool would take for the truth; the next start takes over."""
    mount = Mount(tmp_path / "m", {"files": storage.config})
    with mount, mount.watched():
        (mount.path / "files" / "one").write_bytes(b"1")
        os.kill(mount.pid, 9)
        mount.wait(code=-9, check_log=False, mounted=True)
        with refused(errno.ENOTCONN):
            os.listdir(mount.path / "files")
        with refused(errno.ENOTCONN):
            os.listdir(mount.path)
        mount.start()
        assert (mount.path / "files" / "one").read_bytes() == b"1"


@pytest.mark.xdist_group("mount-local")
def test_nothing_is_left_in_a_local_storage(storage: StorageUnderTest, tmp_path: Path) -> None:
    """Where new content was being built is cleared by the next mount; the library sees files only."""
    with Mount(tmp_path / "m", {"files": storage.config}, expected=[r"recover", r"spool"]) as mount, mount.watched():
        path = mount.path / "files" / "open"
        with opened(path, os.O_CREAT | os.O_WRONLY) as fd:
            os.write(fd, b"x" * 100_000)
        _write_until_killed(mount, 1, 10)
        mount.start()
        mount.stop()
    beside = storage.open()
    assert sorted(beside.list()) == sorted(
        name for name in os.listdir(storage.options["storage_path"]) if not name.startswith(".")
    )


@pytest.mark.parametrize("flags", [os.O_APPEND, os.O_TRUNC])
@pytest.mark.parametrize("synced", [False, True])
def test_acknowledged_scratch_file_survives_later_writes(
    flags: int, synced: bool, storage: StorageUnderTest, tmp_path: Path
) -> None:
    """A swap file: closed or synced, written again, and the daemon dies: what was acknowledged is there."""
    with Mount(tmp_path / "m", {"files": storage.config}, expected=["spool"]) as mount, mount.watched():
        path = mount.path / "files" / ".swap"
        fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        os.write(fd, b"acknowledged\n")
        if synced:
            os.fsync(fd)
        else:
            os.close(fd)
            fd = os.open(path, os.O_WRONLY | flags)
        os.write(fd, b"not closed\n")
        mount.kill()
        with refused(errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
            os.close(fd)
        mount.start()
        assert path.read_bytes() == b"acknowledged\n"
