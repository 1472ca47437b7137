"""System calls on directories: unlink, rename, list, fsync."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from depotfs.types import FileId
from depotfs.vfs.attr import Attr
from tests.simulation.inodes import Directory, Inode, Refused, place_of, raw_name
from tests.simulation.model import File, Look, Moving, Place, Removing
from tests.simulation.open_files import OpenFiles
from tests.simulation.plan import SCRATCH

_PORTION: Final = 2
"""Entries of a directory that the kernel asks for at once."""


class SystemCalls(OpenFiles):
    """All system calls."""

    async def unlink(self, name: str, alias: int) -> None:
        """unlink(2)."""

        async def call(afresh: bool) -> None:
            directory = self.directories[alias]
            async with directory.exclusive():
                inode = await self._walk(directory, name, afresh=afresh)
                if inode is None:
                    raise Refused(errno.ENOENT)
                with self._using(inode):
                    async with inode.lock:
                        await self._unlink(directory, name)

        await self._again(call)

    async def _unlink(self, directory: Directory, name: str) -> None:
        removing = Removing(next(self.model.numbers), (place_of(name),))
        with self.model.looking() as look, self._mutating(removing, errno.ENOENT, errno.ESTALE):
            try:
                with self._answering(f"unlink {name}", errno.ENOENT, errno.ESTALE):
                    await self.fs.unlink(directory.node_id, raw_name(name), 0)
            except Refused as refused:
                if refused.code == errno.ENOENT:
                    self.model.saw(look, place_of(name), lambda file: file is None, "nothing (unlink)")
                raise
            self.model.happened(removing)
        self._drop((directory.node_id, raw_name(name)))

    async def rename(self, name: str, to: str, alias: int, *, noreplace: bool) -> None:
        """rename(2), renameat2(2) with RENAME_NOREPLACE."""

        async def call(afresh: bool) -> None:
            directory = self.directories[alias]
            async with directory.exclusive():
                source = await self._walk(directory, name, afresh=afresh)
                with self._using(source):
                    target = await self._walk(directory, to, afresh=afresh)
                    if source is None:
                        raise Refused(errno.ENOENT)
                    if target is not None and noreplace:
                        raise Refused(errno.EEXIST)
                    if target is source:
                        return
                    with self._using(target):
                        await self._rename(directory, name, to, source, target, noreplace=noreplace)

        await self._again(call)

    async def _rename(
        self, directory: Directory, name: str, to: str, source: Inode, target: Inode | None, *, noreplace: bool
    ) -> None:
        scratch = place_of(to) in self.model.scratch
        numbers = self.model.numbers
        moving = Moving(next(numbers), place_of(name), place_of(to), numbers, to_scratch=scratch)
        first = min(source.file.live) if source.file else 0
        async with self._locked(source, target):
            with self._mutating(moving, errno.EEXIST, errno.ENOENT, errno.ESTALE):
                with self._answering(f"rename {name} to {to}", errno.EEXIST, errno.ENOENT, errno.ESTALE):
                    await self.fs.rename(
                        directory.node_id, raw_name(name), directory.node_id, raw_name(to), replace=not noreplace, pid=0
                    )
                self.model.happened(moving)
        self._moved(source.file, place_of(name), place_of(to), first)
        old, new = (directory.node_id, raw_name(name)), (directory.node_id, raw_name(to))
        until = self.dentries[old].until if old in self.dentries else 0.0
        with self._using(source):
            self._drop(old)
            self._name(new, source, until - trio.current_time())

    def _moved(self, file: File | None, old: Place, new: Place, first: int) -> None:
        """The rename was answered; to a place in the storage it is a commit."""
        if file is None:
            return
        if new in self.model.scratch:
            file.origins.add(old)
            return
        file.origins.clear()
        self._acknowledged(file, first, f"rename to {new}", durable=False)

    @asynccontextmanager
    async def _locked(self, *inodes: Inode | None) -> AsyncIterator[None]:
        held = sorted({inode for inode in inodes if inode is not None}, key=lambda inode: inode.node_id)
        for inode in held:
            await inode.lock.acquire()
        try:
            yield
        finally:
            for inode in held:
                inode.lock.release()

    async def list_names(self, alias: int) -> None:
        """What `ls` does; compared with what must be listed."""
        directory = self.directories[alias]
        async with directory.shared():
            with self.model.looking() as look:
                names = await self._entries(directory)
            entries: dict[Place, list[str]] = {place: [] for place in self.model.places}
            for name in names:
                place = name if name in SCRATCH else self._places.get(FileId(name))
                if place is None:
                    self.world.violate(f"{name} is listed, which nobody made")
                else:
                    entries[place].append(name)
            for place, found in entries.items():
                self._listed(look, place, found)

    def _listed(self, look: Look, place: Place, names: list[str]) -> None:
        # A scratch name becomes an id when it is stored.
        if len(names) > len(set(names)) and not look.disturbed:
            self.world.violate(f"{place} is listed as {names}")
        elif names:
            self.model.saw(look, place, lambda file: file is not None, "an entry of the listing")
        else:
            self.model.saw(look, place, lambda file: file is None, "no entry of the listing")

    async def _entries(self, directory: Directory) -> list[str]:
        """The names, in portions; their nodes are known afterwards."""
        names: list[str] = []
        portion: list[tuple[bytes, Attr]] = []

        def take(name: bytes, attr: Attr, following: int) -> bool:
            if len(portion) == _PORTION:
                return False
            portion.append((name, attr))
            return True

        with self._answering("opendir"):
            fh = await self.fs.opendir(directory.node_id)
        try:
            while True:
                with self.model.looking() as look, self._answering("readdir"):
                    await self.fs.readdir(fh, len(names), take)
                if not portion:
                    return names
                for name, attr in portion:
                    names.append(name.decode())
                    self._entry(directory, look, name, attr)
                portion.clear()
        finally:
            with self._answering("releasedir"):
                await self.fs.releasedir(fh)

    def _entry(self, directory: Directory, look: Look, name: bytes, attr: Attr) -> None:
        """An entry that came with its node."""
        inode = self._entered(attr)
        self._name((directory.node_id, name), inode, attr.entry_timeout)
        place = name.decode() if name.decode() in SCRATCH else self._places.get(FileId(name.decode()))
        if inode.file is None and place is not None:
            self._bind(inode, self.model.candidates(look, place))

    async def fsyncdir(self, alias: int) -> None:
        """fsync(2) of a directory: what was closed before is in the storage."""
        directory = self.directories[alias]
        with self._answering("opendir"):
            fh = await self.fs.opendir(directory.node_id)
        try:
            with self._answering("fsyncdir"):
                await self.fs.fsyncdir(fh)
        finally:
            with self._answering("releasedir"):
                await self.fs.releasedir(fh)
