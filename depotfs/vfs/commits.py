"""Commits: dirty bytes become what the storage has."""

from __future__ import annotations

import logging
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from depotfs.errors import AlreadyStored, DepotError, FileNotStored, VersionChanged, mark_reported
from depotfs.io.content import FileContent
from depotfs.io.utils import guess_type
from depotfs.remote.workers import in_thread
from depotfs.spool import Spool, SpoolFile, State, Target
from depotfs.types import ABSENT, OCTET_STREAM, UNNAMED, FileId, FileMetadata, FileStat
from depotfs.vfs.dirty import Dirty, SpoolReader
from depotfs.vfs.nodes import FileNode, Life
from depotfs.vfs.pending import Pending
from depotfs.vfs.reading import Reading
from depotfs.vfs.volume import Volume
from depotfs.vfs.writing import Writing

_log = logging.getLogger(__name__)

_SMALL: Final = 1 << 20
"""Bytes whose copying takes no longer than handing it to a thread."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a commit goes.

    Attributes:
        base: what is stored there and will be replaced, None for nothing: the commit is conditional on that.
        name: the plain or scratch name that the content is to be called by, None if only by its id.
        over: what waits there for a commit of its own; if this one fails it replaces what landed unheard all the same.
    """

    file_id: FileId
    base: FileStat | None
    name: str | None
    over: Dirty | None = None

    @classmethod
    def own(cls, node: FileNode, dirty: Dirty) -> Destination:
        """Where the node is now."""
        return cls(node.file_id, dirty.base, dirty.file.target.name)

    def metadata(self, modified: int) -> FileMetadata:
        """Filename and type: of what is replaced, else from the name, else filedepot's defaults."""
        if self.base is not None:
            return FileMetadata(self.base.metadata.filename, self.base.metadata.content_type, modified)
        if self.name is not None:
            return FileMetadata(self.name, guess_type(self.name) or OCTET_STREAM, modified)
        return FileMetadata(UNNAMED, OCTET_STREAM, modified)


