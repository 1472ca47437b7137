"""Handles: open files and open directories, by the number that the kernel knows them by."""

from __future__ import annotations

from depotfs.errors import BadHandle
from depotfs.types import HandleId
from depotfs.vfs.file import File
from depotfs.vfs.listing import Listing


class FileHandle:
    """An open file.

    Attributes:
        changed: bytes or size were changed through it since its last commit: its close owes one.
        sealed: a close has promised what was only truncated; the next one, or its release, commits it.
    """

    __slots__ = ("changed", "file", "sealed")

    def __init__(self, file: File, *, changed: bool) -> None:
        self.file = file
        self.changed = changed
        self.sealed = False


class RootHandle:
    """The open root directory: its entries as they were when it was opened."""

    __slots__ = ("names",)

    def __init__(self, names: list[bytes]) -> None:
        self.names = names


class DirectoryHandle:
    """An open directory of a storage."""

    __slots__ = ("directory_id", "listing")

    def __init__(self, directory_id: int, listing: Listing) -> None:
        self.directory_id = directory_id
        self.listing = listing


Handle = FileHandle | RootHandle | DirectoryHandle


class HandleTable:
    """All open handles."""

    def __init__(self) -> None:
        self._handles: dict[int, Handle] = {}
        self._next = 0

    def add(self, handle: Handle) -> HandleId:
        self._next += 1
        self._handles[self._next] = handle
        return HandleId(self._next)

    def get(self, fh: int) -> Handle:
        """The handle. Raises BadHandle."""
        try:
            return self._handles[fh]
        except KeyError:
            raise BadHandle(f"No handle {fh} is open") from None

    def file(self, fh: int) -> FileHandle:
        """The open file. Raises BadHandle."""
        handle = self._handles.get(fh)
        if not isinstance(handle, FileHandle):
            raise BadHandle(f"No file is open as {fh}")
        return handle

    def files(self) -> list[tuple[int, FileHandle]]:
        """The open files."""
        return [(fh, handle) for fh, handle in self._handles.items() if isinstance(handle, FileHandle)]

    def pop(self, fh: int) -> Handle:
        handle = self.get(fh)
        del self._handles[fh]
        return handle
