"""What unlink(2) and rename(2) do to names, and to those who have the file open."""

from __future__ import annotations

import errno
import os

from tests.posix.place import Place, opened, pattern, refused


def check_unlink(place: Place) -> None:
    path = place / "gone"
    path.write_bytes(b"x")
    path.unlink()
    assert not path.exists()
    with refused(errno.ENOENT):
        path.unlink()
    path.write_bytes(b"again")
    assert path.read_bytes() == b"again"


def check_unlinked_reader(place: Place) -> None:
    path = place / "unlinked"
    data = pattern(500_000)
    path.write_bytes(data)
    with opened(path, os.O_RDONLY) as fd:
        assert os.read(fd, 10) == data[:10]
        path.unlink()
        assert os.fstat(fd).st_size == len(data)
        assert os.pread(fd, len(data), 0) == data
    assert not path.exists()


def check_unlinked_writer(place: Place) -> None:
    """A temporary file as tmpfile(3) makes it: written and read without a name, and never seen again."""
    path = place / "temporary"
    with opened(path, os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
        path.unlink()
        os.write(fd, b"content")
        os.ftruncate(fd, 4)
        assert os.pread(fd, 10, 0) == b"cont"
        assert not path.exists()
    assert not path.exists()


def check_unlinked_while_dirty(place: Place) -> None:
    path = place / "dirty"
    path.write_bytes(b"old")
    with opened(path, os.O_RDWR) as fd:
        os.write(fd, b"new content")
        path.unlink()
        assert os.pread(fd, 100, 0) == b"new content"
        os.fsync(fd)
    assert not path.exists()


def check_name_used_again(place: Place) -> None:
    """A name made anew while its old file is open: two files."""
    path = place / "reused"
    path.write_bytes(b"first")
    with opened(path, os.O_RDWR) as old:
        path.unlink()
        path.write_bytes(b"second")
        assert os.pread(old, 10, 0) == b"first"
        os.pwrite(old, b"FIRST", 0)
        assert os.pread(old, 10, 0) == b"FIRST"
        assert path.read_bytes() == b"second"
        assert os.fstat(old).st_size == 5
        assert path.stat().st_size == 6
    assert path.read_bytes() == b"second"


def check_rename(place: Place) -> None:
    source, target = place / "from", place / "to"
    source.write_bytes(b"content")
    os.utime(source, (1_000_000_000, 1_000_000_000))
    os.rename(source, target)
    assert not source.exists()
    assert target.read_bytes() == b"content"
    assert target.stat().st_mtime == 1_000_000_000
    with refused(errno.ENOENT):
        os.rename(source, target)
    assert target.read_bytes() == b"content"


def check_rename_onto_itself(place: Place) -> None:
    path = place / "itself"
    path.write_bytes(b"content")
    before = path.stat()
    os.rename(path, path)
    assert path.read_bytes() == b"content"
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def check_rename_over_existing(place: Place) -> None:
    source, target = place / "new", place / "old"
    source.write_bytes(b"new content")
    target.write_bytes(b"old")
    os.replace(source, target)
    assert not source.exists()
    assert target.read_bytes() == b"new content"
    assert target.stat().st_size == 11


def check_rename_over_open_file(place: Place) -> None:
    """Who had the old file open keeps it, readers and writers; the new one is not touched by them."""
    source, target = place / "newer", place / "older"
    old = pattern(300_000, 1)
    source.write_bytes(b"new content")
    target.write_bytes(old)
    with opened(target, os.O_RDONLY) as reader, opened(target, os.O_RDWR) as writer:
        os.replace(source, target)
        assert target.read_bytes() == b"new content"
        assert os.pread(reader, len(old), 0) == old
        os.pwrite(writer, b"lost", 0)
        assert os.pread(writer, 4, 0) == b"lost"
        assert target.read_bytes() == b"new content"
    assert target.read_bytes() == b"new content"


def check_rename_of_open_file(place: Place) -> None:
    """The file keeps its identity: a writer goes on writing to it under its new name."""
    source, target = place / "moved", place / "arrived"
    with opened(source, os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"before ")
        os.rename(source, target)
        assert target.read_bytes() == b"before "
        os.write(fd, b"after")
        assert os.pread(fd, 100, 0) == b"before after"
    assert target.read_bytes() == b"before after"
    assert not source.exists()


def check_rename_of_read_file(place: Place) -> None:
    source, target = place / "read-from", place / "read-to"
    data = pattern(400_000)
    source.write_bytes(data)
    with opened(source, os.O_RDONLY) as fd:
        os.rename(source, target)
        assert os.pread(fd, len(data), 0) == data
        source.write_bytes(b"another")
        assert os.pread(fd, 10, 0) == data[:10]
    assert target.read_bytes() == data
    assert source.read_bytes() == b"another"


def check_replaced_again_and_again(place: Place) -> None:
    """The usual safe save: a new file is renamed over the old one; each open sees the last one."""
    path, temporary = place / "saved", place / "saving"
    for number in range(10):
        temporary.write_bytes(b"version %d" % number)
        os.replace(temporary, path)
        assert path.read_bytes() == b"version %d" % number
        assert path.stat().st_size == 9


def check_swap_by_three_renames(place: Place) -> None:
    one, other, third = place / "one", place / "other", place / "third"
    one.write_bytes(b"1")
    other.write_bytes(b"22")
    os.rename(one, third)
    os.rename(other, one)
    os.rename(third, other)
    assert (one.read_bytes(), other.read_bytes(), third.exists()) == (b"22", b"1", False)
