"""The disk that tests break, before anything is proved with it."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from depotfs import disk as steps
from depotfs.spool import Spool, State
from tests.simulation.disk import Disk
from tests.spool.targets import PHOTO

PAGE = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk(str(tmp_path / "disk")) as disk:
        yield disk


def write(path: str, content: bytes, *, flush: bool = True) -> int:
    """A descriptor of the new file at `path`; its name is on the disk, the content only if flushed."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, content)
    if flush:
        os.fsync(fd)
    steps.sync_directory(os.path.dirname(path))
    return fd


def restarted(disk: Disk, chance: random.Random | None = None) -> dict[str, bytes]:
    """What is on the disk after a loss of power, by path in it."""
    disk.lose_power(chance)
    disk.start()
    root = Path(disk.root)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_what_was_flushed_is_left(disk: Disk) -> None:
    fd = write(f"{disk.root}/a", bytes(3 * PAGE))
    os.pwrite(fd, b"new", PAGE)
    assert os.pread(fd, 3, PAGE) == b"new"
    os.fsync(fd)
    os.pwrite(fd, b"newer", PAGE - 2)
    os.ftruncate(fd, PAGE)
    os.pwrite(fd, b"end", 9 * PAGE)
    write(f"{disk.root}/b", b"never flushed", flush=False)
    assert restarted(disk) == {"a": bytes(PAGE) + b"new" + bytes(2 * PAGE - 3), "b": b""}
    assert restarted(disk)["a"][PAGE : PAGE + 3] == b"new"
    os.close(fd)


def test_names_are_left_once_their_directory_was_flushed(disk: Disk) -> None:
    root = disk.root
    for name in ("kept", "removed", "moved", "replaced"):
        os.close(write(f"{root}/{name}", name.encode()))
    os.mkdir(f"{root}/d")
    steps.sync_directory(root)
    os.unlink(f"{root}/removed")
    os.rename(f"{root}/moved", f"{root}/d/moved")
    os.rename(f"{root}/replaced", f"{root}/kept")
    os.open(f"{root}/new", os.O_CREAT)
    assert restarted(disk) == {name: name.encode() for name in ("kept", "moved", "removed", "replaced")}
    os.rename(f"{root}/moved", f"{root}/d/moved")
    os.mkdir(f"{root}/e")
    steps.exchange(f"{root}/d", f"{root}/e")
    steps.sync_directory(f"{root}/e")
    assert restarted(disk) == {"e/moved": b"moved"} | {n: n.encode() for n in ("kept", "removed", "replaced")}


def test_what_a_flush_failed_to_write_is_lost_unless_it_is_written_again(disk: Disk) -> None:
    fds = [write(f"{disk.root}/{name}", bytes(2 * PAGE)) for name in ("a", "b", "c")]
    for fd in fds:
        os.pwrite(fd, b"x", 1)
        disk.fail("fsync", errno.EIO)
        with pytest.raises(OSError, match="Input/output"):
            os.fsync(fd)
    os.pwrite(fds[1], b"y", 2)
    for fd in fds:
        os.fsync(fd)
    assert os.pread(fds[0], 2, 0) == b"\0x"
    disk.evict()
    assert os.pread(fds[0], 2, 0) == b"\0\0"
    assert {name: content[:3] for name, content in restarted(disk).items()} == {
        "a": b"\0\0\0",
        "b": b"\0xy",
        "c": b"\0\0\0",
    }


def test_a_full_disk_takes_a_part(disk: Disk) -> None:
    fd = write(f"{disk.root}/a", b"")
    disk.room = 4
    assert os.write(fd, b"123456") == 4
    with pytest.raises(OSError, match="No space"):
        os.pwrite(fd, b"56", 4)
    disk.room = None
    assert os.write(fd, b"56") == 2


def test_steps_fail_on_command(disk: Disk) -> None:
    fd = write(f"{disk.root}/a", b"")
    disk.fail("write", errno.ENOSPC, after=2, times=2)
    outcomes = []
    for number in range(6):
        try:
            outcomes.append(os.pwrite(fd, b"x", number))
        except OSError as error:
            outcomes.append(-(error.errno or 0))
    assert outcomes == [1, 1, -errno.ENOSPC, -errno.ENOSPC, 1, 1]


def test_by_chance_each_page_is_old_or_new(disk: Disk) -> None:
    seen = set()
    for seed in range(30):
        path = f"{disk.root}/{seed}"
        fd = write(path, b"a" * 2 * PAGE)
        os.pwrite(fd, b"b" * 2 * PAGE, PAGE)
        content = restarted(disk, random.Random(seed))[str(seed)]
        os.close(fd)
        pages = [content[offset : offset + PAGE] for offset in range(0, len(content), PAGE)]
        assert pages[0] == b"a" * PAGE
        assert all(page in (b"a" * PAGE, b"b" * PAGE, bytes(PAGE)) for page in pages)
        seen.add(tuple(page[:1] for page in pages))
    assert seen == {(b"a", x) for x in (b"a", b"b")} | {(b"a", x, y) for x in (b"a", b"b") for y in (b"b", b"\0")}


def test_a_killed_program_has_no_lock_and_does_nothing_more(disk: Disk) -> None:
    spool = Spool(f"{disk.root}/spool")
    spool.open()
    file = spool.new_file(PHOTO)
    file.pwrite(b"abc", 0)
    file.seal(PHOTO, durable=False)
    disk.kill()
    disk.start()
    for call in (lambda: file.pwrite(b"x", 0), lambda: file.pread(1, 0), lambda: file.seal(PHOTO, durable=True)):
        with pytest.raises(OSError):
            call()
    after = Spool(f"{disk.root}/spool")
    [found] = after.open()
    assert (found.state, found.pread(9, 0)) == (State.SEALED, b"abc")
    spool.close()
    assert found.pread(9, 0) == b"abc"
    disk.kill()
    with pytest.raises(OSError):
        Spool(f"{disk.root}/spool").open()
