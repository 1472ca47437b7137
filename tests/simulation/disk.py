"""A disk that fails on command, and that knows what of it outlives a loss of power.

Everything below one directory is watched: the calls of `os` that change it may be refused, and what fsync(2) has not
confirmed can be taken back. The bytes are where the program put them, so that reading needs no help; what they were
at the last fsync is remembered beside. Nothing of the program is changed for it.

The rules are POSIX's, stricter than those of any file system with a journal: fsync of a file is for its bytes and its
size alone, its name needs fsync of the directory, and what one fsync could not write the next does not try (Linux
takes those pages for clean). Only a rename is on the disk in both directories or in neither.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

from depotfs import disk
from depotfs.spool import spool

_PAGE: Final = 4096
_WATCHED: Final = (
    "open", "close", "dup", "read", "pread", "write", "pwrite", "ftruncate", "copy_file_range", "fsync", "mkdir",
    "rmdir", "unlink", "rename", "replace", "link",
)  # fmt: skip
_EXCHANGE: Final = 2  # <linux/fs.h>


class Disk:
    """The directory `root` is on a disk of its own, from `with` on; used by one thread.

    Attributes:
        refuse: asked before each step, with the name of the call and the path; returns an errno, or 0 to let it be.
            The names: open (that makes a file), write (pwrite, copy_file_range), ftruncate, fsync (of directories,
            too), mkdir, rmdir, unlink, rename, link.
        room: bytes that may still be written, None for any; a write is cut short there, the next one is ENOSPC.
        steps: how many there were.
    """

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)
        self.refuse: Callable[[str, str], int] = lambda call, path: 0
        self.room: int | None = None
        self.steps = 0
        self._kept = self.root + ".kept"
        self._boots = 1
        self._files = 0
        self._tree = _Directory(0o700)
        self._nodes: dict[int, _Node] = {}
        self._opened: dict[int, _Node] = {}
        self._dead: set[int] = set()
        self._on = self._watching = False
        self._real = SimpleNamespace(**{name: getattr(os, name) for name in _WATCHED}, renameat2=disk._renameat2)
        self._stack = ExitStack()

    def __enter__(self) -> Disk:
        os.makedirs(self.root, exist_ok=True)
        self._begin()
        for name in _WATCHED:
            self._stack.enter_context(patch.object(os, name, getattr(self, f"_os_{name}")))
        self._stack.enter_context(patch.object(disk, "_renameat2", self._renameat2))
        boot_id = SimpleNamespace(read_text=lambda encoding: f"boot {self._boots}\n")
        self._stack.enter_context(patch.object(spool, "_BOOT_ID", boot_id))
        self._on = self._watching = True
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for fd in [*self._opened, *self._dead]:
            os.close(fd)
        shutil.rmtree(self._kept)

    # --- what a test says --------------------------------------------------------------------------------------------

    def fail(self, call: str, code: int, *, after: int = 0, times: int = 1) -> None:
        """`times` calls of that name fail with that errno, once `after` have gone well."""
        numbers = iter(range(after + times))
        self.refuse = lambda name, path: code if name == call and next(numbers, -1) >= after else 0

    def kill(self) -> None:
        """The program is dead, its descriptors closed, its locks gone: until `start`, whatever it does fails.

        What is left of it may close what it had open, which is /dev/null by now.
        """
        self._on = False
        nothing = self._real.open(os.devnull, os.O_RDWR)
        for fd in self._opened:
            os.dup2(nothing, fd, inheritable=False)
        self._real.close(nothing)
        self._dead |= self._opened.keys()
        self._opened.clear()

    def start(self) -> None:
        """The next program may use the disk."""
        self._on = True

    def lose_power(self, chance: random.Random | None = None) -> None:
        """As `kill`; besides, what was not flushed is lost, and the machine boots anew.

        Args:
            chance: decides which pages and names got to the disk unasked; None: none did.
        """
        self.kill()
        self._boots += 1
        with self._unwatched():
            for file in self._all_files():
                file.lose(chance)
            self._tree.check(self.root)
            self._tree.lose(chance, {})
            shutil.rmtree(self.root)
            self._tree.build(self.root)
            shutil.rmtree(self._kept)
            self._begin()

    def evict(self) -> None:
        """Memory has no copy of what a flush failed to write: reading gives what the disk has."""
        for file in self._all_files():
            file.evict()

    # --- what there is -----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """All that is there is on the disk."""
        os.mkdir(self._kept)
        self._nodes.clear()
        self._tree = self._found(self.root)

    def _found(self, path: str) -> _Directory:
        directory = _Directory(os.stat(path).st_mode & 0o7777)
        self._nodes[os.stat(path).st_ino] = directory
        for entry in os.scandir(path):
            directory.now[entry.name] = self._found(entry.path) if entry.is_dir() else self._new_file(entry.path)
        for node in [*directory.now.values(), directory]:
            node.flush()
        return directory

    def _new_file(self, path: str) -> _File:
        """The file at `path` is known; by another name it stays, whatever becomes of this one."""
        number = os.stat(path).st_ino
        node = self._nodes.get(number)
        if not isinstance(node, _File):
            self._files += 1
            node = self._nodes[number] = _File(f"{self._kept}/{self._files}")
            self._real.link(path, node.kept)
        return node

    def _all_files(self) -> Iterator[_File]:
        return (node for node in self._nodes.values() if isinstance(node, _File))

    def _names(self, path: str) -> tuple[dict[str, _Node], str]:
        """The names in the directory of `path`, and its own."""
        return self._directory(path).now, os.path.basename(path)

    def _directory(self, path: str) -> _Directory:
        directory = self._nodes[os.stat(os.path.dirname(path)).st_ino]
        assert isinstance(directory, _Directory)
        return directory

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        self._watching = False
        yield
        self._watching = True

    def _inside(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The absolute path if it is on this disk."""
        if not self._watching or isinstance(path, int):
            return None
        place = "" if dir_fd in (None, disk.HERE) else _path(dir_fd)
        path = os.path.abspath(os.path.join(place, os.fsdecode(path)))
        return path if path == self.root or path.startswith(self.root + "/") else None

    def _step(self, call: str, path: str) -> None:
        """Raises OSError if the step is refused."""
        self.steps += 1
        code = self.refuse(call, path) if self._on else errno.EIO
        if code:
            raise OSError(code, os.strerror(code), path)

    def _file(self, fd: int) -> tuple[_File | None, str]:
        """The file that the descriptor is of, None if it is not on this disk. Raises OSError if its program is dead."""
        if fd in self._dead:
            raise OSError(errno.EIO, "the program that had this descriptor is dead")
        node = self._opened.get(fd)
        return (node, _path(fd)) if isinstance(node, _File) else (None, "")

    def _admitted(self, path: str, count: int) -> int:
        """Of so many bytes, how many can be written now. Raises OSError if none."""
        self._step("write", path)
        if self.room is None:
            return count
        count = min(count, self.room)
        self.room -= count
        if not count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return count

    # --- the calls ---------------------------------------------------------------------------------------------------

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        inside = self._inside(path, dir_fd)
        if inside is None:
            return int(self._real.open(path, flags, mode, dir_fd=dir_fd))
        new = bool(flags & os.O_CREAT) and not os.path.lexists(inside)
        if new or not self._on:
            self._step("open", inside)
        if flags & os.O_TRUNC and not new:
            self._step("ftruncate", inside)
            file = self._new_file(inside)
            file.changing(0, min(file.size, os.stat(inside).st_size))
        fd = int(self._real.open(path, flags, mode, dir_fd=dir_fd))
        if new:
            names, name = self._names(inside)
            names[name] = self._new_file(inside)
        self._opened[fd] = self._nodes[os.fstat(fd).st_ino]
        return fd

    def _os_close(self, fd: int) -> None:
        self._opened.pop(fd, None)
        self._dead.discard(fd)
        self._real.close(fd)

    def _os_dup(self, fd: int) -> int:
        self._file(fd)
        copy = int(self._real.dup(fd))
        if fd in self._opened:
            self._opened[copy] = self._opened[fd]
        return copy

    def _os_read(self, fd: int, size: int) -> bytes:
        self._file(fd)
        return bytes(self._real.read(fd, size))

    def _os_pread(self, fd: int, size: int, offset: int) -> bytes:
        self._file(fd)
        return bytes(self._real.pread(fd, size, offset))

    def _os_write(self, fd: int, data: Any) -> int:
        file, path = self._file(fd)
        if file is None:
            return int(self._real.write(fd, data))
        appending = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
        offset = os.fstat(fd).st_size if appending else os.lseek(fd, 0, os.SEEK_CUR)
        count = self._admitted(path, memoryview(data).nbytes)
        file.changing(offset, offset + count)
        return int(self._real.write(fd, memoryview(data).cast("B")[:count]))

    def _os_pwrite(self, fd: int, data: Any, offset: int) -> int:
        file, path = self._file(fd)
        if file is None:
            return int(self._real.pwrite(fd, data, offset))
        count = self._admitted(path, memoryview(data).nbytes)
        file.changing(offset, offset + count)
        return int(self._real.pwrite(fd, memoryview(data).cast("B")[:count], offset))

    def _os_copy_file_range(
        self, source: int, target: int, count: int, offset_src: int | None = None, offset_dst: int | None = None
    ) -> int:
        self._file(source)
        file, path = self._file(target)
        if file is not None:
            count = self._admitted(path, count)
            offset = os.lseek(target, 0, os.SEEK_CUR) if offset_dst is None else offset_dst
            file.changing(offset, offset + count)
        return int(self._real.copy_file_range(source, target, count, offset_src, offset_dst))

    def _os_ftruncate(self, fd: int, size: int) -> None:
        file, path = self._file(fd)
        if file is not None:
            self._step("ftruncate", path)
            file.changing(size, min(file.size, os.fstat(fd).st_size))
        self._real.ftruncate(fd, size)

    def _os_fsync(self, fd: int) -> None:
        self._file(fd)
        if fd not in self._opened:
            self._real.fsync(fd)
            return
        node = self._opened[fd]
        try:
            self._step("fsync", _path(fd))
        except OSError:
            node.flush_failed()
            raise
        node.flush()

    def _os_mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        inside = self._inside(path, dir_fd)
        if inside is not None:
            self._step("mkdir", inside)
        self._real.mkdir(path, mode, dir_fd=dir_fd)
        if inside is not None:
            found = os.stat(inside)
            names, name = self._names(inside)
            names[name] = self._nodes[found.st_ino] = _Directory(found.st_mode & 0o7777)

    def _os_rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._remove("rmdir", path, dir_fd)

    def _os_unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._remove("unlink", path, dir_fd)

    def _remove(self, call: str, path: Any, dir_fd: int | None) -> None:
        inside = self._inside(path, dir_fd)
        if inside is not None:
            self._step(call, inside)
        getattr(self._real, call)(path, dir_fd=dir_fd)
        if inside is not None:
            names, name = self._names(inside)
            del names[name]

    def _os_link(self, source: Any, target: Any, **options: Any) -> None:
        inside = self._inside(target, options.get("dst_dir_fd"))
        if inside is not None:
            self._step("link", inside)
        self._real.link(source, target, **options)
        if inside is not None:
            names, name = self._names(inside)
            names[name] = self._new_file(inside)

    def _os_rename(
        self, source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        here, there = self._inside(source, src_dir_fd), self._inside(target, dst_dir_fd)
        with self._renaming(here, there, swapped=False):
            self._real.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    _os_replace = _os_rename

    def _renameat2(self, source: str, target: str, flags: int, source_in: int, target_in: int) -> None:
        here, there = self._inside(source, source_in), self._inside(target, target_in)
        with self._renaming(here, there, swapped=flags == _EXCHANGE):
            self._real.renameat2(source, target, flags, source_in, target_in)

    @contextmanager
    def _renaming(self, source: str | None, target: str | None, *, swapped: bool) -> Iterator[None]:
        if source is None or target is None:
            assert source is target, "renamed from one disk to another"
            yield
            return
        self._step("rename", target)
        yield
        (here, name), (there, other) = self._names(source), self._names(target)
        moved = here.pop(name)
        if swapped:
            here[name] = there[other]
        there[other] = moved
        self._directory(source).tie(self._directory(target))


def _path(fd: int) -> str:
    """Where what is open is now."""
    return os.readlink(f"/proc/self/fd/{fd}")


class _File:
    """What a loss of power leaves of a file: `size` bytes, those of its pages in `before` as they were.

    Attributes:
        kept: a path of it that stays.
        before: pages that were changed since they were flushed, as they were; b"" for those that there were not.
        forgotten: those of them that a flush failed to write: no other tries.
    """

    __slots__ = ("before", "forgotten", "kept", "size")

    def __init__(self, kept: str) -> None:
        self.kept = kept
        self.size = 0
        self.before: dict[int, bytes] = {}
        self.forgotten: set[int] = set()

    def changing(self, offset: int, end: int) -> None:
        """The bytes from `offset` to `end` are about to be changed."""
        pages = range(offset // _PAGE, -(-end // _PAGE))
        self.forgotten.difference_update(pages)
        stored = [page for page in pages if page not in self.before and page * _PAGE < self.size]
        self.before = dict.fromkeys(pages, b"") | self.before
        if stored:
            with self._opened(os.O_RDONLY) as fd:
                self.before.update((page, os.pread(fd, _PAGE, page * _PAGE)) for page in stored)

    def flush(self) -> None:
        self.size = os.stat(self.kept).st_size
        self.before = {page: self.before[page] for page in self.forgotten}

    def flush_failed(self) -> None:
        """Pages with bytes are forgotten; where nothing is any more, the file system knows it by itself."""
        with self._opened(os.O_RDONLY) as fd:
            for offset, end in disk.data_ranges(fd, os.fstat(fd).st_size):
                self.forgotten.update(self.before.keys() & range(offset // _PAGE, -(-end // _PAGE)))

    def evict(self) -> None:
        """Pages that a flush failed to write are read from the disk."""
        size = os.stat(self.kept).st_size
        self._take_back(self.forgotten, size)
        for page in self.forgotten:
            del self.before[page]
        self.forgotten = set()

    def lose(self, chance: random.Random | None) -> None:
        """The power is lost."""
        size = self.size
        if chance is not None and chance.random() < 0.5:
            size = os.stat(self.kept).st_size
        lost = {page for page in self.before if chance is None or page in self.forgotten or chance.random() < 0.5}
        self._take_back(lost, size)

    def _take_back(self, pages: set[int], size: int) -> None:
        with self._opened(os.O_RDWR) as fd:
            for page in pages:
                os.pwrite(fd, self.before[page].ljust(_PAGE, b"\0"), page * _PAGE)
            os.ftruncate(fd, size)

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        fd = os.open(self.kept, flags)
        yield fd
        os.close(fd)

    def build(self, path: str) -> None:
        os.link(self.kept, path)


class _Directory:
    """Names in a directory, now and as they are on the disk.

    Attributes:
        tied: directories that something was moved from here to, or to here from, since.
    """

    __slots__ = ("flushed", "mode", "now", "tied")

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.now: dict[str, _Node] = {}
        self.flushed: dict[str, _Node] = {}
        self.tied: set[_Directory] = set()

    def tie(self, other: _Directory) -> None:
        self.tied.add(other)
        other.tied.add(self)

    def flush(self) -> None:
        for directory in self._knot():
            directory.flushed = dict(directory.now)
            directory.tied = set()

    def flush_failed(self) -> None:
        """Names are tried again by the next flush."""

    def _knot(self) -> set[_Directory]:
        """This one and all that are on the disk with it or not at all."""
        knot, new = {self}, [self]
        while new:
            more = new.pop().tied - knot
            knot |= more
            new += more
        return knot

    def lose(self, chance: random.Random | None, done: dict[_Directory, dict[str, _Node]]) -> None:
        """The power is lost; `now` is what is left here and below."""
        if self not in done:
            lucky = chance is not None and chance.random() < 0.5
            for directory in self._knot():
                done[directory] = directory.now if lucky else directory.flushed
        self.now = done[self]
        for node in self.now.values():
            if isinstance(node, _Directory):
                node.lose(chance, done)

    def check(self, path: str) -> None:
        """Nothing was changed unseen."""
        assert set(os.listdir(path)) == set(self.now), f"{path} was changed by a call that is not watched"
        for name, node in self.now.items():
            if isinstance(node, _Directory):
                node.check(f"{path}/{name}")

    def build(self, path: str) -> None:
        """`path` is this directory, with all that is in it."""
        os.mkdir(path, self.mode)
        for name, node in self.now.items():
            node.build(f"{path}/{name}")


_Node = _File | _Directory
