"""A storage class of somebody else's, with filedepot's six methods, as a `FileStorage` of ours."""

from __future__ import annotations

import io
import sys
from typing import Any

from depotfs.io.content import Content
from depotfs.io.interfaces import FileStorage, GivenFile, StoredFile
from depotfs.types import FileId, FileMetadata


def adopt(storage: Any) -> FileStorage:
    """The storage itself if it is one of ours, else one that does everything by its six methods."""
    return storage if isinstance(storage, FileStorage) else ForeignStorage(storage)


class ForeignStorage(FileStorage):
    """The six methods passed on; all others are the defaults of `FileStorage`.

    Attributes:
        wrapped: the foreign object.
    """

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped
        self._given_class = _given_class_for(type(wrapped))

    def identity(self) -> str:
        kind = type(self.wrapped)
        return f"{kind.__module__}.{kind.__qualname__}"

    def get(self, file_or_id: Any) -> StoredFile:
        file: StoredFile = self.wrapped.get(file_or_id)
        return file

    def create(self, content: Any, filename: str | None = None, content_type: str | None = None) -> str:
        return str(self.wrapped.create(content, filename, content_type))

    def replace(
        self, file_or_id: Any, content: Any, filename: str | None = None, content_type: str | None = None
    ) -> str:
        stored = self.wrapped.replace(file_or_id, content, filename, content_type)
        # filedepot's own GCSStorage says nothing.
        return str(self.fileid(file_or_id) if stored is None else stored)

    def delete(self, file_or_id: Any) -> None:
        self.wrapped.delete(file_or_id)

    def exists(self, file_or_id: Any) -> bool:
        return bool(self.wrapped.exists(file_or_id))

    def list(self) -> list[str]:
        return [str(file_id) for file_id in self.wrapped.list()]

    def given(self, file_id: FileId, content: Content, metadata: FileMetadata) -> GivenFile:
        return self._given_class(file_id, content, metadata)


def _given_class_for(kind: type) -> type[GivenFile]:
    """`GivenFile`, as a subclass of filedepot's StoredFile for its classes: they take a given id from nothing else."""
    for base in kind.__mro__:
        theirs = getattr(sys.modules.get(base.__module__), "StoredFile", None)
        if base.__name__ == "FileStorage" and isinstance(theirs, type) and not issubclass(GivenFile, theirs):
            own = {"close": io.IOBase.close, "closed": io.IOBase.closed}
            return type("GivenFile", (GivenFile, theirs), own)
    return GivenFile
