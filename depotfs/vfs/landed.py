"""What landed: whether the storage has the very bytes of a commit whose reply was lost, or never lived to be heard."""

from __future__ import annotations

from depotfs.cache import BlockCache
from depotfs.errors import FileNotStored, VersionChanged
from depotfs.remote.remote import Remote
from depotfs.spool import SpoolFile, State
from depotfs.types import FileStat
from depotfs.vfs.content import OpenContent

_PIECE = 1 << 20


async def find_landed(remote: Remote, spooled: SpoolFile, cache: BlockCache) -> FileStat | None:
    """What is stored where the bytes were to go, if it is they: by the id of their commit, else compared. Else None."""
    target = spooled.target
    found = await remote.find(target.file_id)
    if found is None or found.size != spooled.size:
        return None
    if found.commit:
        return found if found.commit == target.commit else None
    return found if await _has_same_bytes(remote, spooled, found, cache) else None


async def _has_same_bytes(remote: Remote, spooled: SpoolFile, found: FileStat, cache: BlockCache) -> bool:
    try:
        content = OpenContent(remote, await remote.open_content(found), cache)
    except (FileNotStored, VersionChanged):
        return False
    try:
        if spooled.state is State.MISSING:
            return await _has_same_checksum(spooled, content)
        for offset in range(0, spooled.size, _PIECE):
            if bytes(await content.read(offset, _PIECE)) != spooled.pread(_PIECE, offset):
                return False
    finally:
        content.close()
    return True


async def _has_same_checksum(spooled: SpoolFile, content: OpenContent) -> bool:
    """What an older program sealed without a checksum is not found: better asked after than taken for stored."""
    checksum = spooled.checksum.fresh()
    for offset in range(0, spooled.size, _PIECE):
        checksum.add(bytes(await content.read(offset, _PIECE)), offset)
    return checksum.agrees(spooled.checksum)
