"""A reader of one version of a file's content in GridFS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from depotfs.errors import ContentDamaged, VersionChanged
from depotfs.io.gridfs_connection import Collections
from depotfs.io.gridfs_documents import OWN, Document, FilesDocument, chunk_size_of, key_of, upload_of
from depotfs.io.gridfs_errors import translated
from depotfs.io.interfaces import ContentReader
from depotfs.types import FileStat

_ATTEMPTS: Final = 20
"""Times that a range is read while its chunks are on the move: one is enough but for a swap at just that moment."""


class GridFSReader(ContentReader):
    """Reads by one query per range. Nothing is asked of the server before the first one.

    A chunk of ours carries its upload, so that no range can mix two versions. Chunks of other programs do not:
    after a range of those the files document is looked at, and is still the same (a replacing filedepot deletes it
    before it touches a chunk).

    Args:
        find: the files document of a key as it is now, None where there is none; an interrupted swap is finished.
    """

    def __init__(
        self, connect: Callable[[], Collections], find: Callable[[Any], FilesDocument | None], stat: FileStat, name: str
    ) -> None:
        self.stat = stat
        self._connect, self._find, self._name = connect, find, name
        self._key = key_of(stat.file_id)
        self._upload = upload_of(stat.version)
        self._chunk_size = chunk_size_of(stat.version)

    def pread(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self.stat.size)
        if end <= offset:
            return b""
        first, last = offset // self._chunk_size, (end - 1) // self._chunk_size
        with translated(f"File {self.stat.file_id} cannot be read from {self._name}"):
            pieces: list[Any] = self._range(first, last)
        start = offset - first * self._chunk_size
        stop = end - last * self._chunk_size
        if stop < len(pieces[-1]):
            pieces[-1] = memoryview(pieces[-1])[:stop]
        if start:
            pieces[0] = memoryview(pieces[0])[start:]
        return pieces[0] if len(pieces) == 1 and isinstance(pieces[0], bytes) else b"".join(pieces)

    def close(self) -> None:
        """Nothing is held between two ranges."""

    def _range(self, first: int, last: int) -> list[Any]:
        """The whole chunks `first` to `last` of this version."""
        at_home = False  # seen before the query: the chunks stand at the file's own key and stay there
        for _ in range(_ATTEMPTS):
            found = self._query(first, last)
            if found is not None and self._upload is not None:
                return found
            document = self._current()
            if found is not None:
                return found
            if at_home:
                break
            at_home = not document.pending
        raise ContentDamaged(f"File {self.stat.file_id} in {self._name} lacks bytes of its chunks {first} to {last}")

    def _query(self, first: int, last: int) -> list[Any] | None:
        """The chunks' bytes in order, None unless all are there with the right sizes."""
        where: Document = {"files_id": self._key, "n": {"$gte": first, "$lte": last}, OWN: self._upload}
        if self._upload is not None:
            where["files_id"] = {"$in": [self._key, self._upload]}  # either, while they are on their way to the key
        fields = {"_id": False, "n": True, "data": True}
        # By number: a chunk that moves during the query may come from both places.
        found = {c.get("n"): c.get("data") for c in self._connect().chunks.find(where, fields).sort("n")}
        pieces = [found.get(n) for n in range(first, last + 1)]
        end = self.stat.size - last * self._chunk_size
        sizes = [self._chunk_size] * (last - first) + [min(end, self._chunk_size)]
        whole = all(isinstance(p, bytes) and len(p) == s for p, s in zip(pieces, sizes, strict=True))
        return pieces if whole else None

    def _current(self) -> FilesDocument:
        document = self._find(self._key)
        if document is None or document.version != self.stat.version:
            raise VersionChanged(f"File {self.stat.file_id} was replaced or deleted in {self._name}")
        return document
