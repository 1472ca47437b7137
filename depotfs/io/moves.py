"""A move made of two steps, for storages that have none in one: a copy, then the removal of exactly what was copied.

Between the two the content is stored under both ids, and whoever dies there leaves it so. Before a step is taken for
failed, the storage is asked what is there: a reply that was lost looks like a failure.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Protocol

from depotfs.errors import AlreadyStored, DepotError, FileNotStored, SourceLeft, VersionChanged
from depotfs.types import ABSENT, ANY, PRESENT, Expected, FileId, FileMetadata, FileStat

if TYPE_CHECKING:
    from depotfs.io.interfaces import FileStorage


class Copy(Protocol):
    """The first step: as `FileStorage.copy`."""

    def __call__(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected, commit: str
    ) -> FileStat: ...


def move_by_copy(
    storage: FileStorage,
    copy: Copy,
    source: FileStat,
    target: FileId,
    metadata: FileMetadata,
    expect: Expected,
    commit: str,
) -> FileStat:
    """What `FileStorage.move` owes, by `copy` and the storage's `stat` and `remove`."""
    if target == source.file_id:
        return move_onto_itself(storage, source, metadata, expect)
    made = _copied(storage, copy, source, target, metadata, expect, commit or uuid.uuid4().hex)
    failure = _remove(storage, source)
    if failure is None:
        return made
    # Only a removal that was refused is known not to happen later, when what was made may be the only one.
    if expect == ABSENT and _is_refusal(failure) and _remove(storage, made) is None:
        raise failure
    raise SourceLeft(
        f"File {source.file_id} in {storage.identity()} is stored as {target} now, and still there: {failure}", made
    ) from failure


def move_onto_itself(storage: FileStorage, source: FileStat, metadata: FileMetadata, expect: Expected) -> FileStat:
    """A move to the id that the file has: its metadata are these. Raises as `FileStorage.move`."""
    if expect not in (ANY, PRESENT, source.version):
        storage.stat(source.file_id)  # or it is not even there
        if expect == ABSENT:
            raise AlreadyStored(f"File {source.file_id} is there already in {storage.identity()}")
        raise VersionChanged(f"File {source.file_id} in {storage.identity()} is another version than expected")
    return storage.update(
        source, filename=metadata.filename, content_type=metadata.content_type, modified=metadata.modified
    )


def _copied(
    storage: FileStorage,
    copy: Copy,
    source: FileStat,
    target: FileId,
    metadata: FileMetadata,
    expect: Expected,
    commit: str,
) -> FileStat:
    try:
        return copy(source, target, metadata, expect=expect, commit=commit)
    except Exception:
        found = _found(storage, target)
        if found is None or found.commit != commit:
            raise
        return found


def _remove(storage: FileStorage, file: FileStat) -> Exception | None:
    """None: that version is not there any more. Else why it could not be removed."""
    try:
        storage.remove(file.file_id, expect=file.version)
    except Exception as error:
        return None if _is_gone(storage, file) else error
    return None


def _is_gone(storage: FileStorage, file: FileStat) -> bool:
    try:
        return storage.stat(file.file_id).version != file.version
    except FileNotStored:
        return True
    except Exception:
        return False


def _found(storage: FileStorage, file_id: FileId) -> FileStat | None:
    try:
        return storage.stat(file_id)
    except Exception:
        return None


def _is_refusal(error: Exception) -> bool:
    """Whether the storage answered, and that it does not do it."""
    return isinstance(error, DepotError) and not error.transient
