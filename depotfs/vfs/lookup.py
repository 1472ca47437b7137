"""From names to files, and the question whether a file still is what the storage has."""

from __future__ import annotations

import trio

from depotfs.errors import DepotError, FileNotStored, Stale, StorageUnavailable
from depotfs.types import FileId, FileStat
from depotfs.vfs.file import File, Life
from depotfs.vfs.names import Kind, Name
from depotfs.vfs.volume import Volume


def last_seen(volume: Volume, raw: bytes) -> File | None:
    """The file that a name led to when it was last heard of, at no request. Raises NameTooLong, NameNotUnicode."""
    files = map(volume.directory.find, volume.rules.parse(raw).ids)
    return next((file for file in files if file is not None), None)


async def find(volume: Volume, raw: bytes) -> File | None:
    """The file that a name of the storage's directory leads to now, None for nothing.

    Of ids that are not known freshly the storage is asked, of both forms of a plain name's id at once.

    Raises: NameTooLong, NameNotUnicode, StorageUnavailable …
    """
    name = volume.rules.parse(raw)
    while True:
        known = _known(volume, name)
        if known is not None:
            return known
        wanted = [file_id for file_id in name.ids if not volume.is_known_absent(file_id)]
        if not wanted:
            return None  # cp looks twice before it creates
        with volume.knowledge.asking() as asking:
            try:
                answers = await _ask_all(volume, wanted)
            except StorageUnavailable:
                if _may_be_made_blindly(volume, name):
                    return None
                raise
        if asking.changed.isdisjoint(wanted):
            break  # else one answer may have been overtaken while the other one was waited for
    for file_id, stat in zip(wanted, answers, strict=True):
        file = volume.directory.find(file_id)
        if file is not None and file.is_ours:
            return file
        if volume.hides(file_id, stat):
            continue
        if stat is not None:
            return volume.adopt(stat)
        if file is not None:
            volume.end(file, Life.CHANGED_ELSEWHERE)
            volume.settle(file)
    volume.knowledge.note_absent(i for i in wanted if volume.directory.find_moved(i) is None)
    return None


def _known(volume: Volume, name: Name) -> File | None:
    files = map(volume.find_known, name.ids)
    return next((file for file in files if file is not None), None)


def _may_be_made_blindly(volume: Volume, name: Name) -> bool:
    """Whether a file may be made under a name of which the storage cannot be asked now.

    Its commit decides whether it is new: a close that only promises needs no storage. A file that was ever seen
    is not taken to be absent.
    """
    if not volume.options.background or name.kind not in (Kind.PLAIN, Kind.SCRATCH):
        return False
    return not any(volume.directory.find(i) is not None or volume.knowledge.was_ever_seen(i) for i in name.ids)


async def _ask_all(volume: Volume, file_ids: list[FileId]) -> list[FileStat | None]:
    if volume.remote.inline or len(file_ids) < 2:
        return [await volume.knowledge.ask(file_id) for file_id in file_ids]
    answers: dict[FileId, FileStat | None] = {}
    errors: list[DepotError | OSError] = []

    async def ask(file_id: FileId) -> None:
        try:
            answers[file_id] = await volume.knowledge.ask(file_id)
        except (DepotError, OSError) as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for file_id in file_ids:
            nursery.start_soon(ask, file_id)
    if errors:
        raise errors[0]
    return [answers[file_id] for file_id in file_ids]


async def refresh(file: File) -> None:
    """What is known of the file is true now, within the storage's attr_timeout.

    Raises: Stale (its content is not the storage's any more, or it is gone there), StorageUnavailable …
    """
    volume = file.volume
    if file.live and volume.is_fresh(file):
        return
    if file.live:
        stat = await volume.knowledge.ask(file.file_id)
    if not file.live:
        raise Stale(f"{volume.name}/{file.file_id} was {file.life.value}")
    if file.is_ours:
        return
    if stat is None:
        volume.end(file, Life.CHANGED_ELSEWHERE)
        raise FileNotStored(f"{volume.name}/{file.file_id} was deleted")
    if volume.adopt(stat) is not file:
        raise Stale(f"{volume.name}/{file.file_id} was replaced")


async def refresh_locked(file: File) -> FileStat:
    """What the storage has of the file, asked now by whoever holds its lock. Raises FileNotStored, Stale …"""
    known = file.stat
    stat = await file.volume.remote.find(known.file_id if known is not None else file.file_id)
    if stat is None:
        raise FileNotStored(f"{file.volume.name}/{file.file_id} was deleted")
    if known is not None and known.version != stat.version:
        raise Stale(f"{file.volume.name}/{file.file_id} was replaced")
    file.volume.know(file, stat)
    return stat
