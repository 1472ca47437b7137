"""The façade: one method per system call, raising `depotfs.errors` and OSErrors of the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

import trio

from depotfs.cache import BlockCache
from depotfs.catalog import Catalog
from depotfs.errors import (
    AlreadyStored,
    BadHandle,
    DepotError,
    FileNotStored,
    InvalidName,
    NotPermitted,
    OtherStorage,
    ReadOnly,
    Stale,
    StorageUnavailable,
    VersionChanged,
)
from depotfs.remote.remote import is_waiting
from depotfs.spool import Spool
from depotfs.types import HandleId, InodeNo
from depotfs.vfs import attr, tree
from depotfs.vfs.ahead import Ahead
from depotfs.vfs.attr import Attr
from depotfs.vfs.changes import Changes, overtaken
from depotfs.vfs.commits import Commits
from depotfs.vfs.deadlines import BYTES_PER_SECOND, answer_within
from depotfs.vfs.handles import DirectoryHandle, FileHandle, HandleTable, RootHandle
from depotfs.vfs.listing import Listing
from depotfs.vfs.names import Kind
from depotfs.vfs.nodes import ROOT, DirectoryNode, FileNode, Life, NodeTable, stable_ino
from depotfs.vfs.options import VolumeOptions
from depotfs.vfs.removals import Removals
from depotfs.vfs.renames import Renames
from depotfs.vfs.reopening import Reopening
from depotfs.vfs.volume import Volume
from depotfs.vfs.writing import Writing

T = TypeVar("T")

Take = Callable[[bytes, Attr, int], bool]
"""`take(name, attributes, next index)`: hands an entry of a listing to the kernel; False: no room, try again later."""


class Notifier(Protocol):
    """How the kernel is told that what it cached is not so any more; does not wait."""

    def entry_gone(self, directory: InodeNo, name: bytes) -> None: ...


class DepotFilesystem:
    """The mounted tree.

    Args:
        volumes: the storages, in the order of the configuration.
        aliases: alias → name of a storage.
        table: the node table that the volumes were made with.
        options: of the root directory.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        aliases: Mapping[str, str],
        table: NodeTable,
        *,
        spool: Spool,
        cache: BlockCache,
        catalog: Catalog,
        notifier: Notifier,
        options: VolumeOptions,
    ) -> None:
        self.volumes = {volume.name: volume for volume in volumes}
        self._table = table
        self._spool = spool
        self._cache = cache
        self._catalog = catalog
        self._notifier = notifier
        self._options = options
        self._mounted_ns = time.time_ns()
        self._handles = HandleTable()
        self._reopening = Reopening(self._prepare_open)
        self._writing = Writing(spool, cache)
        self.commits = Commits(spool, self._writing)
        self._changes = Changes(self._writing, self.commits)
        self._removals = Removals(self._writing, self.commits)
        self._renames = Renames(self._writing, self.commits, self._removals)
        self._ahead: dict[str, Ahead] = {}
        self._root = DirectoryNode(ROOT, "", None)
        table.add_directory(self._root)
        self._directories: dict[bytes, DirectoryNode] = {}
        for volume in volumes:
            volume.catalog = catalog
        for name, volume in [*self.volumes.items(), *((a, self.volumes[n]) for a, n in aliases.items())]:
            node = DirectoryNode(stable_ino("directory", name, volume.name), name, volume)
            table.add_directory(node)
            self._directories[name.encode()] = node

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Makes deferred commits and reads ahead, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._cache.start(nursery)
            for volume in self.volumes.values():
                self._ahead[volume.name] = Ahead(volume, self._cache, nursery)
            nursery.start_soon(self.commits.pending.run)
            nursery.start_soon(self._writing.tidy)
            nursery.start_soon(self._reopening.run)
            task_status.started()

    @staticmethod
    def is_waiting() -> bool:
        """Whether any worker thread is busy for a storage."""
        return is_waiting()

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _node(self, node_id: int) -> FileNode | DirectoryNode:
        try:
            return self._table.get(node_id)
        except KeyError:
            raise Stale(f"There is no node {node_id}") from None

    def _file(self, node_id: int) -> FileNode:
        node = self._node(node_id)
        if isinstance(node, DirectoryNode):
            raise NotPermitted("A directory is no file")
        return node

    def _volume(self, node_id: int, *, change: bool = False) -> tuple[DirectoryNode, Volume]:
        node = self._node(node_id)
        if not isinstance(node, DirectoryNode) or node.volume is None:
            raise NotPermitted("Files are in the storages' directories only")
        if change and node.volume.options.read_only:
            raise ReadOnly(f"{node.name} is mounted read-only")
        return node, node.volume

    def _attr(self, node: FileNode | DirectoryNode) -> Attr:
        if isinstance(node, FileNode):
            return attr.of_file(node)
        if node.volume is None:
            return attr.of_directory(node, self._options, self._mounted_ns, len(self._directories))
        return attr.of_directory(node, node.volume.options, node.volume.mtime_ns, 0)

    def _entered(self, directory: DirectoryNode, name: bytes, node: FileNode, pid: int) -> Attr:
        """The attributes for a reply that carries an entry, which the kernel will give back by `forget`."""
        node.lookups += 1
        node.names.add((directory.node_id, name))
        if node.volume.rules.parse(name).kind is Kind.PLAIN:
            node.groups |= {_process_group(pid)}
        return attr.of_file(node)

    def _forget_names(self, node: FileNode, but: tuple[InodeNo, bytes] | None = None) -> None:
        """The kernel drops what it cached of the node's names, except the one that it is changing itself."""
        for directory, name in node.names:
            if (directory, name) != but:
                self._notifier.entry_gone(directory, name)
        node.names.clear()

    async def lookup(self, parent: int, name: bytes, pid: int) -> Attr:
        """Raises FileNotStored, NameTooLong, NameNotUnicode, StorageUnavailable …"""
        directory = self._node(parent)
        if directory is self._root:
            child = self._directories.get(name)
            if child is None:
                raise FileNotStored(f"There is no storage {name!r}")
            child.lookups += 1
            return self._attr(child)
        directory, volume = self._volume(parent)
        seen = tree.last_seen(volume, name)
        if seen is not None:
            self._ahead[volume.name].looked(seen)
        node = await tree.find(volume, name)
        while node is not None and self._reopening.is_refused(pid) and not await self._reopening.keep(node, pid):
            node = await tree.find(volume, name)
        if node is None:
            raise FileNotStored(f"{volume.name}/{name!r} does not exist")
        return self._entered(directory, name, node, pid)

    def forget(self, node_id: int, count: int) -> None:
        """The kernel gave back `count` references."""
        try:
            node = self._table.get(node_id)
        except KeyError:
            return
        node.lookups = max(0, node.lookups - count)
        if isinstance(node, FileNode) and not node.lookups:
            node.names.clear()
            node.volume.settle(node)

    async def getattr(self, node_id: int) -> Attr:
        """Exact attributes. An open file that is gone shows what its handles read; Stale without handles."""
        node = self._node(node_id)
        if isinstance(node, DirectoryNode):
            return self._attr(node)
        self._ahead[node.volume.name].looked(node)
        try:
            await tree.refresh(node)
        except DepotError as error:
            if not node.handles:
                raise Stale(str(error)) if isinstance(error, FileNotStored) else error from None
        return attr.of_file(node)

    async def setattr(self, node_id: int, *, size: int | None, mtime_ns: int | None, fh: int | None) -> Attr:
        """truncate(2) and utimensat(2); modes and owners come from the configuration and are not kept."""
        node = self._node(node_id)
        if isinstance(node, DirectoryNode):
            if node.volume is not None and mtime_ns is not None:
                node.volume.mtime_ns = mtime_ns
            return self._attr(node)
        if (size is not None or mtime_ns is not None) and node.volume.options.read_only:
            raise ReadOnly(f"{node.volume.name} is mounted read-only")
        with node.volume.pinned(node):
            if size is not None:
                handle = self._handles.file(fh) if fh is not None else None
                await self._changes.truncate(node, size, commit=handle is None)
                if handle is not None:
                    handle.changed = True
            if mtime_ns is not None:
                await self._changes.touch(node, mtime_ns // 10**9)
            return await self.getattr(node_id)

    # --- files -------------------------------------------------------------------------------------------------------

    async def open(self, node_id: int, flags: int, pid: int = 0) -> HandleId:
        """Raises Stale where the node is not what its name leads to: the kernel then looks the name up again, once."""
        node = self._file(node_id)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if writable and node.volume.options.read_only:
            raise ReadOnly(f"{node.volume.name} is mounted read-only")
        with node.volume.pinned(node):
            if writable or not self._reopening.has(node, pid):
                try:
                    await self._prepare_open(node, truncate=writable and bool(flags & os.O_TRUNC))
                except Stale:
                    self._reopening.refuse(pid)
                    raise
            self._reopening.done(pid)
            node.handles += 1
        return self._handles.add(FileHandle(node, changed=writable and bool(flags & os.O_TRUNC)))

    async def _prepare_open(self, node: FileNode, *, truncate: bool = False) -> None:
        try:
            if not truncate:
                await self._ahead[node.volume.name].load(node)
            await tree.refresh(node)
            if truncate:
                dirty = await self._changes.writable(node, keep=0)
                if dirty.file.size or not dirty.changed:
                    dirty.truncate(0)
            elif node.dirty is None and node.stat is not None:
                await self._writing.open_reading(node)
        except (FileNotStored, VersionChanged) as error:
            node.volume.end(node, Life.OVERTAKEN)
            raise Stale(str(error)) from error

    async def create(self, parent: int, name: bytes, flags: int, pid: int) -> tuple[HandleId, Attr]:
        """A new, empty file is open, or one that appeared meanwhile, unless O_EXCL. InvalidName, AlreadyStored …"""
        directory, volume = self._volume(parent, change=True)
        parsed = volume.rules.parse(name)
        if not parsed.ids:
            raise InvalidName(f"{parsed.text} is an id in another spelling than it is stored")
        node = None if volume.is_known_absent(parsed.ids) else await tree.find(volume, name)
        if node is None and name not in volume.scratch:
            node = self._make(volume, name)
            node.handles += 1
            handle = FileHandle(node, changed=True)
            return self._handles.add(handle), self._entered(directory, name, node, pid)
        node = node or volume.scratch[name]
        if flags & os.O_EXCL:
            volume.settle(node)
            raise AlreadyStored(f"{volume.name}/{parsed.text} exists")
        return await self.open(node.node_id, flags, pid), self._entered(directory, name, node, pid)

    def _make(self, volume: Volume, raw: bytes) -> FileNode:
        """A file that no storage has yet."""
        name = volume.rules.parse(raw)
        hidden = next((volume.hidden[file_id] for file_id in name.ids if file_id in volume.hidden), None)
        file_id = hidden.file_id if hidden is not None else name.ids[0]
        scratch = raw if name.kind is Kind.SCRATCH else None
        node = volume.add(file_id, scratch)
        base = hidden.stat if hidden is not None else None
        try:
            self._writing.create(node, base, name.text if name.kind is not Kind.ID else None)
        except BaseException:
            volume.end(node, Life.UNLINKED)
            volume.settle(node)
            raise
        volume.disturb(file_id)
        volume.names_changed()
        return node

    async def read(self, fh: int, offset: int, size: int) -> bytes | memoryview:
        """Bytes, fewer than `size` only at the end; to be used before the next await. Stale if the version is gone."""
        node = self._handles.file(fh).node
        reading = node.reading
        if reading is None and node.dirty is None:
            reading = await self._writing.open_reading(node)
        if node.dirty is not None:
            return node.dirty.file.pread(min(size, max(0, node.dirty.file.size - offset)), offset)
        assert reading is not None
        if not offset:
            self._ahead[node.volume.name].read(node)
        return await reading.read(offset, size)

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        """Bytes written: all of them. TooLarge, SpoolFull, OSError of the disk; Stale if the content was overtaken."""
        handle = self._handles.file(fh)
        node = handle.node
        node.volume.check_size(offset + len(data))
        if node.life is Life.OVERTAKEN:
            raise overtaken(node)
        dirty = node.dirty
        if dirty is None or dirty.frozen or dirty.acknowledged:
            dirty = await self._changes.writable(node, keep=None)
        self.commits.pending.cancel(node)
        handle.changed = True
        return dirty.write(data, offset)

    async def flush(self, fh: int) -> None:
        """close(2) of a descriptor: what was written is committed as configured. Raises what the commit raises."""
        handle = self._handles.file(fh)
        node, dirty = handle.node, handle.node.dirty
        if not handle.changed or dirty is None:
            return
        if node.life is Life.OVERTAKEN:
            handle.changed = False
            raise overtaken(node)
        if dirty.written:
            handle.changed = False
            await self._changes.commit_as_configured(node)

    async def release(self, fh: int) -> None:
        """The handle is closed. What it still owes is committed; nobody hears of errors but the log."""
        handle = self._handles.pop(fh)
        assert isinstance(handle, FileHandle)
        node = handle.node
        try:
            if handle.changed and node.dirty is not None:
                with suppress(DepotError, OSError):  # said where it happened; the bytes are in the spool
                    await self._changes.commit_as_configured(node)
        finally:
            node.handles -= 1
            node.volume.settle(node)

    async def fsync(self, fh: int) -> None:
        """The storage has the bytes, durably; of a scratch name: the spool has them, durably."""
        await self._changes.sync(self._handles.file(fh).node)

    async def unlink(self, parent: int, name: bytes, pid: int) -> None:
        """Raises FileNotStored, AccessDenied, ReadOnly, StorageUnavailable …; then nothing has changed.

        NotPermitted: by its id, from a process group that used the file by its plain name. That is a mirroring
        tool, which sees ids where it wrote names, and deletes what it has just copied.
        """
        directory, volume = self._volume(parent, change=True)
        node = await tree.find(volume, name)
        if node is None:
            raise FileNotStored(f"{volume.name}/{name!r} does not exist")
        group = _process_group(pid)
        if group in node.groups - {-1} and volume.rules.parse(name).kind is Kind.ID:
            self._removals.note_refused(directory.name, node, group)
            raise NotPermitted(f"{volume.name}/{node.file_id} was used by its plain name by the same process group")
        await self._in_time(volume, f"unlink of {volume.name}/{node.file_id}", partial(self._unlink, node))
        volume.names_changed()
        self._forget_names(node, but=(directory.node_id, name))

    async def _unlink(self, node: FileNode) -> None:
        with node.volume.pinned(node):
            await self._removals.unlink(node)

    async def _in_time(self, volume: Volume, what: str, work: Callable[[], Awaitable[T]], size: int = 0) -> T:
        """A change of the storage, answered within its deadline; see `depotfs.vfs.deadlines`."""
        if volume.remote.inline:
            return await work()
        seconds = volume.remote.deadline + size / BYTES_PER_SECOND
        return await answer_within(seconds, work, nursery=self._nursery, what=what)

    @staticmethod
    def _known_size(volume: Volume, name: bytes) -> int:
        """Bytes of the file that a name leads to, 0 if it is not known here."""
        node = tree.last_seen(volume, name)
        return node.size if node is not None else 0

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, *, replace: bool, pid: int
    ) -> None:
        """Raises OtherStorage, AlreadyStored (not `replace`), and what commits raise; then nothing has changed."""
        directory, volume = self._volume(parent, change=True)
        new_directory, new_volume = self._volume(new_parent, change=True)
        if volume is not new_volume:
            raise OtherStorage(f"{directory.name} and {new_directory.name} are different storages")
        try:
            moved, replaced = await self._in_time(
                volume,
                f"rename of {volume.name}/{name!r} to {new_name!r}",
                partial(self._renames.rename, volume, name, new_name, replace=replace),
                self._known_size(volume, name),
            )
        except BaseException:
            # How far it came the kernel has to ask.
            self._notifier.entry_gone(directory.node_id, name)
            self._notifier.entry_gone(new_directory.node_id, new_name)
            raise
        volume.names_changed()
        if replaced is not None:
            self._forget_names(replaced, but=(new_directory.node_id, new_name))
        self._forget_names(moved, but=(directory.node_id, name))
        moved.names.add((new_directory.node_id, new_name))
        if volume.rules.parse(new_name).kind is Kind.PLAIN:
            moved.groups |= {_process_group(pid)}

    # --- directories -------------------------------------------------------------------------------------------------

    async def opendir(self, node_id: int) -> HandleId:
        """The directory is open; nothing is listed yet."""
        node = self._node(node_id)
        if node is self._root:
            return self._handles.add(RootHandle(sorted(self._directories)))
        directory, volume = self._volume(node_id)
        listing = Listing(volume, self._catalog, self._ahead[volume.name])
        return self._handles.add(DirectoryHandle(directory.node_id, listing))

    async def readdir(self, fh: int, index: int, take: Take) -> None:
        """Hands over entries from that index on until `take` has no room. Raises StorageUnavailable …"""
        handle = self._handles.get(fh)
        if isinstance(handle, RootHandle):
            for place, name in enumerate(handle.names[index:], index):
                if not take(name, self._attr(self._directories[name]), place + 1):
                    return
                self._directories[name].lookups += 1
            return
        if not isinstance(handle, DirectoryHandle):
            raise BadHandle(f"No directory is open as {fh}")
        while (entry := await handle.listing.at(index)) is not None:
            name, node = entry
            if not take(name, attr.of_file(node), index + 1):
                return
            node.lookups += 1
            node.names.add((InodeNo(handle.directory_id), name))
            handle.listing.taken()
            index += 1

    async def releasedir(self, fh: int) -> None:
        """The directory is closed."""
        handle = self._handles.pop(fh)
        if isinstance(handle, DirectoryHandle):
            handle.listing.close()

    async def fsyncdir(self, fh: int) -> None:
        """Every commit of that directory that was to come was made. StorageUnavailable if one failed."""
        handle = self._handles.get(fh)
        if isinstance(handle, DirectoryHandle):
            volume = handle.listing.volume
            failed = await self.commits.pending.drain(lambda node: node.volume is volume and node.scratch is None)
            if failed:
                raise StorageUnavailable(f"{failed} commits of {volume.name} failed, see the lines before")

    def statfs(self) -> os.statvfs_result:
        """Of the file system that new content goes to first: the default storage's own, or the spool's."""
        first = next(iter(self.volumes.values()))
        return os.statvfs(first.remote.storage.disk_path() or self._spool.directory)

    # --- the end -----------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Every deferred commit was made, or failed once more."""
        await self.commits.pending.drain(lambda _node: True)

    async def finish(self) -> None:
        """Unmounted: what the kernel did not live to release is released, then as `drain`.

        Only files without written bytes: their close(2) has returned, or nothing is lost. Bytes of a file that is
        still open were never closed or synced; they stay in the spool for a person.
        """
        for fh, handle in self._handles.files():
            if handle.node.dirty is None or not handle.node.dirty.written:
                await self.release(fh)
        await self.drain()


def _process_group(pid: int) -> int:
    """The process group of whoever made the request; of one that is gone or in another PID namespace, -1."""
    try:
        return os.getpgid(pid) if pid else -1
    except ProcessLookupError:
        return -1
