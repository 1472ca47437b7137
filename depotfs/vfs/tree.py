"""From names to nodes, and the question whether a node still is what the storage has."""

from __future__ import annotations

import trio

from depotfs.errors import DepotError, FileNotStored, Stale
from depotfs.types import FileId, FileStat
from depotfs.vfs.names import Name
from depotfs.vfs.nodes import FileNode, Life
from depotfs.vfs.volume import Volume


def last_seen(volume: Volume, raw: bytes) -> FileNode | None:
    """The node that a name led to when it was last heard of, at no request. Raises NameTooLong, NameNotUnicode."""
    node = volume.scratch.get(raw)
    if node is not None:
        return node
    ids = volume.rules.parse(raw).ids
    return next((volume.nodes[file_id] for file_id in ids if file_id in volume.nodes), None)


async def find(volume: Volume, raw: bytes) -> FileNode | None:
    """The node that a name of the storage's directory leads to now, None for nothing.

    Of ids that are not known freshly the storage is asked, of both forms of a plain name's id at once.

    Raises: NameTooLong, NameNotUnicode, StorageUnavailable …
    """
    name = volume.rules.parse(raw)
    while True:
        known = _known(volume, raw, name)
        if known is not None:
            return known
        wanted = [file_id for file_id in name.ids if not volume.is_known_hidden(file_id)]
        if volume.is_known_absent(wanted):
            return volume.scratch.get(raw)  # cp looks twice before it creates
        with volume.question() as question:
            answers = await _ask_all(volume, wanted)
        if question.disturbed.isdisjoint(wanted):
            break  # else one answer may have been overtaken while the other one was waited for
    for file_id, stat in zip(wanted, answers, strict=True):
        node = volume.nodes.get(file_id)
        if node is not None and (node.dirty is not None or node.lock.locked()):
            return node
        if volume.hides(file_id, stat):
            continue
        if stat is not None:
            return volume.adopt(stat)
        if node is not None:
            volume.end(node, Life.OVERTAKEN)
    if raw not in volume.scratch:
        volume.note_absent(file_id for file_id in wanted if file_id not in volume.hidden)
    return volume.scratch.get(raw)


def _known(volume: Volume, raw: bytes, name: Name) -> FileNode | None:
    node = volume.scratch.get(raw)
    if node is not None:
        return node
    for file_id in name.ids:
        node = volume.nodes.get(file_id)
        if node is not None and volume.is_fresh(node):
            return node
    return None


async def _ask_all(volume: Volume, file_ids: list[FileId]) -> list[FileStat | None]:
    if volume.remote.inline or len(file_ids) < 2:
        return [await volume.ask(file_id) for file_id in file_ids]
    answers: dict[FileId, FileStat | None] = {}
    errors: list[DepotError | OSError] = []

    async def ask(file_id: FileId) -> None:
        try:
            answers[file_id] = await volume.ask(file_id)
        except (DepotError, OSError) as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for file_id in file_ids:
            nursery.start_soon(ask, file_id)
    if errors:
        raise errors[0]
    return [answers[file_id] for file_id in file_ids]


async def refresh(node: FileNode) -> None:
    """What is known of the node is true now, within the storage's attr_timeout.

    Raises: Stale (its content is not the storage's any more, or it is gone there), StorageUnavailable …
    """
    volume = node.volume
    if node.life is Life.LIVE and volume.is_fresh(node):
        return
    if node.life is not Life.LIVE:
        raise Stale(f"{volume.name}/{node.file_id} was {node.life.value}")
    stat = await volume.ask(node.file_id)
    if node.life is not Life.LIVE:
        raise Stale(f"{volume.name}/{node.file_id} was {node.life.value}")
    if node.dirty is not None or node.lock.locked():
        return
    if stat is None:
        volume.end(node, Life.OVERTAKEN)
        raise FileNotStored(f"{volume.name}/{node.file_id} was deleted")
    if volume.adopt(stat) is not node:
        raise Stale(f"{volume.name}/{node.file_id} was replaced")


async def refresh_locked(node: FileNode) -> None:
    """As `refresh`, always asking, by whoever holds the node's lock."""
    stat = await node.volume.remote.find(node.file_id)
    if stat is None:
        raise FileNotStored(f"{node.volume.name}/{node.file_id} was deleted")
    if node.stat is not None and node.stat.version != stat.version:
        raise Stale(f"{node.volume.name}/{node.file_id} was replaced")
    node.volume.know(node, stat)
