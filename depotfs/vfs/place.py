"""A `Place` is where a content goes, and what it replaces there."""

from __future__ import annotations

from dataclasses import dataclass

from depotfs.io.utils import guess_type
from depotfs.types import ABSENT, OCTET_STREAM, UNNAMED, FileId, FileMetadata, FileStat
from depotfs.vfs.draft import Draft
from depotfs.vfs.file import File
from depotfs.vfs.names import Kind, Name


@dataclass(frozen=True, slots=True)
class Place:
    """Where a content goes.

    Attributes:
        base: what is stored there and will be replaced, None for nothing: the commit is conditional on that.
        name: the plain or scratch name that the content is to be called by, None if only by its id.
        over: what waits there for a commit of its own; if this one fails it replaces what may have landed of it.
    """

    file_id: FileId
    base: FileStat | None
    name: str | None
    over: Draft | None = None

    @property
    def expect(self) -> str:
        """What a commit to there is conditional on."""
        return self.base.version if self.base else ABSENT

    def metadata(self, own: FileMetadata | None, modified: int) -> FileMetadata:
        """Filename and type: of what is replaced, else from the name, else the content's own, else filedepot's."""
        if self.base is not None:
            return FileMetadata(self.base.metadata.filename, self.base.metadata.content_type, modified)
        if self.name is not None:
            return FileMetadata(self.name, guess_type(self.name) or OCTET_STREAM, modified)
        if own is not None:
            return FileMetadata(own.filename, own.content_type, modified)
        return FileMetadata(UNNAMED, OCTET_STREAM, modified)


def own_place(file: File, draft: Draft) -> Place:
    """Where the file is shown."""
    name = draft.file.target.name if file.scratch is None else file.scratch.decode()
    return Place(file.file_id, file.base, name)


def called(name: Name) -> str | None:
    """What a content is called that gets this name: None for an id."""
    return None if name.kind is Kind.ID else name.text
