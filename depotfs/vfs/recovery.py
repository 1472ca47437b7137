"""Recovery: what an earlier daemon promised is shown again, and lands on the terms of the promise."""

from __future__ import annotations

from collections.abc import Iterable

from depotfs.spool import SpoolFile, State, Target
from depotfs.types import ABSENT, ANY, FileMetadata, FileStat
from depotfs.vfs.committing import Committer
from depotfs.vfs.draft import Draft
from depotfs.vfs.file import File
from depotfs.vfs.missing import Missing
from depotfs.vfs.names import Kind
from depotfs.vfs.volume import Volume


def recover(files: Iterable[SpoolFile], volumes: Iterable[Volume], committer: Committer) -> None:
    """Decides what becomes of each spool file that an earlier daemon left, given in the order of their last promises.

    A sealed one of a storage that is configured is a draft again, its commit about to be made (a scratch file's after
    its delay). Of one whose bytes are missing it is asked. All others wait for a person, or for their storage to be
    configured again.
    """
    by_identity = {volume.remote.identity: volume for volume in volumes}
    missing: dict[str, Missing] = {}
    for file in files:
        volume = by_identity.get(file.target.identity)
        if file.state is State.SEALED and volume is not None:
            _show(file, volume, committer)
        elif file.state is State.MISSING and volume is not None:
            asked = missing.setdefault(volume.name, Missing(volume.remote, committer.drafts.cache, volume.name))
            asked.add(file)
            committer.queue.schedule(asked, 0)


def _show(spooled: SpoolFile, volume: Volume, committer: Committer) -> None:
    target = spooled.target
    scratch = _scratch_name(target, volume)
    older = volume.directory.find(target.file_id)
    if older is not None:
        _replace(older, committer)
    file = volume.add(target.file_id, scratch)
    file.over = _base(target)
    draft = file.draft = Draft(spooled, changed=True)
    if spooled.staged:
        committer.drafts.stage(volume)
    draft.modified = target.modified or draft.modified
    draft.acknowledge()
    draft.unverified = True
    draft.failures = 1  # it may have landed: that is looked for first
    draft.attempts.add(target.commit)
    draft.places.add(target.file_id)
    committer.queue.schedule(file, 0 if scratch is None else volume.options.scratch_delay)


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


def _replace(older: File, committer: Committer) -> None:
    """A later promise takes the place of this one, whole."""
    committer.queue.cancel(older)
    if older.draft is not None:
        older.draft.drop()
        older.draft = None
    older.scratch = None
    older.volume.settle(older)
