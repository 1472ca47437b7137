"""The façade: one method per system call, raising `depotfs.errors` and OSErrors of the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

import trio

from depotfs import disk
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
from depotfs.vfs import attr, lookup
from depotfs.vfs.ahead import Ahead
from depotfs.vfs.attr import Attr
from depotfs.vfs.commit_queue import Owing
from depotfs.vfs.committing import Committer
from depotfs.vfs.deadlines import BYTES_PER_SECOND, Deadlines
from depotfs.vfs.drafts import Drafts
from depotfs.vfs.editing import Editing, changed_elsewhere
from depotfs.vfs.estale import EstaleRetry
from depotfs.vfs.file import File, Life
from depotfs.vfs.handles import DirectoryHandle, FileHandle, HandleTable, RootHandle
from depotfs.vfs.listing import Listing
from depotfs.vfs.names import Kind
from depotfs.vfs.nodes import ROOT, DirectoryNode, NodeTable, stable_ino
from depotfs.vfs.options import VolumeOptions
from depotfs.vfs.removing import Removing
from depotfs.vfs.renaming import Renaming
from depotfs.vfs.volume import Volume

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
        self._estale = EstaleRetry(self._prepare_open)
        self._deadlines = Deadlines()
        self._drafts = Drafts(spool, cache)
        self.committer = Committer(spool, self._drafts)
        self._editing = Editing(self._drafts, self.committer)
        self._removing = Removing(self._drafts, self.committer)
        self._renaming = Renaming(self._drafts, self.committer, self._removing)
        self._ahead: dict[str, Ahead] = {}
        self._root = DirectoryNode(ROOT, "", None)
        table.add_directory(self._root)
        self._directories: dict[bytes, DirectoryNode] = {}
        for volume in volumes:
            volume.knowledge.catalog = catalog
        for name, volume in [*self.volumes.items(), *((a, self.volumes[n]) for a, n in aliases.items())]:
            node = DirectoryNode(stable_ino("directory", name, volume.name), name, volume)
            table.add_directory(node)
            self._directories[name.encode()] = node

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Makes deferred commits and reads ahead, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._cache.start(nursery)
            for volume in self.volumes.values():
                self._ahead[volume.name] = Ahead(volume, self._cache, nursery)
                volume.remote.health.came_back = partial(self.committer.retry, volume)
                nursery.start_soon(volume.remote.health.run)
            nursery.start_soon(self.committer.queue.run)
            nursery.start_soon(self._drafts.tidy)
            nursery.start_soon(self._estale.run)
            nursery.start_soon(self._deadlines.run)
            await trio.lowlevel.checkpoint()
            task_status.started()

    @staticmethod
    def is_waiting() -> bool:
        """Whether any worker thread is busy for a storage."""
        return is_waiting()

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _node(self, node_id: int) -> File | DirectoryNode:
        try:
            return self._table.get(node_id)
        except KeyError:
            raise Stale(f"There is no node {node_id}") from None

    def _file(self, node_id: int) -> File:
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

    def _attr(self, node: File | DirectoryNode) -> Attr:
        if isinstance(node, File):
            return attr.of_file(node)
        if node.volume is None:
            return attr.of_directory(node, self._options, self._mounted_ns, len(self._directories))
        return attr.of_directory(node, node.volume.options, node.volume.mtime_ns, 0)

    def _entered(self, directory: DirectoryNode, name: bytes, file: File, pid: int) -> Attr:
        """The attributes for a reply that carries an entry, which the kernel will give back by `forget`."""
        file.lookups += 1
        file.names.add((directory.node_id, name))
        shown = attr.of_file(file)
        if file.volume.rules.parse(name).kind is Kind.PLAIN:
            file.note_use(_process_group(pid))
            shown.entry_timeout = 0.0  # so that no use of a plain name hides behind the kernel's cache
        return shown

    def _forget_names(self, file: File, but: tuple[InodeNo, bytes] | None = None) -> None:
        """The kernel drops what it cached of the file's names, except the one that it is changing itself."""
        for directory, name in file.names:
            if (directory, name) != but:
                self._notifier.entry_gone(directory, name)
        file.names.clear()

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
        self._ahead[volume.name].looked(*volume.rules.parse(name).ids)
        file = await lookup.find(volume, name)
        while file is not None and self._estale.is_refused(pid) and not await self._estale.keep(file, pid):
            file = await lookup.find(volume, name)
        if file is None:
            raise FileNotStored(f"{volume.name}/{name!r} does not exist")
        return self._entered(directory, name, file, pid)

    def forget(self, node_id: int, count: int) -> None:
        """The kernel gave back `count` references."""
        try:
            node = self._table.get(node_id)
        except KeyError:
            return
        node.lookups = max(0, node.lookups - count)
        if isinstance(node, File) and not node.lookups:
            node.names.clear()
            node.volume.settle(node)

    async def getattr(self, node_id: int) -> Attr:
        """Exact attributes. An open file that is gone shows what its handles read; Stale without handles."""
        node = self._node(node_id)
        if isinstance(node, DirectoryNode):
            return self._attr(node)
        self._ahead[node.volume.name].looked(node.file_id)
        try:
            await lookup.refresh(node)
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
                await self._truncate(node, size, fh)
            if mtime_ns is not None:
                await self._editing.touch(node, mtime_ns // 10**9)
            return await self.getattr(node_id)

    async def _truncate(self, file: File, size: int, fh: int | None) -> None:
        if fh is None:
            await self._in_time(file, "truncate", partial(self._editing.truncate, file, size, commit=True))
            return
        handle = self._handles.file(fh)
        await self._editing.truncate(file, size, commit=False)
        handle.changed, handle.sealed = True, False

    # --- files -------------------------------------------------------------------------------------------------------

    async def open(self, node_id: int, flags: int, pid: int = 0) -> HandleId:
        """Raises Stale where the node is not what its name leads to: the kernel then looks the name up again, once."""
        file = self._file(node_id)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        truncate = writable and bool(flags & os.O_TRUNC)
        if writable and file.volume.options.read_only:
            raise ReadOnly(f"{file.volume.name} is mounted read-only")
        with file.volume.pinned(file):
            if writable or not self._estale.has(file, pid):
                try:
                    await self._prepare_open(file, truncate=truncate)
                except Stale:
                    self._estale.refuse(pid)
                    raise
            self._estale.done(pid)
            file.handles += 1
        return self._handles.add(FileHandle(file, changed=truncate))

    async def _prepare_open(self, file: File, *, truncate: bool = False) -> None:
        try:
            if file.leaving:
                async with file.lock:  # until it is gone, or stays
                    pass
            await self.committer.verify(file)
            if not truncate:
                await self._ahead[file.volume.name].load(file)
            await lookup.refresh(file)
            if truncate:
                draft = await self._editing.writable(file, keep=0)
                if draft.file.size or not draft.changed:
                    draft.truncate(0)
            elif file.draft is None and file.stat is not None:
                await self._drafts.open_content(file)
        except (FileNotStored, VersionChanged) as error:
            file.volume.end(file, Life.CHANGED_ELSEWHERE)
            raise Stale(str(error)) from error

    async def create(self, parent: int, name: bytes, flags: int, pid: int) -> tuple[HandleId, Attr]:
        """A new, empty file is open, or one that appeared meanwhile, unless O_EXCL. InvalidName, AlreadyStored …"""
        directory, volume = self._volume(parent, change=True)
        parsed = volume.rules.parse(name)
        if not parsed.ids:
            raise InvalidName(f"{parsed.text} is an id in another spelling than it is stored")
        file = await lookup.find(volume, name)
        file = file or lookup.last_seen(volume, name)  # made while the storage was asked
        if file is None:
            file = self._editing.make(volume, name)
            file.handles += 1
            handle = FileHandle(file, changed=True)
            return self._handles.add(handle), self._entered(directory, name, file, pid)
        if flags & os.O_EXCL:
            volume.settle(file)
            raise AlreadyStored(f"{volume.name}/{parsed.text} exists")
        return await self.open(file.node_id, flags, pid), self._entered(directory, name, file, pid)

    async def read(self, fh: int, offset: int, size: int) -> bytes | memoryview:
        """Bytes, fewer than `size` only at the end; to be used before the next await. Stale if the version is gone."""
        file = self._handles.file(fh).file
        while True:
            content = file.content
            if content is None and file.draft is None:
                content = await self._drafts.open_content(file)
            if file.draft is not None:
                return file.draft.file.pread(min(size, max(0, file.draft.file.size - offset)), offset)
            assert content is not None
            if not offset:
                self._ahead[file.volume.name].read(file)
            try:
                return await content.read(offset, size)
            except (VersionChanged, BadHandle):
                if file.content is content and file.draft is None:
                    raise
                # This mount itself changed the file meanwhile: what it is now is read.

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        """Bytes written: all of them. TooLarge, SpoolFull, OSError of the disk; Stale if the content was overtaken."""
        handle = self._handles.file(fh)
        file = handle.file
        file.volume.check_size(offset + len(data))
        if file.life is Life.CHANGED_ELSEWHERE:
            raise changed_elsewhere(file)
        draft = file.draft
        if draft is None or not draft.writable or file.leaving:
            draft = await self._editing.writable(file, keep=None)
        self.committer.queue.cancel(file)
        handle.changed = True
        return draft.write(data, offset)

    async def flush(self, fh: int) -> None:
        """close(2) of a descriptor: what was written is committed as configured. Raises what the commit raises.

        What was only truncated is promised by the first one, which a shell makes before it writes, and committed by
        the next, or the release.
        """
        handle = self._handles.file(fh)
        file, draft = handle.file, handle.file.draft
        if not handle.changed or draft is None:
            return
        if file.life is Life.CHANGED_ELSEWHERE:
            handle.changed = False
            raise changed_elsewhere(file)
        if draft.written or handle.sealed:
            handle.changed = handle.sealed = False
            await self._in_time(file, "commit", partial(self._editing.commit_as_configured, file))
        else:
            handle.sealed = True
            await self._editing.promise(file)

    async def release(self, fh: int) -> None:
        """The handle is closed. What it still owes is committed; nobody hears of errors but the log."""
        handle = self._handles.pop(fh)
        assert isinstance(handle, FileHandle)
        file = handle.file
        try:
            if handle.changed and file.draft is not None:
                with suppress(DepotError, OSError):  # said where it happened; the bytes are in the spool
                    await self._editing.commit_as_configured(file)
        finally:
            file.handles -= 1
            file.volume.settle(file)

    async def fsync(self, fh: int) -> None:
        """The storage has the bytes, durably; of a scratch name: the spool has them, durably."""
        file = self._handles.file(fh).file
        await self._in_time(file, "fsync", partial(self._editing.sync, file))

    async def unlink(self, parent: int, name: bytes, pid: int) -> None:
        """Raises FileNotStored, AccessDenied, ReadOnly, StorageUnavailable …; then nothing has changed.

        NotPermitted: by its id, from a process group that used the file by its plain name. That is a mirroring
        tool, which sees ids where it wrote names, and deletes what it has just copied.
        """
        directory, volume = self._volume(parent, change=True)
        file = await lookup.find(volume, name)
        if file is None:
            raise FileNotStored(f"{volume.name}/{name!r} does not exist")
        group = _process_group(pid)
        if volume.rules.parse(name).kind is Kind.ID and group >= 0 and file.was_used_by(group):
            self._removing.note_refused(directory.name, file, group)
            raise NotPermitted(f"{volume.name}/{file.file_id} was used by its plain name by the same process group")
        await self._in_time(file, "unlink", partial(self._removing.unlink, file))
        volume.note_names_changed()
        self._forget_names(file, but=(directory.node_id, name))

    async def _in_time(self, file: File, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """A change of a stored file, answered within the storage's deadline; see `depotfs.vfs.deadlines`."""

        async def pinned() -> None:
            with file.volume.pinned(file):
                await work()

        await self._answer(file.volume, f"{what} of {file.volume.name}/{file.file_id}", pinned, file.size)

    async def _answer(self, volume: Volume, what: str, work: Callable[[], Awaitable[T]], size: int) -> T:
        if volume.remote.inline:
            return await work()
        return await self._deadlines.answer_within(volume.remote.deadline + size / BYTES_PER_SECOND, work, what)

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, *, replace: bool, pid: int
    ) -> None:
        """Raises OtherStorage, AlreadyStored (not `replace`), and what commits raise; then nothing has changed."""
        directory, volume = self._volume(parent, change=True)
        new_directory, new_volume = self._volume(new_parent, change=True)
        if volume is not new_volume:
            raise OtherStorage(f"{directory.name} and {new_directory.name} are different storages")
        source = lookup.last_seen(volume, name)
        work = partial(self._renaming.rename, volume, name, new_name, replace=replace)
        what = f"rename of {volume.name}/{name!r} to {new_name!r}"
        try:
            moved, replaced = await self._answer(volume, what, work, source.size if source is not None else 0)
        except BaseException:
            # How far it came the kernel has to ask.
            self._notifier.entry_gone(directory.node_id, name)
            self._notifier.entry_gone(new_directory.node_id, new_name)
            raise
        volume.note_names_changed()
        if replaced is not None:
            self._forget_names(replaced, but=(new_directory.node_id, new_name))
        self._forget_names(moved, but=(directory.node_id, name))
        moved.names.add((new_directory.node_id, new_name))
        if volume.rules.parse(new_name).kind is Kind.PLAIN:
            moved.note_use(_process_group(pid))

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
        start = index
        while True:
            try:
                entry = await handle.listing.at(index)
            except (DepotError, OSError):
                if index == start:
                    raise
                return  # what was handed over is the kernel's; the next call tells
            if entry is None:
                return
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

            def wanted(owing: Owing) -> bool:
                return isinstance(owing, File) and owing.volume is volume and owing.scratch is None

            failed = await self.committer.queue.drain(wanted)
            if failed:
                raise StorageUnavailable(f"{failed} commits of {volume.name} failed, see the lines before")

    async def statfs(self) -> os.statvfs_result:
        """Of the file system that new content goes to first, the default storage's own or the spool's.

        No more is free than the spool's limit leaves. StorageUnavailable past the deadline: it may hang.
        """
        remote = next(iter(self.volumes.values())).remote
        found = await remote.ask(lambda: os.statvfs(remote.storage.disk_path() or self._spool.directory))
        return found if self._spool.room is None else disk.limit_free(found, self._spool.room)

    # --- the end -----------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Every commit that was to come was made, or failed once more; nothing that was answered late is under way."""
        async with trio.open_nursery() as nursery:
            for volume in self.volumes.values():
                nursery.start_soon(volume.remote.health.look)
        await self.committer.queue.drain(lambda _owing: True)
        await self._deadlines.wait_all()

    async def finish(self) -> None:
        """Unmounted: what the kernel did not live to release is released, then as `drain`.

        Only files without written bytes: their close(2) has returned, or nothing is lost. Bytes of a file that is
        still open were never closed or synced; they stay in the spool for a person.
        """
        for fh, handle in self._handles.files():
            if handle.file.draft is None or not handle.file.draft.written:
                await self.release(fh)
        await self.drain()

    def check_invariants(self) -> None:
        """AssertionError if any part contradicts itself."""
        for volume in self.volumes.values():
            volume.check_invariants()
        open_files = [handle.file for _, handle in self._handles.files()]
        for file in self._table.files():
            assert file.handles >= open_files.count(file), file


def _process_group(pid: int) -> int:
    """The process group of whoever made the request; of one that is gone or in another PID namespace, -1."""
    try:
        return os.getpgid(pid) if pid else -1
    except ProcessLookupError:
        return -1
