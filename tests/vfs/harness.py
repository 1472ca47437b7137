"""A façade without a kernel: what the kernel would do is done by the test, in the same trio run."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from depotfs.cache import BlockCache
from depotfs.catalog import Catalog
from depotfs.io.interfaces import FileStorage
from depotfs.io.memory import MemoryFileStorage
from depotfs.io.reader import ContentReader
from depotfs.remote.remote import Remote
from depotfs.spool import Spool
from depotfs.types import FileEntry, FileId, FileStat, InodeNo
from depotfs.vfs.attr import Attr
from depotfs.vfs.filesystem import DepotFilesystem
from depotfs.vfs.nodes import ROOT, NodeTable
from depotfs.vfs.options import VolumeOptions
from depotfs.vfs.recovery import recover
from depotfs.vfs.volume import Volume


class FarMemory(MemoryFileStorage):
    """Memory that is asked from worker threads, read through the cache, and moves by copy and remove, as a server."""

    inline = False
    move = FileStorage.move


class PlainListing(FarMemory):
    """As S3, whose listing tells neither filename nor time; every request is counted.

    Attributes:
        requests: (what, file id) of each, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, FileId]] = []

    def pages(self, after: str = "") -> Iterator[Sequence[FileEntry]]:
        for page in super().pages(after):
            stats = [(entry.file_id, entry.stat) for entry in page if entry.stat is not None]
            yield [FileEntry(file_id, stat.size, stat.revision, stat.changed_ns) for file_id, stat in stats]

    def stat(self, file_id: FileId) -> FileStat:
        self.requests.append(("stat", file_id))
        return super().stat(file_id)

    def load(self, file_id: FileId, largest: int) -> tuple[FileStat, bytes | None]:
        self.requests.append(("load", file_id))
        stat = super().stat(file_id)
        reader = super().open_content(stat)
        return stat, reader.pread(0, stat.size) if stat.size <= largest else None

    def open_content(self, file: FileId | FileStat) -> ContentReader:
        return CountedReader(super().open_content(file), self.requests)


class CountedReader(ContentReader):
    """A reader whose requests are counted."""

    def __init__(self, reader: ContentReader, requests: list[tuple[str, FileId]]) -> None:
        self.stat = reader.stat
        self._reader = reader
        self._requests = requests

    def pread(self, offset: int, size: int) -> bytes:
        self._requests.append(("read", self.stat.file_id))
        return self._reader.pread(offset, size)

    def close(self) -> None:
        self._reader.close()


class Notes:
    """What the kernel was told to drop."""

    def __init__(self) -> None:
        self.gone: list[tuple[int, bytes]] = []

    def entry_gone(self, directory: InodeNo, name: bytes) -> None:
        self.gone.append((directory, name))


class Tree:
    """A mounted tree of one storage, `docs`, with the alias `d`.

    Attributes:
        fs: the façade; directory: node id of the storage's directory.
    """

    def __init__(self, fs: DepotFilesystem, volume: Volume, spool: Spool, notes: Notes) -> None:
        self.fs = fs
        self.volume = volume
        self.spool = spool
        self.notes = notes
        self.directory = InodeNo(0)

    async def lookup(self, name: str) -> Attr:
        return await self.fs.lookup(self.directory, name.encode(), 0)

    async def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        attr = await self.lookup(name)
        try:
            return await self.fs.open(attr.node_id, flags)
        finally:
            self.fs.forget(attr.node_id, 1)

    async def create(self, name: str, flags: int = os.O_RDWR | os.O_CREAT) -> int:
        fh, attr = await self.fs.create(self.directory, name.encode(), flags, 0)
        self.fs.forget(attr.node_id, 1)
        return fh

    async def close(self, fh: int) -> None:
        try:
            await self.fs.flush(fh)
        finally:
            await self.fs.release(fh)

    async def write_file(self, name: str, data: bytes) -> None:
        """As `cp` would: created or truncated, written, closed."""
        try:
            fh = await self.open(name, os.O_WRONLY | os.O_TRUNC)
        except FileNotFoundError:
            fh = await self.create(name)
        await self.fs.write(fh, 0, data)
        await self.close(fh)

    async def read_file(self, name: str) -> bytes:
        fh = await self.open(name)
        try:
            return await self.read_all(fh)
        finally:
            await self.close(fh)

    async def read_all(self, fh: int) -> bytes:
        data = b""
        while piece := bytes(await self.fs.read(fh, len(data), 1 << 20)):
            data += piece
        return data

    async def list(self) -> list[str]:
        """Names, a few at a time as the kernel asks for them."""
        names: list[str] = []
        fh = await self.fs.opendir(self.directory)
        taken: list[int] = []

        def take(name: bytes, attr: Attr, following: int) -> bool:
            if len(taken) == 3:
                return False
            names.append(name.decode())
            taken.append(attr.node_id)
            return True

        while True:
            await self.fs.readdir(fh, len(names), take)
            if not taken:
                break
            for node_id in taken:
                self.fs.forget(node_id, 1)
            taken.clear()
        await self.fs.releasedir(fh)
        return names


@asynccontextmanager
async def mounted(
    storage: FileStorage, directory: Path, options: VolumeOptions | None = None, catalog: Catalog | None = None
) -> AsyncIterator[Tree]:
    """The tree serves while inside, with what an earlier one left behind; deferred commits are made at the end.

    Args:
        catalog: one that is open and stays so; None: one in `directory`.
    """
    options = options or VolumeOptions()
    table = NodeTable()
    spool = Spool(str(directory / "spool"))
    left = spool.open()
    own = Catalog(str(directory / "catalog"))
    if catalog is None:
        own.open()
    volume = Volume("docs", Remote(storage, deadline=10), options, table)
    notes = Notes()
    fs = DepotFilesystem(
        [volume], {"d": "docs"}, table,
        spool=spool, cache=BlockCache(8 << 20), catalog=catalog or own, notifier=notes, options=options,
    )  # fmt: skip
    recover(left, [volume], fs.committer)
    tree = Tree(fs, volume, spool, notes)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(fs.run)
            tree.directory = (await fs.lookup(ROOT, b"docs", 0)).node_id
            yield tree
            await fs.finish()
            nursery.cancel_scope.cancel()
    finally:
        own.close()
        spool.close()
