"""Missing bytes: promised by an earlier daemon and not in the spool any more. Whether they are stored is asked."""

from __future__ import annotations

import logging
from typing import Final

from depotfs.cache import BlockCache
from depotfs.errors import DepotError
from depotfs.remote.remote import Remote
from depotfs.spool import SpoolFile
from depotfs.vfs.landed import find_landed

_log = logging.getLogger(__name__)

RETRY_DELAY: Final = 60.0
"""Seconds until a storage that did not answer is asked again."""


class Missing:
    """Spool files of one storage whose bytes are gone: it took the file before the daemon died, or they are lost.

    Args:
        name: the storage's, for people.

    Attributes:
        remote: the storage.
    """

    def __init__(self, remote: Remote, cache: BlockCache, name: str) -> None:
        self.remote = remote
        self._cache = cache
        self._name = name
        self._files: list[SpoolFile] = []

    def add(self, spooled: SpoolFile) -> None:
        """It is asked for, too."""
        self._files.append(spooled)

    async def ask(self) -> bool:
        """Those that are stored are done with, those that are lost are named, held, and forgotten by the next start.

        Returns: False if the storage could not be asked of some.
        """
        left = [spooled for spooled in self._files if not await self._ask(spooled)]
        self._files = left
        return not left

    async def _ask(self, spooled: SpoolFile) -> bool:
        target = spooled.target
        where = f"spool file {spooled.number} ({self._name}/{target.filename}, {spooled.size} bytes)"
        try:
            found = await find_landed(self.remote, spooled, self._cache)
        except (DepotError, OSError) as error:
            _log.warning("%s is not in the spool any more, and its storage cannot be asked: %s", where, error)
            return False
        if found is not None:
            _log.info("%s is stored as %s", where, target.file_id)
            spooled.committed(read_on=False)
        else:
            _log.error("%s is lost: its bytes are neither in the spool nor in the storage", where)
            spooled.hold("it is lost: its bytes are neither in the spool nor in the storage")
        return True
