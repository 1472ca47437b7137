"""Making a file's content writable: a spool file that holds all of it."""

from __future__ import annotations

import errno
import os
from typing import Final

import trio

from depotfs.cache import BlockCache
from depotfs.errors import FileNotStored, Stale, VersionChanged
from depotfs.remote.workers import in_thread
from depotfs.spool import Spool, SpoolFile, State, Target
from depotfs.types import ABSENT, OCTET_STREAM, UNNAMED, FileStat
from depotfs.vfs.dirty import Dirty
from depotfs.vfs.nodes import FileNode, Life
from depotfs.vfs.reading import Reading
from depotfs.vfs.volume import Volume

_PIECE: Final = 8 << 20
"""Bytes fetched at once from a storage: what its ranged reads are best at."""

_TIDY_AFTER: Final = 0.25
"""Seconds for which an empty staging directory stays: a copy of many files makes and removes it rarely."""
_TIDY_AT_LEAST: Final = 5.0
"""Seconds between two looks at a staging directory that something stays in."""


class Writing:
    """Opens content for reading, and copies it into the spool for writing."""

    def __init__(self, spool: Spool, cache: BlockCache) -> None:
        self.spool = spool
        self.cache = cache
        self._staging: dict[Volume, str] = {}
        self._staged = trio.Event()

    def stage(self, volume: Volume) -> str | None:
        """The storage's staging directory, as long as something comes to be or goes there every now and then."""
        directory = volume.remote.storage.staging_directory()
        if directory is not None and volume not in self._staging:
            self._staging[volume] = directory
            self._staged.set()
        return directory

    async def tidy(self) -> None:
        """Staging directories are left soon after nothing is in them any more; until cancelled."""
        delay = _TIDY_AFTER
        while True:
            await self._staged.wait()
            await trio.sleep(delay)
            left = [volume for volume, directory in self._staging.items() if not self.spool.has_staged(directory)]
            for volume in left:
                del self._staging[volume]
                volume.remote.storage.leave_staging()
            # A file that is held for a person may stay there for days.
            delay = _TIDY_AFTER if left else min(2 * delay, _TIDY_AT_LEAST)
            if not self._staging:
                self._staged = trio.Event()

    async def open_reading(self, node: FileNode) -> Reading | None:
        """The node's content of `node.stat` is open; None: it came into the spool meanwhile.

        Raises: VersionChanged, FileNotStored: it is gone.
        """
        while node.reading is None and node.stat is not None:
            stat, remote = node.stat, node.volume.remote
            try:
                reader = await remote.open_content(stat)
            except (FileNotStored, VersionChanged):
                if node.stat is stat:
                    raise
                continue
            if node.reading is not None or node.stat is not stat:
                reader.close()
                continue
            node.reading = Reading(remote, reader, self.cache)
        return node.reading

    async def begin(self, node: FileNode, keep: int | None, *, base: FileStat | None, name: str | None = None) -> Dirty:
        """The node is dirty, its spool file holding the first `keep` bytes of what it was (None: all).

        One that became dirty meanwhile is left as it is: those bytes may be a promise by now.
        Takes the node's lock: a commit under way ends first, and what it stored is what is copied.

        Args:
            base: what is stored under its id, None for nothing.
            name: the plain or scratch name that a new file is made by.

        Raises: Stale (the content was replaced from outside), StorageUnavailable …, SpoolFull, OSError.
        """
        async with node.lock:
            if node.dirty is not None:
                return node.dirty
            if node.life is Life.OVERTAKEN:
                raise Stale(f"File {node.file_id} was replaced in {node.volume.remote.identity}")
            size = node.size if keep is None else min(keep, node.size)
            node.volume.check_size(size)
            if node.stat is not None and base is not None:
                base = node.stat  # a commit that ended meanwhile is what this is based on
            node.dirty = Dirty(await self._spooled(node, size, base, name), base, changed=base is None)
            if node.life is not Life.LIVE:
                node.dirty.file.discard()
            return node.dirty

    def create(self, node: FileNode, base: FileStat | None, name: str | None) -> None:
        """A new file is dirty and empty. SpoolFull, OSError of the disk."""
        node.dirty = Dirty(self._new_file(node.volume, node, base, name), base, changed=True)

    async def take(self, node: FileNode) -> Dirty:
        """The node is dirty with what the storage has of it; nothing is to be committed. Its lock is held."""
        node.dirty = Dirty(await self._spooled(node, node.size, node.stat, None), node.stat, changed=False)
        return node.dirty

    async def preserve(self, node: FileNode) -> None:
        """Its open handles go on reading this content whatever becomes of the storage: it is on this disk.

        Call it with the node's lock held, before the storage's content is deleted or replaced.
        """
        if node.dirty is not None or node.stat is None or not node.handles:
            return
        reading = await self.open_reading(node)
        assert reading is not None
        if reading.fd is None and not node.volume.remote.inline:
            (await self.take(node)).file.discard()

    async def renew(self, node: FileNode, keep: int | None) -> None:
        """What was acknowledged of the node's dirty bytes stays as it is; a copy takes the changes that come.

        Args:
            keep: bytes that are not cut off right away, None for all.
        """
        async with node.lock:
            dirty = node.dirty
            if dirty is None or not dirty.acknowledged:
                return
            old = dirty.file
            size = old.size if keep is None else min(keep, old.size)
            file = self._new_file(node.volume, node, dirty.base, old.target.name)
            try:
                await _copy(old.fd, file, size)
            except BaseException:
                file.discard()
                file.close()
                raise
            dirty.continue_in(file)
            if size < old.size:
                dirty.truncate(size)

    @staticmethod
    def give_back(node: FileNode) -> None:
        """What `preserve` was called for did not happen: the node is as the storage has it again."""
        dirty = node.dirty
        if dirty is not None and dirty.file.state is State.DONE and not dirty.changed and node.life is Life.LIVE:
            dirty.file.close()
            node.dirty = None

    async def _spooled(self, node: FileNode, size: int, base: FileStat | None, name: str | None) -> SpoolFile:
        """A new spool file with the first `size` bytes of the node."""
        file = self._new_file(node.volume, node, base, name)
        try:
            if size:
                await self._fill(file, node, size)
        except BaseException:
            file.discard()
            file.close()
            raise
        return file

    def _new_file(self, volume: Volume, node: FileNode, base: FileStat | None, name: str | None) -> SpoolFile:
        metadata = base.metadata if base else None
        target = Target(
            storage=volume.name,
            identity=volume.remote.identity,
            file_id=node.file_id,
            name=name,
            filename=metadata.filename if metadata else name or UNNAMED,
            content_type=metadata.content_type if metadata else OCTET_STREAM,
            modified=None,
            expect=base.version if base else ABSENT,
            commit="",
        )
        return self.spool.new_file(target, self.stage(volume))

    async def _fill(self, file: SpoolFile, node: FileNode, size: int) -> None:
        """The first `size` bytes of the node are in the file."""
        reading = await self.open_reading(node)
        assert reading is not None
        if reading.fd is not None:
            await _copy(reading.fd, file, size)
            return
        offset = 0
        while offset < size:
            data = await reading.read(offset, min(_PIECE, size - offset))
            offset += file.pwrite(data, offset)


