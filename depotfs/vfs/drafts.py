"""Drafts: a file's content comes into the spool, where it can be changed."""

from __future__ import annotations

import errno
import os
from typing import Final

import trio

from depotfs import disk
from depotfs.cache import BlockCache
from depotfs.errors import FileNotStored, InvalidMetadata, Stale, VersionChanged
from depotfs.remote.workers import in_thread
from depotfs.spool import Spool, SpoolFile, State, Target
from depotfs.types import ABSENT, OCTET_STREAM, PRESENT, UNNAMED, FileStat
from depotfs.vfs.content import OpenContent
from depotfs.vfs.draft import Draft
from depotfs.vfs.file import File, Life
from depotfs.vfs.volume import Volume

_PIECE: Final = 8 << 20
"""Bytes fetched at once from a storage: what its ranged reads are best at."""
_TIDY_AFTER: Final = 0.25
"""Seconds for which an empty staging directory stays: a copy of many files makes and removes it rarely."""
_TIDY_AT_LEAST: Final = 5.0
"""Seconds between two looks at a staging directory that something stays in."""


class Drafts:
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

    # --- reading ---------------------------------------------------------------------------------------------------

    async def open_content(self, file: File) -> OpenContent | None:
        """The file's content of `file.stat` is open; None: it came into the spool meanwhile.

        Raises: VersionChanged, FileNotStored: it is gone. InvalidMetadata: nobody can tell what it is.
        """
        while file.content is None and file.stat is not None:
            stat, remote = file.stat, file.volume.remote
            if stat.version == PRESENT:
                raise InvalidMetadata(f"{file.volume.name}/{stat.file_id} is damaged; it can be removed or replaced")
            try:
                reader = await remote.open_content(stat)
            except (FileNotStored, VersionChanged):
                if file.stat is stat:
                    raise
                continue
            if file.content is not None or file.stat is not stat:
                reader.close()
                continue
            file.content = OpenContent(remote, reader, self.cache)
        return file.content

    # --- writing ---------------------------------------------------------------------------------------------------

    def create(self, file: File, base: FileStat | None, name: str | None) -> None:
        """Makes the draft of a new, empty file.

        Args:
            base: what is stored under its id all the same and will be replaced, None for nothing.
            name: the plain or scratch name that it is made by.
        Raises: SpoolFull, OSError of the disk.
        """
        file.over = base
        file.draft = Draft(self._new_spool_file(file, name), changed=True)

    async def begin(self, file: File, keep: int | None) -> None:
        """Makes a draft with the first `keep` bytes of what the storage has (None: all).

        One that the file got meanwhile is left as it is: those bytes may be a promise by now.
        Takes the file's lock: a commit under way ends first, and what it stored is what is copied.

        Raises: Stale (the content was replaced from outside), StorageUnavailable …, SpoolFull, OSError.
        """
        async with file.lock:
            if file.draft is not None:
                return
            if file.life is Life.CHANGED_ELSEWHERE:
                raise Stale(f"File {file.file_id} was replaced in {file.volume.remote.identity}")
            size = file.size if keep is None else min(keep, file.size)
            file.volume.check_size(size)
            if file.stat is not None and file.stat.version == PRESENT and keep is None:
                await self.open_content(file)  # says why it cannot be read
            file.draft = await self._copied(file, size, changed=file.stat is None)
            if not file.live:
                file.draft.discard()

    async def take(self, file: File) -> Draft:
        """Makes a draft of all that the storage has; nothing is to be committed. The file's lock is held."""
        file.draft = await self._copied(file, file.size, changed=False)
        return file.draft

    async def preserve(self, file: File) -> None:
        """Its open handles go on reading this content whatever becomes of the storage: it is on this disk.

        Call it with the file's lock held, before the storage's content is deleted or replaced.
        """
        if file.draft is not None or file.stat is None or not file.handles or file.stat.version == PRESENT:
            return
        content = await self.open_content(file)
        assert content is not None
        if content.fd is None and not file.volume.remote.inline:
            (await self.take(file)).discard()

    @staticmethod
    def give_back(file: File) -> None:
        """What `preserve` was called for did not happen: the file is as the storage has it again."""
        draft = file.draft
        if draft is not None and draft.file.state is State.DONE and not draft.changed and file.live:
            draft.file.close()
            file.draft = None

    async def renew(self, file: File, keep: int | None) -> None:
        """What was acknowledged of the file's draft stays as it is; a copy takes the changes that come.

        Args:
            keep: bytes that are not cut off right away, None for all.
        """
        async with file.lock:
            draft = file.draft
            if draft is None or draft.writable:
                return
            old = draft.file
            size = old.size if keep is None else min(keep, old.size)
            copy = self._new_spool_file(file, old.target.name)
            try:
                await _copy(old.fd, copy, size)
            except BaseException:
                copy.discard()
                copy.close()
                raise
            draft.continue_in(copy)
            if size < old.size:
                draft.truncate(size)

    async def _copied(self, file: File, size: int, *, changed: bool) -> Draft:
        """A draft with the first `size` bytes of the file, and its time."""
        draft = Draft(await self._spooled(file, size), changed=changed)
        if file.stat is not None:
            draft.modified = file.stat.metadata.modified
        return draft

    async def _spooled(self, file: File, size: int) -> SpoolFile:
        """A new spool file with the first `size` bytes of the file."""
        name = None if file.scratch is None else file.scratch.decode()
        spooled = self._new_spool_file(file, name)
        try:
            if size:
                await self._fill(spooled, file, size)
        except BaseException:
            spooled.discard()
            spooled.close()
            raise
        return spooled

    def _new_spool_file(self, file: File, name: str | None) -> SpoolFile:
        volume, base = file.volume, file.base
        metadata = base.metadata if base else None
        target = Target(
            storage=volume.name,
            identity=volume.remote.identity,
            file_id=file.file_id,
            name=name,
            filename=metadata.filename if metadata else name or UNNAMED,
            content_type=metadata.content_type if metadata else OCTET_STREAM,
            modified=None,
            expect=base.version if base else ABSENT,
            commit="",
        )
        return self.spool.new_file(target, self.stage(volume))

    async def _fill(self, spooled: SpoolFile, file: File, size: int) -> None:
        """The first `size` bytes of the file are in the spool file."""
        content = await self.open_content(file)
        assert content is not None
        if content.fd is not None:
            await _copy(content.fd, spooled, size)
            return
        offset = 0
        while offset < size:
            data = await content.read(offset, min(_PIECE, size - offset))
            offset += spooled.pwrite(data, offset)


async def _copy(source: int, file: SpoolFile, size: int) -> None:
    """The empty file has the first `size` bytes of the source, holes as holes. SpoolFull, before anything is copied."""
    ranges = await in_thread(disk.data_ranges, source, size)
    file.allot(size, sum(end - offset for offset, end in ranges))
    await in_thread(_copy_ranges, source, file.fd, ranges)


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
