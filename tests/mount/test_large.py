"""Stored files larger than one piece of a transfer (4 MiB), changed by a mount that has nothing of them cached.

Each change is made to a file of a plain directory, too: what this mount, the next one and the library then read is what
that file has.
"""

from __future__ import annotations

import base64
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from depotfs.io.interfaces import FileStorage
from tests.mount.harness import Mount
from tests.mount.storages import PERSISTENT, StorageUnderTest, on_kinds
from tests.posix.place import opened, pattern, read_all
from tests.posix.tools import run

MIB = 1 << 20
SIZES = (4 * MIB + 1, 20 * MIB)
EDGES = (4 * MIB - 1, 4 * MIB, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1)


def text(size: int) -> bytes:
    """Lines that all differ."""
    return base64.encodebytes(pattern(size))[:size]


def database(size: int, outside: Path) -> bytes:
    """Of a table with a row for each started 100,000 bytes; some larger than `size`."""
    path = outside / f"made-{size}.db"
    with closing(sqlite3.connect(path)) as made, made:
        made.execute("create table rows (n integer primary key, content blob)")
        made.executemany(
            "insert into rows values (?, ?)", ((n, pattern(100_000, n)) for n in range(-(-size // 100_000)))
        )
    return path.read_bytes()


# --- changes of a stored file: a path, a directory outside of the mount, and what the file has so far ----------------


def appended(path: Path, outside: Path, old: bytes) -> None:
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"one more line\n")


def overwritten(path: Path, outside: Path, old: bytes) -> None:
    """In the middle, and across the end of the first piece where there is one."""
    with opened(path, os.O_WRONLY) as fd:
        os.pwrite(fd, b"MIDDLE", len(old) // 2)
        os.pwrite(fd, b"ACROSS", min(4 * MIB, len(old)) - 3)


def read_and_written(path: Path, outside: Path, old: bytes) -> None:
    """By one handle, from behind, so that what is read is partly written already."""
    with opened(path, os.O_RDWR) as fd:
        for offset in range(len(old) - 10, 0, -MIB - 17):
            assert os.pread(fd, 10, offset) == old[offset : offset + 10]
            os.pwrite(fd, b"HERE", offset + 3)


def cut(path: Path, outside: Path, old: bytes) -> None:
    os.truncate(path, len(old) - MIB // 2)


def cut_to_little(path: Path, outside: Path, old: bytes) -> None:
    os.truncate(path, 5)


def grown(path: Path, outside: Path, old: bytes) -> None:
    os.truncate(path, len(old) + 5 * MIB)


def cut_and_grown(path: Path, outside: Path, old: bytes) -> None:
    with opened(path, os.O_RDWR) as fd:
        os.ftruncate(fd, len(old) // 2)
        os.ftruncate(fd, len(old))
        assert not any(os.pread(fd, MIB, len(old) // 2))


def rsynced_in_place(path: Path, outside: Path, old: bytes) -> None:
    """By differences: rsync reads the whole old file and writes what is not the same."""
    source = outside / "source"
    new = bytearray(old)
    for offset in (100, len(old) // 2, len(old) - 100):
        new[offset : offset + 9] = b"by rsync\n"
    source.write_bytes(new + b"and more\n")
    run("rsync", "--inplace", "--no-whole-file", source, path)


def edited_by_vim(path: Path, outside: Path, old: bytes) -> None:
    """The old file becomes the backup, which stays; the new one is written whole."""
    options = f"set noswapfile backup writebackup backupcopy=no backupskip= backupdir={path.parent}"
    run(
        "vim", "-N", "-u", "NONE", "-i", "NONE", "-es", "--cmd", options, path, "-c", "1s/^/vim /", "-c", "w", "-c", "q"
    )


def edited_by_sed(path: Path, outside: Path, old: bytes) -> None:
    run("sed", "-i", "-e", "2s/^/sed /", "-e", "$s/^/sed /", path)


def unlinked_while_open(path: Path, outside: Path, old: bytes) -> None:
    with opened(path, os.O_RDONLY) as fd:
        path.unlink()
        assert read_all(fd, len(old) + 1, MIB) == old


def replaced_while_open(path: Path, outside: Path, old: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(old[::-1])
    with opened(path, os.O_RDONLY) as fd:
        assert os.pread(fd, 10, len(old) // 2) == old[len(old) // 2 :][:10]
        os.replace(new, path)
        assert read_all(fd, len(old) + 1, MIB) == old


def written_anew_while_open(path: Path, outside: Path, old: bytes) -> None:
    """A new file under the name of an unlinked one that somebody reads."""
    with opened(path, os.O_RDONLY) as fd:
        path.unlink()
        path.write_bytes(old[::-1])
        assert read_all(fd, len(old) + 1, MIB) == old


def updated_by_sqlite(path: Path, outside: Path, old: bytes) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        rows = connection.execute("select count(*) from rows").fetchone()[0]
        connection.execute("update rows set content = zeroblob(100000) where n = ?", (rows // 2,))
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


Change = Callable[[Path, Path, bytes], None]
OF_BYTES: tuple[Change, ...] = (appended, overwritten, read_and_written, cut, cut_to_little, grown, cut_and_grown)
BY_TOOLS: tuple[Change, ...] = (rsynced_in_place, edited_by_vim, edited_by_sed, updated_by_sqlite)
WHILE_OPEN: tuple[Change, ...] = (unlinked_while_open, replaced_while_open, written_anew_while_open)


# --- what is there afterwards ---------------------------------------------------------------------------------------


def read(path: Path) -> bytes | None:
    """None where nothing is."""
    return path.read_bytes() if path.exists() else None


class Changed:
    """Files of a storage that are changed, each beside a plain file.

    Args:
        directory: outside of the mount.
    """

    def __init__(self, storage: StorageUnderTest, directory: Path) -> None:
        self.storage = storage
        self.plain = directory / "plain"
        self.outside = directory / "outside"
        self.names: list[str] = []
        self.plain.mkdir()
        self.outside.mkdir()

    def change(self, change: Change, name: str, files: Path, old: bytes) -> None:
        """The stored file and the plain one are changed, and are the same at once."""
        self.names += [name, f"{name}~"]
        for directory in (self.plain, files):
            change(directory / name, self.outside, old)
        for each in self.names[-2:]:
            self.compare(each, read(files / each), "the mount")

    def compare(self, name: str, found: bytes | None, where: str) -> None:
        """It is what the plain file has."""
        wanted = read(self.plain / name)
        lengths = [None if content is None else len(content) for content in (found, wanted)]
        assert found == wanted, f"{where} has another {name}: {lengths[0]} bytes instead of {lengths[1]}"

    def compare_all(self, files: Path) -> None:
        """The directory of a later mount."""
        for name in self.names:
            self.compare(name, read(files / name), "the next mount")

    def compare_stored(self) -> None:
        """Through the library."""
        with opened_storage(self.storage) as beside:
            for name in self.names:
                file_id = self.storage.derive(name)
                stored = beside.get(file_id).read() if beside.exists(file_id) else None
                self.compare(name, stored, "the storage")


@contextmanager
def opened_storage(storage: StorageUnderTest) -> Iterator[FileStorage]:
    beside = storage.open()
    try:
        yield beside
    finally:
        beside.close()


def check_changes(storage: StorageUnderTest, directory: Path, work: Sequence[tuple[str, Change, bytes]]) -> None:
    """Files are stored, changed by the next mount, and compared then, by one more mount, and through the library."""
    changed = Changed(storage, directory)
    with Mount(directory / "m", {"files": storage.config}) as mount, mount.watched():
        files = mount.path / "files"
        for name, _, old in work:
            for place in (changed.plain, files):
                (place / name).write_bytes(old)
        mount.remount()
        for name, change, old in work:
            changed.change(change, name, files, old)
        mount.remount()
        changed.compare_all(files)
        mount.stop()
    changed.compare_stored()


@on_kinds(*PERSISTENT)
@pytest.mark.parametrize("size", SIZES)
def test_a_large_stored_file_can_be_changed(kind: str, size: int, storage: StorageUnderTest, outside: Path) -> None:
    lines, rows = text(size), database(size, outside)
    changes = (*OF_BYTES, *BY_TOOLS, *WHILE_OPEN)
    work = [(change.__name__, change, rows if change is updated_by_sqlite else lines) for change in changes]
    check_changes(storage, outside, work)


@on_kinds(*PERSISTENT)
def test_a_stored_file_of_about_a_piece_can_be_changed(kind: str, storage: StorageUnderTest, outside: Path) -> None:
    work = [
        (f"{change.__name__} {size}", change, text(size)) for size in EDGES for change in (appended, overwritten, cut)
    ]
    check_changes(storage, outside, work)
