"""What stat(2) tells and what utime, chmod and chown change. Times are whole seconds: what every storage keeps."""

from __future__ import annotations

import os
import stat
import time

from tests.posix.place import Place, opened, pattern

LONG_AGO = 1_000_000_000


def check_stat_and_fstat_agree(place: Place) -> None:
    path = place / "agree"
    path.write_bytes(b"content")
    with opened(path, os.O_RDONLY) as fd:
        by_name, by_descriptor = path.stat(), os.fstat(fd)
        for attribute in ("st_ino", "st_dev", "st_size", "st_mtime_ns", "st_mode", "st_uid", "st_gid", "st_nlink"):
            assert getattr(by_name, attribute) == getattr(by_descriptor, attribute), attribute
    assert stat.S_ISREG(by_name.st_mode)
    assert by_name.st_nlink == 1
    assert by_name.st_size == 7
    assert by_name.st_blksize >= 512
    assert by_name.st_ino == path.lstat().st_ino


def check_blocks_cover_content(place: Place) -> None:
    path = place / "blocks"
    path.write_bytes(pattern(100_000))
    with opened(path, os.O_RDONLY) as fd:
        os.fsync(fd)
    assert path.stat().st_blocks * 512 >= 100_000


def check_inode_is_kept(place: Place) -> None:
    path = place / "inode"
    path.write_bytes(b"1")
    before = path.stat().st_ino
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"2")
        assert os.fstat(fd).st_ino == before
    assert path.stat().st_ino == before
    os.truncate(path, 0)
    assert path.stat().st_ino == before


def check_utime(place: Place) -> None:
    path = place / "times"
    path.write_bytes(b"content")
    for seconds in (LONG_AGO, 0, 1, 2**31 + 5, int(time.time()) - 1):
        os.utime(path, (seconds, seconds))
        assert path.stat().st_mtime_ns == seconds * 10**9
    with opened(path, os.O_RDONLY) as fd:
        os.utime(fd, (LONG_AGO, LONG_AGO))
        assert os.fstat(fd).st_mtime == path.stat().st_mtime == LONG_AGO
    assert path.stat().st_mtime == LONG_AGO
    assert path.read_bytes() == b"content"
    before = int(time.time())
    os.utime(path)
    assert before - 1 <= path.stat().st_mtime <= time.time() + 1


def check_utime_before_close(place: Place) -> None:
    """As cp -p and tar do: the time is set while the file is open for writing, and holds after the close."""
    path = place / "early"
    with opened(path, os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"content")
        os.utime(fd, (LONG_AGO, LONG_AGO))
        assert os.fstat(fd).st_mtime == LONG_AGO
    assert path.stat().st_mtime == LONG_AGO
    with opened(path, os.O_WRONLY) as fd:
        os.write(fd, b"CONTENT")
        os.utime(path, (LONG_AGO + 1, LONG_AGO + 1))
    assert path.stat().st_mtime == LONG_AGO + 1


def check_write_moves_time(place: Place) -> None:
    path = place / "moves"
    path.write_bytes(b"content")
    for change in ("write", "truncate", "ftruncate"):
        os.utime(path, (LONG_AGO, LONG_AGO))
        before = int(time.time())
        if change == "truncate":
            os.truncate(path, 3)
        else:
            with opened(path, os.O_WRONLY) as fd:
                if change == "write":
                    os.write(fd, b"abc")
                else:
                    os.ftruncate(fd, 2)
        assert path.stat().st_mtime >= before - 1, change


def check_reading_keeps_time(place: Place) -> None:
    path = place / "read"
    path.write_bytes(b"content")
    os.utime(path, (LONG_AGO, LONG_AGO))
    path.read_bytes()
    with opened(path, os.O_RDWR):
        pass
    with opened(path, os.O_WRONLY | os.O_CREAT):
        pass
    assert path.stat().st_mtime == LONG_AGO


def check_close_keeps_time(place: Place) -> None:
    """What fstat said before the close is what stat says after it: tools compare the two."""
    path = place / "closing"
    with opened(path, os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"content")
        before = os.fstat(fd)
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (before.st_mtime_ns, before.st_size, before.st_ino)


def check_chmod_and_chown_are_accepted(place: Place) -> None:
    path = place / "owned"
    path.write_bytes(b"content")
    os.chmod(path, 0o640)
    os.chown(path, os.getuid(), os.getgid())
    os.chown(path, -1, -1)
    with opened(path, os.O_RDWR) as fd:
        os.fchmod(fd, 0o644)
        os.fchown(fd, os.getuid(), os.getgid())
    assert path.read_bytes() == b"content"
    assert os.access(path, os.R_OK | os.W_OK)


def check_statvfs(place: Place) -> None:
    path = place / "space"
    path.write_bytes(b"x")
    with opened(path, os.O_RDONLY) as fd:
        for answer in (os.statvfs(place.directory), os.statvfs(path), os.fstatvfs(fd)):
            assert answer.f_bsize > 0
            assert answer.f_frsize > 0
            assert 0 < answer.f_bavail <= answer.f_blocks
            assert answer.f_namemax == 255
