"""rename(2): the matrix of what a name is and what it becomes."""

from __future__ import annotations

import dataclasses
import uuid

from depotfs.errors import AlreadyStored, DepotError, FileNotStored, InvalidName, VersionChanged
from depotfs.types import ABSENT, FileId
from depotfs.vfs import tree
from depotfs.vfs.commits import Commits, Destination
from depotfs.vfs.names import Kind, Name
from depotfs.vfs.nodes import FileNode, Life
from depotfs.vfs.removals import Removals
from depotfs.vfs.volume import Volume
from depotfs.vfs.writing import Writing


class Renames:
    """Renames within one storage.

    Every method leaves everything as it was when it raises; but where the target was replaced already and the old
    name cannot be removed, both are there.
    """

    def __init__(self, writing: Writing, commits: Commits, removals: Removals) -> None:
        self._writing = writing
        self._commits = commits
        self._removals = removals

    async def rename(
        self, volume: Volume, old: bytes, new: bytes, *, replace: bool
    ) -> tuple[FileNode, FileNode | None]:
        """`new` leads to what `old` led to. Returns the moved node and the one it replaced, if any.

        Args:
            replace: an existing `new` is replaced; else AlreadyStored.
        Raises: FileNotStored, InvalidName, and what commits, copies and removals raise.
        """
        async with volume.renaming:
            return await self._rename(volume, old, new, replace=replace)

    async def _rename(
        self, volume: Volume, old: bytes, new: bytes, *, replace: bool
    ) -> tuple[FileNode, FileNode | None]:
        source = await tree.find(volume, old)
        if source is None:
            raise FileNotStored(f"{volume.name}/{old!r} does not exist")
        with volume.pinned(source):
            return source, await self._rename_node(source, new, replace=replace)

    async def _rename_node(self, source: FileNode, new: bytes, *, replace: bool) -> FileNode | None:
        volume = source.volume
        name = volume.rules.parse(new)
        if not name.ids:
            raise InvalidName(f"{name.text} is an id in another spelling than it is stored")
        target = await tree.find(volume, new)
        if target is source:
            return None
        if target is not None and not replace:
            volume.settle(target)
            raise AlreadyStored(f"{volume.name}/{name.text} exists")
        with volume.pinned(target):
            if target is not None:
                await tree.refresh(target)
            if name.kind is Kind.SCRATCH and not (target is not None and target.scratch is None):
                await self._to_scratch(source, new, name, target)
            else:
                await self._to_stored(source, name, target, replace=replace)
        return target

    # --- to a scratch name -----------------------------------------------------------------------------------------

    async def _to_scratch(self, source: FileNode, raw: bytes, name: Name, target: FileNode | None) -> None:
        if source.dirty is not None and source.dirty.base is not None:
            await self._commits.commit(source)
        if target is not None:
            await self._removals.unlink(target)
        async with source.lock:  # a commit to where it was has ended
            self._call_scratch(source, raw, name)
            if source.dirty is not None:
                await self._commits.take_back(source.volume, source.dirty, source.file_id)

    def _call_scratch(self, source: FileNode, raw: bytes, name: Name) -> None:
        volume, own = source.volume, source.file_id
        if not source.stored:
            self._promise_scratch(source, name)
            source.groups = frozenset()
        if source.scratch is not None:
            del volume.scratch[source.scratch]
        elif volume.nodes.get(own) is source:
            del volume.nodes[own]
        source.scratch = raw
        volume.scratch[raw] = source
        volume.disturb(own)
        if source.stored:
            volume.hidden[own] = source

    def _promise_scratch(self, source: FileNode, name: Name) -> None:
        """What is not stored yet is journalled under its new name. SpoolFull, OSError: nothing has changed."""
        own, dirty = source.file_id, source.dirty
        base = dirty.base if dirty is not None else None
        self._commits.move_unstored(source, name.ids[0])
        if dirty is None:
            return
        try:
            if source.handles and not self._commits.pending.is_scheduled(source):
                self._commits.retarget(source, name.text)
            else:
                self._commits.defer(source, name.text)
        except BaseException:
            source.move_to(own)
            dirty.base = base
            raise

    # --- to an id or a plain name ----------------------------------------------------------------------------------

    async def _to_stored(self, source: FileNode, name: Name, target: FileNode | None, *, replace: bool) -> None:
        """Lock order: the target's, then the source's; a commit of the target may be waiting for a hidden source."""
        if target is None:
            await self._replace(source, name, None, replace=replace)
            return
        async with target.lock:
            try:
                await self._writing.preserve(target)
                await self._replace(source, name, target, replace=replace)
            except BaseException:
                self._writing.give_back(target)
                target.fresh_until = -1.0  # it may have been replaced all the same
                raise

    async def _replace(self, source: FileNode, name: Name, target: FileNode | None, *, replace: bool) -> None:
        volume = source.volume
        hidden = next((volume.hidden[file_id] for file_id in name.ids if file_id in volume.hidden), None)
        replaced = target if target is not None else hidden
        file_id = replaced.file_id if replaced is not None else name.ids[0]
        base = replaced.base if replaced is not None else None
        called = name.text if name.kind is not Kind.ID else None
        async with source.lock:
            if hidden is source and file_id == source.file_id:
                pass  # it gets its own id back: nothing ever happened in the storage
            elif volume.options.background and source.dirty is not None and source.base is None:
                await self._commits.seal_durably(source, Destination(file_id, base, called))
                source.dirty.base = base
                if target is not None and target.dirty is not None:
                    source.dirty.supersede(target.dirty)
                await self._commits.take_back(volume, source.dirty, file_id)
                self._commits.pending.schedule(source, 0)
            else:
                over = target.dirty if target is not None else None
                left = await self._move_again(source, Destination(file_id, base, called, over), replace=replace)
                self._take_place(source, target, file_id)
                if left is not None:
                    raise left
                return
            self._take_place(source, target, file_id)

    async def _move_again(self, source: FileNode, destination: Destination, *, replace: bool) -> Exception | None:
        """As `_move`; a target that changed meanwhile is replaced as it is now, which is what rename(2) means."""
        attempts = 3 if replace else 1
        while True:
            attempts -= 1
            try:
                return await self._move(source, destination)
            except (AlreadyStored, VersionChanged):
                if not attempts:
                    raise
                current = await source.volume.ask(destination.file_id)
                destination = dataclasses.replace(destination, base=current)

    async def _move(self, source: FileNode, destination: Destination) -> Exception | None:
        """The storage has the source's content under the destination's id, and nothing under its own.

        Returns: why something is left under its own all the same, or what is stored may not outlast a loss of power,
            where that cannot be undone any more.
        """
        volume, own = source.volume, source.base
        dirty = source.dirty
        left: Exception | None = None
        if dirty is not None and dirty.changed:
            name, scheduled = dirty.file.target.name, self._commits.pending.is_scheduled(source)
            try:
                left = await self._commits.store(source, dirty, destination)
            except BaseException:
                self._commits.put_back(source, name, scheduled=scheduled)
                raise
        else:
            await self._copy(source, destination)
        if own is None or own.file_id == destination.file_id or volume.needed_by_another(source, own.file_id):
            return left
        volume.disturb(own.file_id)
        try:
            await volume.remote.remove(own.file_id, expect=own.version)
        except VersionChanged:
            pass  # what was moved is gone from there; what came instead is somebody else's
        except (DepotError, OSError) as error:
            if destination.base is not None or dirty is not None:
                return error
            try:
                await volume.remote.remove(destination.file_id)
            except (DepotError, OSError):
                return error  # then there are two
            volume.know(source, own)
            raise
        finally:
            volume.disturb(own.file_id, destination.file_id)
        return left

    async def _copy(self, source: FileNode, destination: Destination) -> None:
        volume = source.volume
        await tree.refresh_locked(source)
        await self._commits.keep_hidden(source, destination.file_id)
        assert source.stat is not None
        commit = uuid.uuid4().hex
        if destination.over is not None:
            destination.over.attempts.add(commit)
        volume.disturb(destination.file_id)
        try:
            stat = await volume.remote.copy(
                source.stat,
                destination.file_id,
                destination.metadata(source.stat.metadata.modified),
                expect=destination.base.version if destination.base else ABSENT,
                commit=commit,
            )
        finally:
            volume.disturb(destination.file_id)
        if source.reading is not None and source.reading.fd is None:
            source.reading.close()  # the same bytes are read from where they are now
            source.reading = None
        volume.know(source, stat)

    def _take_place(self, source: FileNode, target: FileNode | None, file_id: FileId) -> None:
        """The source is the live node of that id."""
        volume = source.volume
        if target is not None:
            self._removals.end(target, Life.REPLACED)
        for table in (volume.nodes, volume.hidden):
            if table.get(source.file_id) is source:
                del table[source.file_id]
        if source.scratch is not None:
            del volume.scratch[source.scratch]
            source.scratch = None
        source.move_to(file_id)
        source.groups = frozenset()  # by a plain name that leads elsewhere now
        volume.nodes[file_id] = source