async def _copy(source: int, file: SpoolFile, size: int) -> None:
    """The empty file has the first `size` bytes of the source, holes as holes. SpoolFull, before anything is copied."""
    ranges = await in_thread(_data_ranges, source, size)
    file.allot(size, sum(end - offset for offset, end in ranges))
    await in_thread(_copy_ranges, source, file.fd, ranges)


def _data_ranges(source: int, size: int) -> list[tuple[int, int]]:
    """Where there is data in the first `size` bytes: offsets and ends."""
    ranges: list[tuple[int, int]] = []
    offset = 0
    while offset < size:
        try:
            offset = os.lseek(source, offset, os.SEEK_DATA)
            end = os.lseek(source, offset, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind the offset
                break
            raise
        if offset < size:
            ranges.append((offset, min(size, end)))
        offset = end
    return ranges


def _copy_ranges(source: int, target: int, ranges: list[tuple[int, int]]) -> None:
    """In the kernel, sharing blocks where the file system can."""
    for offset, end in ranges:
        _copy_range(source, target, offset, end)


def _copy_range(source: int, target: int, offset: int, end: int) -> None:
    while offset < end:
        try:
            count = os.copy_file_range(source, target, end - offset, offset, offset)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            count = os.pwrite(target, os.pread(source, min(_PIECE, end - offset), offset), offset)
        if not count:
            raise Stale(f"The content became shorter than {end} bytes while it was copied")
        offset += count
