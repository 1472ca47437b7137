"""What Linux does between a program and the façade, and what it is answered, compared with the model: names and nodes.

Faithful where it matters: locks (a directory is changed by one at a time, an inode written by one at a time), the
cache of names with its time limits, one retry of what is answered ESTALE, references that are given back by forget,
a FLUSH at each close(2) and a RELEASE some time after the last, readdir in portions that carry entries.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import trio

from depotfs.fuse.errnos import find_errno
from depotfs.types import InodeNo
from depotfs.vfs.attr import Attr
from depotfs.vfs.filesystem import DepotFilesystem
from tests.simulation.inodes import Dentry, Directory, Inode, Refused, place_of, raw_name, stored_as
from tests.simulation.model import File, Look, Model, Place
from tests.simulation.storage import Watched
from tests.simulation.world import Dead, World

T = TypeVar("T")


class Kernel:
    """The kernel of one mount.

    Args:
        roots: node ids of the storage's directory and of its alias.
    """

    def __init__(
        self,
        world: World,
        model: Model,
        fs: DepotFilesystem,
        storage: Watched,
        roots: tuple[int, int],
        nursery: trio.Nursery,
    ) -> None:
        self.world = world
        self.model = model
        self.fs = fs
        self.storage = storage
        self.roots = roots
        self.directories = [Directory(root) for root in roots]
        self.nursery = nursery
        self.inodes: dict[int, Inode] = {}
        self.dentries: dict[tuple[int, bytes], Dentry] = {}
        self._places = {stored_as(place): place for place in model.places}

    # --- answers -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _answering(self, call: str, *known: int) -> Iterator[None]:
        """An error is an errno that this call may be answered now; `known`: those that the caller judges."""
        try:
            yield
        except Exception as error:
            self._be_alive()
            code = find_errno(error)
            if code is None:
                self.world.violate(f"{call} raised what nobody expected: {error!r}")
                raise
            self.world.say(f"{call}: {errno.errorcode[code]} ({error})")
            # What is made of several calls may say EIO, whatever failed.
            if code not in known and code not in self.world.errnos and not (code == errno.EIO and self.world.errnos):
                self.world.violate(f"{call} was answered {errno.errorcode[code]} without cause: {error}")
            raise Refused(code) from error
        self._be_alive()

    def _be_alive(self) -> None:
        if self.world.dead:
            raise Dead

    async def _again(self, call: Callable[[bool], Awaitable[T]]) -> T:
        """As the kernel: once more, with all names looked up afresh, where the answer is ESTALE."""
        try:
            return await call(False)
        except Refused as refused:
            if refused.code != errno.ESTALE:
                raise
        try:
            return await call(True)
        except Refused as refused:
            if refused.code == errno.ESTALE and errno.ESTALE not in self.world.errnos:
                self.world.violate("a program is answered ESTALE, though nobody else changed anything")
            raise

    # --- nodes and names ---------------------------------------------------------------------------------------------

    @contextmanager
    def _using(self, *inodes: Inode | None) -> Iterator[None]:
        for inode in inodes:
            if inode is not None:
                inode.busy += 1
        try:
            yield
        finally:
            for inode in inodes:
                if inode is not None:
                    inode.busy -= 1
                    self._evict(inode)

    def _evict(self, inode: Inode) -> None:
        """The node is given back if nothing leads to it."""
        if inode.dentries or inode.opens or inode.busy or self.inodes.get(inode.node_id) is not inode:
            return
        del self.inodes[inode.node_id]
        self.fs.forget(inode.node_id, inode.lookups)

    def _entered(self, attr: Attr) -> Inode:
        """The node of a reply that carries an entry; its caller holds it."""
        inode = self.inodes.get(attr.node_id)
        if inode is None:
            inode = self.inodes[attr.node_id] = Inode(attr.node_id)
            inode.size = attr.size
        inode.lookups += 1
        return inode

    def _name(self, key: tuple[int, bytes], inode: Inode, timeout: float) -> None:
        self._drop(key, but=inode)
        self.dentries[key] = Dentry(inode, trio.current_time() + timeout)
        inode.dentries.add(key)

    def _drop(self, key: tuple[int, bytes], but: Inode | None = None) -> None:
        dentry = self.dentries.get(key)
        if dentry is not None and dentry.inode is not but:
            del self.dentries[key]
            dentry.inode.dentries.discard(key)
            self._evict(dentry.inode)

    def entry_gone(self, directory: InodeNo, name: bytes) -> None:
        """The façade's notice that a name is not what it was: it is dropped when its directory is free."""
        for place in self.directories:
            if place.node_id == directory:
                self.nursery.start_soon(self._invalidate, place, name)

    async def _invalidate(self, directory: Directory, name: bytes) -> None:
        async with directory.exclusive():
            self._drop((directory.node_id, name))

    def reclaim(self) -> None:
        """Memory is short: names that nobody uses are forgotten."""
        for key, dentry in list(self.dentries.items()):
            if not dentry.inode.opens and not dentry.inode.busy:
                self._drop(key)

    def _bind(self, inode: Inode, candidates: set[File]) -> set[File]:
        """The node is one of these; if there is but one, it is known as that from now on."""
        chosen = candidates - {other.file for other in self.inodes.values() if other is not inode} or candidates
        if len(chosen) == 1:
            (inode.file,) = chosen
        return chosen

    def _identify(self, look: Look, place: Place, inode: Inode) -> None:
        """The node was seen at the place."""
        if inode.file is None:
            candidates = self.model.candidates(look, place)
            chosen = self._bind(inode, candidates)
            if chosen & {other.file for other in self.inodes.values() if other is not inode} and not self.world.errnos:
                self.world.violate(f"{chosen} at {place} has a second node, {inode.node_id}")
            self.model.saw(look, place, lambda file: file in chosen, f"node {inode.node_id}")
        else:
            self.model.saw(look, place, lambda file: file is inode.file, f"{inode.file} as node {inode.node_id}")

    async def _walk(self, directory: Directory, name: str, *, afresh: bool) -> Inode | None:
        """The node of a name, None where there is none; the caller holds the directory's lock and uses the node."""
        raw, place = raw_name(name), place_of(name)
        key = directory.node_id, raw
        dentry = self.dentries.get(key)
        if dentry is not None and not afresh and trio.current_time() < dentry.until:
            return dentry.inode
        with self.model.looking() as look:
            try:
                with self._answering(f"lookup {name}", errno.ENOENT):
                    attr = await self.fs.lookup(directory.node_id, raw, 0)
            except Refused as refused:
                if refused.code != errno.ENOENT:
                    raise
                self._drop(key)
                self.model.saw(look, place, lambda file: file is None, "nothing")
                return None
            inode = self._entered(attr)
            inode.busy += 1
            self._name(key, inode, attr.entry_timeout)
            inode.busy -= 1
            self._identify(look, place, inode)
        return inode

    async def _found(self, directory: Directory, name: str, *, afresh: bool) -> Inode:
        async with directory.shared():
            inode = await self._walk(directory, name, afresh=afresh)
            if inode is None:
                raise Refused(errno.ENOENT)
            inode.busy += 1  # handed over to the caller
        return inode

    @asynccontextmanager
    async def _path(self, directory: Directory, name: str, *, afresh: bool) -> AsyncIterator[Inode]:
        """The node of a name, held. Raises Refused."""
        inode = await self._found(directory, name, afresh=afresh)
        try:
            yield inode
        finally:
            inode.busy -= 1
            self._evict(inode)
