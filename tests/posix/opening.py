"""What open(2) and creat(2) do in a directory of files."""

from __future__ import annotations

import errno
import mmap
import os

from tests.posix.place import Place, opened, refused


def check_missing_is_enoent(place: Place) -> None:
    path = place / "missing"
    for call in (
        lambda: os.open(path, os.O_RDONLY),
        lambda: os.open(path, os.O_WRONLY),
        lambda: os.stat(path),
        lambda: os.lstat(path),
        lambda: os.unlink(path),
        lambda: os.truncate(path, 0),
        lambda: os.rename(path, place / "missing-too"),
        lambda: os.utime(path, (1, 1)),
        lambda: os.chmod(path, 0o600),
        lambda: os.chown(path, os.getuid(), os.getgid()),
    ):
        with refused(errno.ENOENT):
            call()
    assert not path.exists()


def check_exclusive_create(place: Place) -> None:
    path = place / "exclusive"
    with opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as fd:
        os.write(fd, b"first")
        with refused(errno.EEXIST):
            os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with refused(errno.EEXIST):
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert path.read_bytes() == b"first"
    path.unlink()
    with opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as fd:
        os.write(fd, b"second")
    assert path.read_bytes() == b"second"


def check_create_of_existing_keeps_content(place: Place) -> None:
    path = place / "existing"
    path.write_bytes(b"0123456789")
    with opened(path, os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"ab")
    assert path.read_bytes() == b"ab23456789"


def check_created_empty(place: Place) -> None:
    path = place / "empty"
    with opened(path, os.O_CREAT | os.O_WRONLY) as fd:
        assert os.fstat(fd).st_size == 0
        assert path.stat().st_size == 0
    assert path.stat().st_size == 0
    assert path.read_bytes() == b""
    with opened(path, os.O_RDONLY) as fd:
        assert os.pread(fd, 10, 0) == b""
        assert os.pread(fd, 10, 1000) == b""


def check_truncating_open(place: Place) -> None:
    path = place / "truncated"
    path.write_bytes(b"long content")
    with opened(path, os.O_WRONLY | os.O_TRUNC) as fd:
        assert os.fstat(fd).st_size == 0
        assert path.stat().st_size == 0
        os.write(fd, b"new")
        assert path.stat().st_size == 3
    assert path.read_bytes() == b"new"
    with opened(path, os.O_WRONLY | os.O_TRUNC):
        pass
    assert path.stat().st_size == 0


def check_modes_of_descriptors(place: Place) -> None:
    path = place / "modes"
    path.write_bytes(b"content")
    with opened(path, os.O_RDONLY) as fd:
        with refused(errno.EBADF):
            os.write(fd, b"x")
        with refused(errno.EINVAL, errno.EBADF):
            os.ftruncate(fd, 0)
    with opened(path, os.O_WRONLY) as fd, refused(errno.EBADF):
        os.read(fd, 1)
    with opened(path, os.O_RDWR) as fd:
        assert os.read(fd, 3) == b"con"
        os.write(fd, b"TENT")
        assert os.pread(fd, 7, 0) == b"conTENT"
    assert path.read_bytes() == b"conTENT"


def check_create_without_write_permission(place: Place) -> None:
    """As tar and git do: the mode forbids writing, the descriptor that made the file may."""
    path = place / "read-only"
    with opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444) as fd:
        os.write(fd, b"written")
    assert path.read_bytes() == b"written"


def check_append(place: Place) -> None:
    path = place / "append"
    path.write_bytes(b"start\n")
    with opened(path, os.O_WRONLY | os.O_APPEND) as one, opened(path, os.O_WRONLY | os.O_APPEND) as other:
        for number in range(20):
            os.write(one, b"one %d\n" % number)
            os.write(other, b"other %d\n" % number)
    expected = b"start\n" + b"".join(b"one %d\nother %d\n" % (number, number) for number in range(20))
    assert path.read_bytes() == expected
    with opened(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"end")
        assert os.fstat(fd).st_size == len(expected) + 3
    assert path.read_bytes() == expected + b"end"


def check_file_is_no_directory(place: Place) -> None:
    path = place / "file"
    path.write_bytes(b"x")
    with refused(errno.ENOTDIR):
        os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    with refused(errno.ENOTDIR):
        os.stat(path / "below")
    with refused(errno.ENOTDIR):
        os.open(path / "below", os.O_CREAT | os.O_WRONLY)
    with refused(errno.ENOTDIR):
        os.stat(f"{path}/")
    with refused(errno.ENOTDIR):
        os.rmdir(path)
    with refused(errno.ENOTDIR):
        os.listdir(path)
    with refused(errno.EISDIR):
        os.open(place.directory, os.O_WRONLY)
    with refused(errno.EISDIR, errno.EPERM):
        os.unlink(place.directory)


def check_not_followed(place: Place) -> None:
    path = place / "no-link"
    path.write_bytes(b"x")
    with opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC) as fd:
        assert os.read(fd, 2) == b"x"
    with refused(errno.EINVAL):
        os.readlink(path)


def check_direct(place: Place) -> None:
    """O_DIRECT with aligned buffers, as databases and dd use it."""
    path = place / "direct"
    page = mmap.mmap(-1, 8192)
    page[:] = bytes(range(256)) * 32
    with opened(path, os.O_CREAT | os.O_RDWR | os.O_DIRECT) as fd:
        assert os.pwritev(fd, [page], 0) == 8192
        assert os.pwritev(fd, [page], 8192) == 8192
        back = mmap.mmap(-1, 8192)
        assert os.preadv(fd, [back], 4096) == 8192
        assert back[:] == page[:]
    assert path.read_bytes() == page[:] * 2


def check_path_descriptor(place: Place) -> None:
    """A descriptor opened with O_PATH names the file without opening it."""
    path = place / "by-descriptor"
    path.write_bytes(b"content")
    with opened(path, os.O_PATH) as fd:
        assert os.fstat(fd).st_size == 7
        with open(f"/proc/self/fd/{fd}", "rb") as again:
            assert again.read() == b"content"
