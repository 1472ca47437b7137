"""System calls on files: stat, open, read, write, close and what changes a file's size and time."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from depotfs.vfs.attr import Attr
from tests.simulation.content import Sparse
from tests.simulation.inodes import Directory, Inode, Opened, Refused, place_of, raw_name, stored_as
from tests.simulation.kernel import Kernel
from tests.simulation.model import File, Making, Mutation

_CHUNK: Final = 1 << 20


class OpenFiles(Kernel):
    """System calls on files."""

    def _told(self, inode: Inode, attr: Attr, version: int) -> None:
        """stat(2) shows these."""
        if inode.version == version:
            inode.size = attr.size

    async def _attributes(self, inode: Inode, what: str) -> Attr:
        with _reading(inode.file) as seen:
            modified = inode.file.modified if inode.file else None
            version = inode.version
            with self._answering(f"getattr {what}", errno.ESTALE):
                attr = await self.fs.getattr(inode.node_id)
            file = inode.file
            if file is not None:
                if not file.measured(seen, attr.size):
                    self.world.violate(f"{what} has {attr.size} bytes\n{file.describe()}")
                if None is not modified == file.modified and attr.mtime_ns != modified * 10**9:
                    self.world.violate(f"{what} was modified {modified}, but shows {attr.mtime_ns / 10**9}")
            self._told(inode, attr, version)
        return attr

    async def stat(self, name: str, alias: int) -> Attr:
        """stat(2)."""

        async def call(afresh: bool) -> Attr:
            async with self._path(self.directories[alias], name, afresh=afresh) as inode:
                return await self._attributes(inode, name)

        return await self._again(call)

    async def touch(self, name: str, alias: int, seconds: int) -> None:
        """utimensat(2)."""

        async def call(afresh: bool) -> None:
            async with self._path(self.directories[alias], name, afresh=afresh) as inode, inode.lock:
                if inode.file is not None:
                    inode.file.modified = None
                version = inode.version
                with self._answering(f"touch {name}", errno.ESTALE):
                    attr = await self.fs.setattr(inode.node_id, size=None, mtime_ns=seconds * 10**9, fh=None)
                if attr.mtime_ns != seconds * 10**9 and errno.ESTALE not in self.world.errnos:
                    self.world.violate(f"touch of {name} with {seconds} gave {attr.mtime_ns / 10**9}")
                if inode.file is not None:
                    inode.file.modified = seconds
                self._told(inode, attr, version)

        await self._again(call)

    async def truncate(self, name: str, alias: int, size: int) -> None:
        """truncate(2)."""

        async def call(afresh: bool) -> None:
            async with self._path(self.directories[alias], name, afresh=afresh) as inode, inode.lock:
                if inode.file is None:
                    return
                await self._resize(inode, size, name)
                self._acknowledged(inode.file, min(inode.file.live), f"truncate of {name}", durable=False)

        await self._again(call)

    async def _resize(self, inode: Inode, size: int, what: str, fh: int | None = None) -> None:
        assert inode.file is not None
        with inode.file.changing(lambda content: content.truncate(size)) as change:
            inode.version += 1
            try:
                with self._answering(f"truncate {what} to {size}", errno.ESTALE):
                    attr = await self.fs.setattr(inode.node_id, size=size, mtime_ns=None, fh=fh)
            except Refused as refused:
                change.undone = refused.code == errno.ESTALE
                change.goes_on = refused.goes_on
                raise
            inode.version += 1
            inode.size = size
            if attr.size != size:
                self.world.violate(f"{what} was truncated to {size} and has {attr.size} bytes")
            self._told(inode, attr, inode.version)

    # --- open files --------------------------------------------------------------------------------------------------

    async def open(self, name: str, alias: int, flags: int, pid: int) -> Opened:
        """open(2)."""

        async def call(afresh: bool) -> Opened:
            return await self._open(self.directories[alias], name, flags, pid, afresh=afresh)

        return await self._again(call)

    async def _open(self, directory: Directory, name: str, flags: int, pid: int, *, afresh: bool) -> Opened:
        if flags & os.O_CREAT:
            async with directory.exclusive():
                inode = await self._walk(directory, name, afresh=afresh)
                if inode is None:
                    return await self._create(directory, name, flags, pid)
                if flags & os.O_EXCL:
                    raise Refused(errno.EEXIST)
                inode.busy += 1
        else:
            inode = await self._found(directory, name, afresh=afresh)
        try:
            return await self._open_node(inode, name, flags, pid)
        finally:
            inode.busy -= 1
            self._evict(inode)

    async def _open_node(self, inode: Inode, name: str, flags: int, pid: int) -> Opened:
        if inode.file is None:
            flags &= ~(os.O_TRUNC | os.O_ACCMODE)  # what it is nobody knows, so nobody writes
        flags &= ~(os.O_CREAT | os.O_EXCL)
        if not flags & os.O_TRUNC:
            return await self._open_request(inode, name, flags, pid)
        assert inode.file is not None
        async with inode.lock:
            with inode.file.changing(lambda content: content.truncate(0)) as change:
                inode.version += 1
                try:
                    opened = await self._open_request(inode, name, flags, pid)
                except Refused as refused:
                    change.undone = refused.code == errno.ESTALE
                    raise
                inode.version += 1
                inode.size = 0
            opened.truncated = min(inode.file.live)
        return opened

    async def _open_request(self, inode: Inode, name: str, flags: int, pid: int) -> Opened:
        with self._answering(f"open {name}", errno.ESTALE):
            fh = await self.fs.open(inode.node_id, flags, pid)
        inode.opens += 1
        return Opened(fh, inode, flags)

    async def _create(self, directory: Directory, name: str, flags: int, pid: int) -> Opened:
        """The directory is held, and the name was looked up and not there."""
        place, raw = place_of(name), raw_name(name)
        making = Making(next(self.model.numbers), place, self.model.file(Sparse()))
        with self.model.looking() as look, self._mutating(making, errno.EEXIST, errno.ESTALE):
            with self._answering(f"create {name}", errno.EEXIST, errno.ESTALE):
                fh, attr = await self.fs.create(directory.node_id, raw, flags, pid)
            inode = self._entered(attr)
            inode.opens += 1
            self._name((directory.node_id, raw), inode, attr.entry_timeout)
            if inode.file is not None or attr.size or not self.model.may_have_happened(making):  # another one made it
                self.model.did_not_happen(making)
                self._identify(look, place, inode)
            else:
                inode.file = making.file
                self.model.happened(making)
        inode.size = attr.size
        return Opened(fh, inode, flags, truncated=0)

    @contextmanager
    def _mutating(self, mutation: Mutation, *refusals: int) -> Iterator[None]:
        """The directory may be changed inside; how that ended the caller says, errors but these leave it open."""
        self.model.begin(mutation)
        try:
            yield
        except Refused as refused:
            if refused.code in refusals and not self.world.errnos:
                self.model.did_not_happen(mutation)
            else:
                self.model.failed(mutation, goes_on=refused.goes_on)
            raise

    async def read(self, opened: Opened, offset: int, size: int) -> None:
        """pread(2): what comes is one of the contents that the file may have."""
        end = offset + size
        while offset < end:
            length = min(_CHUNK, end - offset)
            with _reading(opened.inode.file) as seen:
                with self._answering(f"read of {opened.inode.file}", *_stale(opened.inode.file)):
                    data = bytes(await self.fs.read(opened.fh, offset, length))
                file = opened.inode.file
                if file is not None and not file.read(seen, offset, length, data):
                    shown = f"{len(data)} bytes at {offset}: {data[:40]!r}"
                    self.world.violate(f"{file} was read as what it is not: {shown}\n{file.describe()}")
                    return
            if len(data) < length:
                return
            offset += length

    async def write(self, opened: Opened, offset: int, data: bytes) -> None:
        """write(2)."""
        inode = opened.inode
        assert inode.file is not None
        async with inode.lock:
            if opened.flags & os.O_APPEND:
                offset = inode.size
            with inode.file.changing(lambda content: content.write(offset, data)) as change:
                inode.version += 1
                try:
                    with self._answering(f"write of {inode.file}", *_stale(inode.file)):
                        count = await self.fs.write(opened.fh, offset, data)
                except Refused as refused:
                    change.undone = refused.code in (errno.ESTALE, errno.ENOSPC)
                    raise
                inode.version += 1
                inode.size = max(inode.size, offset + count)
                if count < len(data):
                    change.instead = lambda content: content.write(offset, data[:count])
            opened.wrote = min(inode.file.live)

    async def ftruncate(self, opened: Opened, size: int) -> None:
        """ftruncate(2)."""
        async with opened.inode.lock:
            await self._resize(opened.inode, size, str(opened.inode.file), opened.fh)
            assert opened.inode.file is not None
            opened.truncated = min(opened.inode.file.live)

    async def fsync(self, opened: Opened) -> None:
        """fsync(2)."""
        file = opened.inode.file
        async with opened.inode.lock:
            first = min(file.live) if file else 0
            with self._answering(f"fsync of {file}", *_stale(file)):
                await self.fs.fsync(opened.fh)
            if file is not None:
                opened.wrote = opened.truncated = None
                self._acknowledged(file, first, "fsync", durable=True, stored=True)

    async def close(self, opened: Opened) -> None:
        """close(2) of one descriptor."""
        file = opened.inode.file
        wrote, truncated = opened.wrote, opened.truncated
        opened.wrote = opened.truncated = None
        opened.descriptors -= 1
        last = not opened.descriptors
        try:
            with self._answering(f"close of {file}", *_stale(file)):
                await self.fs.flush(opened.fh)
            if file is not None and wrote is not None:
                self._acknowledged(file, wrote, "close", durable=False)
            if file is not None and truncated is not None and "truncate" in self.world.settings.checks:
                file.acknowledge(truncated, durable=False)  # it is sealed, and stored by the release
        finally:
            if last:
                self.nursery.start_soon(self._release, opened)

    async def _release(self, opened: Opened) -> None:
        try:
            await trio.sleep(0.001)
            with self._answering("release"):
                await self.fs.release(opened.fh)
        finally:
            opened.inode.opens -= 1
            self._evict(opened.inode)

    def _acknowledged(self, file: File, first: int, what: str, *, durable: bool, stored: bool = False) -> None:
        """A program was told that what the file was at `first`, or something later, is safe."""
        options = self.world.settings
        places = self.model.places_of(file)
        scratch = any(place in self.model.scratch for place in places)
        # What a local storage has taken may not be flushed, what is promised in the background is.
        flushed = options.kind != "local" or (options.background and what == "close")
        file.acknowledge(first, durable=durable or (flushed and bool(places) and not scratch))
        if scratch or not places or (options.background and not stored):
            return
        (place,) = places
        content = self.storage.stored(stored_as(place))
        if (content is None or content not in file.states[first:]) and errno.ESTALE not in self.world.errnos:
            has = "nothing" if content is None else content
            self.world.violate(f"{what} of {place} returned, the storage has {has}\n{file.describe()}")


@contextmanager
def _reading(file: File | None) -> Iterator[set[int]]:
    """As the file's; of a file that nobody knows, nothing."""
    if file is None:
        yield set()
        return
    with file.reading() as seen:
        yield seen


def _stale(file: File | None) -> tuple[int, ...]:
    """ESTALE, where a file may have been replaced or removed though its program was told that this failed."""
    return (errno.ESTALE,) if file is not None and file.doubtful else ()
