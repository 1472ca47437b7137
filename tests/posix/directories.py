"""What a listing shows, and what cannot be made in a flat directory."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable

from tests.posix.place import Place, opened, refused


def check_listing(place: Place) -> None:
    names = [f"listed {number}" for number in range(20)]
    for name in names:
        (place / name).write_bytes(name.encode())
    listed = os.listdir(place.directory)
    assert len(listed) == len(set(listed))
    assert {place.listed_as(name) for name in names} <= set(listed)
    (place / names[0]).unlink()
    os.rename(place / names[1], place / "renamed")
    left = set(os.listdir(place.directory))
    assert {place.listed_as(name) for name in [*names[2:], "renamed"]} <= left
    assert not {place.listed_as(name) for name in names[:2]} & left


def check_listed_types_and_inodes(place: Place) -> None:
    names = [f"typed {number}" for number in range(5)]
    for name in names:
        (place / name).write_bytes(name.encode())
    entries = {entry.name: entry for entry in os.scandir(place.directory)}
    for name in names:
        entry = entries[place.listed_as(name)]
        assert entry.is_file(follow_symlinks=False)
        assert entry.inode() == (place / name).stat().st_ino
        assert entry.stat().st_size == len(name)
        assert (place.directory / entry.name).read_bytes() == name.encode()


def check_listing_again(place: Place) -> None:
    """A directory descriptor that is rewound shows what is there now."""
    (place / "first").write_bytes(b"")
    with opened(place.directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        before = set(os.listdir(fd))
        (place / "second").write_bytes(b"")
        after = set(os.listdir(fd))
        assert after - before == {place.listed_as("second")}
        os.fsync(fd)


class _Entry(ctypes.Structure):
    _fields_ = (
        ("ino", ctypes.c_ulong),
        ("offset", ctypes.c_long),
        ("length", ctypes.c_ushort),
        ("type", ctypes.c_ubyte),
        ("name", ctypes.c_char * 256),
    )


def check_positions(place: Place) -> None:
    """telldir and seekdir: reading from a remembered position gives what followed it the first time."""
    for number in range(20):
        (place / f"position {number}").write_bytes(b"")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.POINTER(_Entry)
    libc.telldir.restype = ctypes.c_long
    stream = ctypes.c_void_p(libc.opendir(os.fsencode(place.directory)))
    try:
        seen: list[tuple[int, bytes]] = []
        while entry := libc.readdir(stream):
            seen.append((libc.telldir(stream), entry.contents.name))
        assert len(seen) >= 20
        for index in (0, 7, len(seen) - 2):
            libc.seekdir(stream, ctypes.c_long(seen[index][0]))
            assert libc.readdir(stream).contents.name == seen[index + 1][1]
        libc.rewinddir(stream)
        assert libc.readdir(stream).contents.name == seen[0][1]
    finally:
        libc.closedir(stream)


def check_listing_during_changes(place: Place) -> None:
    """Files come and go while a listing is read: every other entry is there exactly once."""
    number = 60 if place.remote else 600
    stay = [f"stay {index}" for index in range(number)]
    go = [f"go {index}" for index in range(number // 10)]
    for name in stay + go:
        (place / name).write_bytes(b"")
    listed: list[str] = []
    come = iter(range(number // 10))
    with os.scandir(place.directory) as entries:
        for index, entry in enumerate(entries):
            listed.append(entry.name)
            if index % 10 == 5 and go:
                (place / go.pop()).unlink()
                (place / f"come {next(come)}").write_bytes(b"")
    wanted = {place.listed_as(name) for name in stay}
    assert sorted(name for name in listed if name in wanted) == sorted(wanted)
    assert len(listed) == len(set(listed))


def check_directories_and_links(place: Place) -> None:
    file, new = place / "file", place.directory / "new"
    file.write_bytes(b"x")
    makers: tuple[Callable[[], None], ...] = (
        lambda: os.mkdir(new),
        lambda: os.symlink("file", new),
        lambda: os.link(file, new),
        lambda: os.mkfifo(new),
        lambda: os.mknod(new, 0o644 | stat.S_IFSOCK),
    )
    for make in makers:
        if place.flat:
            with refused(errno.EPERM):
                make()
        else:
            make()
            remove = os.rmdir if stat.S_ISDIR(new.lstat().st_mode) else os.unlink
            remove(new)
        assert not os.path.lexists(new)
    with refused(errno.EPERM if place.flat else errno.ENOTEMPTY):
        os.rmdir(place.directory)
    assert file.read_bytes() == b"x"


def check_directory_attributes(place: Place) -> None:
    answer = place.directory.stat()
    assert stat.S_ISDIR(answer.st_mode)
    assert os.access(place.directory, os.R_OK | os.W_OK | os.X_OK)
    with opened(place.directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        assert os.fstat(fd).st_ino == answer.st_ino
    path = place / "relative"
    path.write_bytes(b"content")
    with opened(place.directory, os.O_RDONLY | os.O_DIRECTORY) as directory:
        fd = os.open("relative", os.O_RDONLY, dir_fd=directory)
        assert os.read(fd, 10) == b"content"
        os.close(fd)
