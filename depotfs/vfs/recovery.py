"""What a daemon that died had promised: its journalled files reach their storages on the terms of the promise."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import trio
import trio.lowlevel

from depotfs.errors import AlreadyStored, DepotError, VersionChanged
from depotfs.io.content import FileContent
from depotfs.spool import SpoolFile, State
from depotfs.types import FileMetadata
from depotfs.vfs.commits import Commits
from depotfs.vfs.volume import Volume

_log = logging.getLogger(__name__)
_LONGEST_DELAY = 300.0


class Recovery:
    """Lands spool files that were left by an earlier daemon.

    Attributes:
        left: files that are still to land.
    """

    def __init__(self, volumes: Iterable[Volume], commits: Commits) -> None:
        self._volumes = {volume.remote.identity: volume for volume in volumes}
        self._commits = commits
        self._hurry = trio.Event()
        self._done = trio.Event()
        self.left: set[SpoolFile] = set()

    def sort(self, files: Iterable[SpoolFile]) -> None:
        """Decides what becomes of each: sealed ones are landed by `run`, unfinished ones held for a person."""
        for file in files:
            where = f"spool file {file.number} ({file.target.storage}/{file.target.filename}, {file.size} bytes)"
            if file.state is State.OPEN:
                file.hold("it was never closed or synced")
                _log.warning("%s was never closed before the daemon ended; it is kept in the spool", where)
            elif file.state is State.SEALED and file.target.identity in self._volumes:
                self.left.add(file)
            elif file.state is State.SEALED:
                _log.warning("%s waits for its storage %s to be configured again", where, file.target.identity)

    async def run(self) -> None:
        """All are landed or held, however long their storages are down."""
        async with trio.open_nursery() as nursery:
            for file in sorted(self.left, key=lambda file: file.number):
                nursery.start_soon(self._land, file)
        self._done.set()

    async def hurry(self) -> None:
        """Each of them was tried once more before this returns; what is not landed then stays for the next mount."""
        self._hurry.set()
        await self._done.wait()

    async def _land(self, file: SpoolFile) -> None:
        delay = 1.0
        while not await self._try(file):
            if self._hurry.is_set():
                return
            with trio.move_on_after(delay):
                await self._hurry.wait()
            delay = min(_LONGEST_DELAY, delay * 2)
        self.left.discard(file)

    async def _try(self, file: SpoolFile) -> bool:
        """False: to be tried again."""
        volume = self._volumes[file.target.identity]
        target = file.target
        try:
            if not await self._commits.find_landed(volume, file):
                metadata = FileMetadata(target.filename, target.content_type, target.modified or 0)
                content = FileContent(file.path, file.fd, file.size, movable=file.staged)
                volume.disturb(target.file_id)
                await volume.remote.put(
                    content, metadata, file_id=target.file_id, expect=target.expect, commit=target.commit, quick=False
                )
                volume.disturb(target.file_id)
                if content.moved:
                    file.committed(moved=True)
        except (AlreadyStored, VersionChanged) as error:
            file.hold(str(error))
            _log.warning("spool file %d cannot land: %s; it is kept in the spool", file.number, error)
            return True
        except (DepotError, OSError) as error:
            transient = not isinstance(error, DepotError) or error.transient
            if not transient:
                file.hold(str(error))
            _log.warning("spool file %d has not landed yet: %s", file.number, error)
            return not transient
        file.committed()
        file.close()
        _log.info("spool file %d of an earlier mount landed as %s/%s", file.number, target.storage, target.file_id)
        return True
