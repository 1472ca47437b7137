"""Changes of one file's content and time, and what a close owes after them."""

from __future__ import annotations

from depotfs.errors import FileNotStored, Stale, VersionChanged
from depotfs.io.times import from_datetime, to_datetime
from depotfs.vfs import tree
from depotfs.vfs.commits import Commits, Destination
from depotfs.vfs.dirty import Dirty
from depotfs.vfs.nodes import FileNode, Life
from depotfs.vfs.writing import Writing


class Changes:
    """Makes files writable and changes them; commits them as their storage is configured."""

    def __init__(self, writing: Writing, commits: Commits) -> None:
        self._writing = writing
        self._commits = commits

    async def truncate(self, node: FileNode, size: int, *, commit: bool) -> None:
        """The file has that size, and if `commit`, the storage has it too, as a close would see to. TooLarge, Stale."""
        node.volume.check_size(size)
        if node.life is Life.LIVE:
            await tree.refresh(node)
        elif node.life is Life.OVERTAKEN or not node.handles:
            raise Stale(f"{node.volume.name}/{node.file_id} was {node.life.value}")
        dirty = await self.writable(node, keep=min(size, node.size))
        if dirty.file.size != size or not dirty.changed:
            dirty.truncate(size)
        if commit:
            await self.commit_as_configured(node)

    async def touch(self, node: FileNode, modified: int) -> None:
        """It was last modified then (seconds since the epoch): in the storage, or with the commit to come. Stale …"""
        modified = from_datetime(to_datetime(modified))  # what can be stored, so that it shows no other time later
        async with node.lock:
            volume = node.volume
            if node.dirty is not None or node.life is not Life.LIVE:
                if node.dirty is not None and node.dirty.changed and node.life is Life.LIVE:
                    scheduled = self._commits.pending.is_scheduled(node)
                    node.dirty.touch(modified)
                    if scheduled:
                        self._commits.seal(node, node.dirty.file.target.name)
                elif node.dirty is not None:
                    node.dirty.modified = modified
                return
            if node.stat is None or not volume.remote.inline:
                await tree.refresh_locked(node)
            assert node.stat is not None
            if node.stat.metadata.modified == modified:
                return
            volume.disturb(node.file_id)
            try:
                volume.know(node, await volume.remote.update(node.stat, modified=modified))
            except (VersionChanged, FileNotStored) as error:
                volume.end(node, Life.OVERTAKEN)
                raise Stale(str(error)) from error
            finally:
                volume.disturb(node.file_id)

    async def writable(self, node: FileNode, keep: int | None) -> Dirty:
        """The node's dirty content, with no commit of it under way. It may be longer than `keep` (None: all of it)."""
        await self._own_content(node)
        while True:
            if node.dirty is None:
                await self._writing.begin(node, keep, base=node.stat if node.stored else None)
            elif node.dirty.frozen:
                async with node.lock:
                    pass
            elif node.dirty.acknowledged:
                await self._writing.renew(node, keep)
            else:
                return node.dirty

    async def _own_content(self, node: FileNode) -> None:
        """A file renamed to a scratch name, that the storage still has under its id, is about to be changed."""
        volume = node.volume
        if node.scratch is None or volume.hidden.get(node.file_id) is not node:
            return
        async with node.lock:
            file_id = node.file_id
            await self._commits.detach_hidden(node)
            if volume.needed_by_another(node, file_id):  # made again already: what is stored is that one's to replace
                return
            volume.disturb(file_id)
            try:
                await volume.remote.remove(file_id)
            finally:
                volume.disturb(file_id)

    async def commit_as_configured(self, node: FileNode) -> None:
        """What a close owes: a commit now, or a promise of one that survives a crash."""
        dirty = node.dirty
        if dirty is None or not dirty.changed or node.life is not Life.LIVE:
            return
        if node.scratch is None and not node.volume.options.background:
            await self._commits.commit(node)
            return
        async with node.lock:
            if node.dirty is dirty and node.life is Life.LIVE:
                try:
                    await self._promise(node, dirty)
                except Exception as error:
                    self._commits.failed(node, dirty, error)
                    raise

    async def _promise(self, node: FileNode, dirty: Dirty) -> None:
        if node.scratch is not None:
            self._commits.defer(node, dirty.file.target.name)
        else:
            await self._commits.seal_durably(node, Destination.own(node, dirty))
            self._commits.pending.schedule(node, 0)

    async def sync(self, node: FileNode) -> None:
        """The storage has the bytes, durably; of a scratch name: the spool has them, durably. As `Commits.commit`."""
        if node.life is Life.OVERTAKEN and node.dirty is not None:
            raise overtaken(node)
        if node.life is not Life.LIVE:
            return
        if node.scratch is not None and node.dirty is not None:
            async with node.lock:
                if node.dirty is not None and node.life is Life.LIVE:
                    await self._commits.seal_durably(node, Destination.own(node, node.dirty))
            return
        await self._commits.commit(node)
        if node.volume.remote.inline and node.stat is not None and node.scratch is None:
            await node.volume.remote.sync(node.file_id)


def overtaken(node: FileNode) -> Stale:
    """What to raise about a file whose bytes cannot become what the storage has."""
    return Stale(f"{node.volume.name}/{node.file_id} was replaced by somebody else, or could not be stored")