class Commits:
    """Commits nodes, at once or later, and remembers those that are still to come."""

    def __init__(self, spool: Spool, writing: Writing) -> None:
        self.spool = spool
        self.writing = writing
        self.pending = Pending(self._commit_pending)

    async def commit(self, node: FileNode) -> None:
        """The storage has what this mount shows of the node.

        Raises:
            VersionChanged, AlreadyStored: somebody else was first; the node's life is over and the bytes are held.
            DepotError, OSError: the bytes stay in the spool, and are tried again if that can help.
        """
        async with node.lock:
            await self._commit(node)

    async def _commit(self, node: FileNode) -> None:
        dirty = node.dirty
        if dirty is None or not dirty.changed or node.life is not Life.LIVE:
            return
        dirty.places.add(node.file_id)
        try:
            left = await self.store(node, dirty, Destination.own(node, dirty))
        except (AlreadyStored, VersionChanged) as error:
            self._hold(node, dirty, error)
            raise
        except Exception as error:
            self.failed(node, dirty, error)
            raise
        self._unscratch(node)
        if left is not None:
            raise left

    async def store(self, node: FileNode, dirty: Dirty, destination: Destination) -> Exception | None:
        """As `commit`, to any place in the same storage; the node's lock is held. The node itself is not moved.

        Returns: why what is stored may not outlast a loss of power; it is told to whoever waits for the commit.
        Raises: as `commit`; nothing has changed but where the journal says the bytes go, the caller decides.
        """
        volume = node.volume
        left: Exception | None = None
        self.pending.cancel(node)
        with dirty.freeze():
            await self.keep_hidden(node, destination.file_id)
            dirty.file.seal(self._target(node, dirty, destination), durable=False)
            if destination.over is not None:
                destination.over.attempts.add(dirty.file.target.commit)
            dirty.written = False
            volume.disturb(destination.file_id)
            try:
                stat = await self._put_or_find(node, dirty)
            except Exception as error:
                stat = await self._taken(node, dirty, error)
                left = error
            finally:
                volume.disturb(destination.file_id)
        self._stored(node, dirty, stat)
        await self.take_back(volume, dirty, stat.file_id)
        return left

    async def _taken(self, node: FileNode, dirty: Dirty, error: Exception) -> FileStat:
        """What the storage has, if it had taken the spool's file itself when it failed: no other is left to try with.

        Raises: `error`, if it had not; or if it does not tell what it has: who looks the name up finds out.
        """
        if dirty.file.state is not State.DONE:
            raise error
        found = None
        with suppress(Exception):
            found = await self.find_landed(node.volume, dirty.file)
        self._report(node, dirty, error, "the storage's, where a loss of power may undo it")
        if found is None:
            self._give_up(node, dirty)
            raise error
        return found

    async def take_back(self, volume: Volume, dirty: Dirty, own: FileId) -> None:
        """What landed, unheard, where the file was before it was `own` is gone; it stays if the storage fails now."""
        for file_id in dirty.places - {own}:
            volume.disturb(file_id)
            try:
                found = await volume.remote.find(file_id)
                if found is not None and found.commit in dirty.attempts:
                    await volume.remote.remove(file_id, expect=found.version)
            except (DepotError, OSError) as error:
                _log.warning("%s/%s may be stored a second time as %s: %s", volume.name, own, file_id, error)
            finally:
                volume.disturb(file_id)

    async def _put_or_find(self, node: FileNode, dirty: Dirty) -> FileStat:
        """The put, unless an earlier attempt landed without our hearing of it."""
        target = dirty.file.target
        if dirty.failures and (found := await self.find_landed(node.volume, dirty.file)):
            await node.volume.remote.sync(found.file_id)  # which may be what had failed
            return found
        try:
            return await self._put(node, dirty, target)
        except (AlreadyStored, VersionChanged):
            found = await node.volume.remote.find(target.file_id)
            if found is None or found.commit not in dirty.attempts:
                raise
        # What is there is an older state of this very file, stored by us: the terms are those of before.
        dirty.file.seal(replace(target, expect=found.version), durable=False)
        return await self._put(node, dirty, dirty.file.target)

    async def _put(self, node: FileNode, dirty: Dirty, target: Target) -> FileStat:
        file = dirty.file
        content = FileContent(file.path, file.fd, file.size, movable=file.staged)
        metadata = FileMetadata(target.filename, target.content_type, target.modified or dirty.modified)
        dirty.attempts.add(target.commit)
        try:
            return await node.volume.remote.put(
                content,
                metadata,
                file_id=target.file_id,
                expect=target.expect,
                commit=target.commit,
                # A replace flushes the new content before it gives up the old: that may take long.
                quick=target.expect == ABSENT and (file.staged or file.size <= _SMALL),
            )
        finally:
            if content.moved:
                file.committed(moved=True)

    def _stored(self, node: FileNode, dirty: Dirty, stat: FileStat) -> None:
        """The storage has it; who has the file open goes on reading the bytes from the spool's descriptor."""
        dirty.file.committed()
        dirty.keep_promise()
        node.dirty = None
        if node.reading is not None:
            node.reading.close()
            node.reading = None
        if node.handles:
            node.reading = Reading(node.volume.remote, SpoolReader(dirty.file, stat), self.writing.cache)
        else:
            dirty.file.close()
        node.volume.know(node, stat)

    def _target(self, node: FileNode, dirty: Dirty, destination: Destination) -> Target:
        metadata = destination.metadata(dirty.modified)
        last = dirty.file.target
        expect = destination.base.version if destination.base else ABSENT
        # The same bytes on the same terms are the same commit, so that a repetition finds itself.
        terms = (destination.file_id, expect, metadata.modified)
        same = dirty.file.state is State.SEALED and (last.file_id, last.expect, last.modified) == terms
        return Target(
            storage=node.volume.name,
            identity=node.volume.remote.identity,
            file_id=destination.file_id,
            name=destination.name,
            filename=metadata.filename,
            content_type=metadata.content_type,
            modified=metadata.modified,
            expect=expect,
            commit=last.commit if same and last.commit else uuid.uuid4().hex,
        )

    async def keep_hidden(self, node: FileNode, file_id: FileId) -> None:
        """A file that was renamed to a scratch name is about to be replaced in the storage: its bytes are kept."""
        hidden = node.volume.hidden.get(file_id)
        if hidden is None or hidden is node:
            return
        with node.volume.pinned(hidden):
            async with hidden.lock:
                await self.detach_hidden(hidden)

    async def detach_hidden(self, hidden: FileNode) -> None:
        """The scratch file has its content in the spool and needs the storage's no longer; its lock is held."""
        volume = hidden.volume
        if volume.hidden.get(hidden.file_id) is not hidden or hidden.scratch is None:
            return
        if hidden.dirty is None:
            await self.writing.take(hidden)
        assert hidden.dirty is not None
        del volume.hidden[hidden.file_id]
        name = hidden.scratch.decode()
        self.move_unstored(hidden, volume.rules.parse(hidden.scratch).ids[0])
        hidden.stat = None
        hidden.dirty.changed = True
        self.defer(hidden, name)

    @staticmethod
    def move_unstored(node: FileNode, file_id: FileId) -> None:
        """What is not stored yet goes by that id: it will replace what a file with a scratch name still has there."""
        node.move_to(file_id)
        if node.dirty is not None:
            hidden = node.volume.hidden.get(file_id)
            node.dirty.base = None if hidden is None else hidden.base

    def defer(self, node: FileNode, name: str | None) -> None:
        """The bytes are journalled, and are committed after the storage's scratch delay."""
        self.seal(node, name)
        self.pending.schedule(node, node.volume.options.scratch_delay)

    def seal(self, node: FileNode, name: str | None) -> None:
        """The bytes are promised to land where the node is now, after a crash of the daemon too."""
        dirty = node.dirty
        assert dirty is not None
        dirty.file.seal(self._target(node, dirty, Destination(node.file_id, dirty.base, name)), durable=False)
        dirty.acknowledge()

    async def seal_durably(self, node: FileNode, destination: Destination) -> None:
        """The bytes are promised to land there, after a loss of power too; the node's lock is held."""
        dirty = node.dirty
        assert dirty is not None
        target = self._target(node, dirty, destination)
        with dirty.freeze():
            await in_thread(partial(dirty.file.seal, target, durable=True))
        dirty.acknowledge()

    def put_back(self, node: FileNode, name: str | None, *, scheduled: bool) -> None:
        """What was to be stored elsewhere was not: it goes where it would have gone before; its lock is held."""
        dirty = node.dirty
        if dirty is None or dirty.file.state is State.DONE:
            return
        if node.scratch is not None:
            self.defer(node, node.scratch.decode())
            return
        if scheduled:
            self.pending.schedule(node, dirty.retry_delay)
        self.retarget(node, name)

    def retarget(self, node: FileNode, name: str | None) -> None:
        """A file that is open for writing goes by another id or name now: so does what a crash would leave."""
        dirty = node.dirty
        assert dirty is not None
        target = self._target(node, dirty, Destination(node.file_id, dirty.base, name))
        if dirty.promise is not None:
            dirty.promise.retarget(replace(target, commit=dirty.promise.target.commit))
        dirty.file.retarget(target)  # the later state, so it has the later record

    async def _commit_pending(self, node: FileNode) -> bool:
        """A commit whose time has come, unless the bytes are being changed again. False: it failed, the log says so."""
        try:
            async with node.lock:
                if node.dirty is not None and node.dirty.due:
                    await self._commit(node)
        except (DepotError, OSError):
            return False
        node.volume.settle(node)
        return True

    @staticmethod
    def _unscratch(node: FileNode) -> None:
        """A scratch file that was stored is a stored file like any other."""
        volume = node.volume
        if node.scratch is None:
            return
        del volume.scratch[node.scratch]
        node.scratch = None
        volume.nodes[node.file_id] = node

    # --- failures ------------------------------------------------------------------------------------------------

    def _hold(self, node: FileNode, dirty: Dirty, error: DepotError) -> None:
        """Trying again cannot help, as where somebody else was first: readers see theirs, ours wait for a person."""
        dirty.file.hold(str(error))
        dirty.keep_promise()
        self._report(node, dirty, error, "kept in the spool")
        self._give_up(node, dirty)

    def failed(self, node: FileNode, dirty: Dirty, error: Exception) -> None:
        """A commit, or the promise of one, failed: it is made again later, or waits for a person; its lock is held.

        Where the storage took the file, there is nothing to make again.
        """
        if dirty.file.state is State.DONE:
            return
        if isinstance(error, DepotError) and not error.transient:
            self._hold(node, dirty, error)
            return
        dirty.failures += 1
        dirty.written = True  # the close of another handle that wrote has to hear of it too
        delay = dirty.retry_delay if node.scratch is None else node.volume.options.scratch_delay
        self._report(node, dirty, error, f"kept in the spool and tried again in {delay:g} s")
        self.pending.schedule(node, delay)

    @staticmethod
    def _give_up(node: FileNode, dirty: Dirty) -> None:
        node.dirty = None
        if node.handles:
            # Handles go on reading what they wrote; nothing of it is committed any more.
            node.dirty = dirty
        else:
            dirty.file.close()
        node.volume.end(node, Life.OVERTAKEN)
        node.volume.settle(node)

    @staticmethod
    def _report(node: FileNode, dirty: Dirty, error: Exception, what_now: str) -> None:
        mark_reported(error)
        _log.warning(
            "commit of %s/%s (%s, %d bytes) failed: %s; spool file %d is %s",
            node.volume.name, node.file_id, dirty.file.target.filename, dirty.file.size, error,
            dirty.file.number, what_now,
        )  # fmt: skip

    # --- after a restart -------------------------------------------------------------------------------------------

    async def find_landed(self, volume: Volume, file: SpoolFile) -> FileStat | None:
        """What the storage has, if that is this very commit, made without anybody living to hear of it."""
        target = file.target
        found = await volume.remote.find(target.file_id)
        if found is None or found.size != file.size:
            return None
        if found.commit:
            return found if found.commit == target.commit else None
        return found if await self._same_bytes(volume, file, found) else None

    async def _same_bytes(self, volume: Volume, file: SpoolFile, found: FileStat) -> bool:
        try:
            reader = await volume.remote.open_content(found)
        except (FileNotStored, VersionChanged):
            return False
        reading = Reading(volume.remote, reader, self.writing.cache)
        try:
            for offset in range(0, file.size, 1 << 20):
                if bytes(await reading.read(offset, 1 << 20)) != file.pread(1 << 20, offset):
                    return False
        finally:
            reading.close()
        return True
