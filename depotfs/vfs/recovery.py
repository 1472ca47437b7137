"""What a daemon that died had promised: its journalled files are shown again, and land on the terms of the promise."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from depotfs.spool import SpoolFile, State, Target
from depotfs.types import ABSENT, ANY, FileMetadata, FileStat
from depotfs.vfs.commits import Commits
from depotfs.vfs.dirty import Dirty
from depotfs.vfs.names import Kind
from depotfs.vfs.nodes import FileNode
from depotfs.vfs.volume import Volume

_log = logging.getLogger(__name__)


def recover(files: Iterable[SpoolFile], volumes: Iterable[Volume], commits: Commits) -> None:
    """Decides what becomes of each file that an earlier daemon left, given in the order of their last promises.

    A sealed one of a storage that is configured is a dirty file again, its commit about to be made (a scratch
    file's after its delay). One that was never closed or synced is held for a person. One whose storage the
    configuration does not have waits.
    """
    by_identity = {volume.remote.identity: volume for volume in volumes}
    for file in files:
        target = file.target
        where = f"spool file {file.number} ({target.storage}/{target.filename}, {file.size} bytes)"
        if file.state is State.OPEN:
            file.hold("it was never closed or synced")
            _log.warning("%s was never closed before the daemon ended; it is kept in the spool", where)
        elif file.state is State.SEALED and target.identity in by_identity:
            _show(file, by_identity[target.identity], commits)
            _log.info("%s of an earlier mount is to be stored", where)
        elif file.state is State.SEALED:
            _log.warning("%s waits for its storage %s to be configured again", where, target.identity)


def _show(file: SpoolFile, volume: Volume, commits: Commits) -> None:
    target = file.target
    scratch = _scratch_name(target, volume)
    older = volume.nodes.get(target.file_id) if scratch is None else volume.scratch.get(scratch)
    if older is not None and older.dirty is not None:
        older.dirty.drop()  # this one was promised to take its place, whole
        _forget(older, commits)
    node = volume.add(target.file_id, scratch)
    node.dirty = Dirty(file, _base(target), changed=True)
    if file.staged:
        commits.writing.stage(volume)
    node.dirty.modified = target.modified or node.dirty.modified
    node.dirty.acknowledged = True
    node.dirty.failures = 1  # it may have landed: that is looked for first
    node.dirty.attempts.add(target.commit)
    node.dirty.places.add(target.file_id)
    commits.pending.schedule(node, 0 if scratch is None else volume.options.scratch_delay)


def _scratch_name(target: Target, volume: Volume) -> bytes | None:
    if target.name is None:
        return None
    name = volume.rules.parse(target.name.encode())
    return target.name.encode() if name.kind is Kind.SCRATCH and target.file_id in name.ids else None


def _base(target: Target) -> FileStat | None:
    """What the promise was conditional on, as far as a commit needs to know it."""
    if target.expect is ANY or target.expect == ABSENT:
        return None
    metadata = FileMetadata(target.filename, target.content_type, target.modified or 0)
    return FileStat(target.file_id, 0, target.expect, "", metadata, 0)


def _forget(node: FileNode, commits: Commits) -> None:
    commits.pending.cancel(node)
    node.dirty = None
    if node.scratch is not None:
        del node.volume.scratch[node.scratch]
        node.scratch = None
    node.volume.settle(node)
