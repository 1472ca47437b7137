"""A reader of one version of a file's content in GridFS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from depotfs.errors import ContentDamaged, VersionChanged
from depotfs.io.gridfs_connection import Collections
from depotfs.io.gridfs_documents import CRC, OWN, Document, FilesDocument, bytes_of, chunk_size_of, key_of, upload_of
from depotfs.io.gridfs_errors import translated
from depotfs.io.reader import ContentReader
from depotfs.types import FileStat

_ATTEMPTS: Final = 20
"""Times that a range is read while its chunks are on the move: one is enough but for a swap at just that moment."""


class GridFSReader(ContentReader):
    """Reads by one query per range. Nothing is asked of the server before the first one.

    A chunk of ours carries its upload and a checksum, so that no range can mix two versions, and none has bytes that
    were changed on the way. Chunks of other programs carry neither:
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

    def pieces(self, offset: int, size: int, piece: int) -> Iterator[bytes | memoryview]:
        """One query, whose chunks need not be looked at again; what it does not tell is read range by range."""
        end = min(offset + size, self.stat.size)
        if self._upload is not None and offset < end:
            with translated(f"File {self.stat.file_id} cannot be read from {self._name}"):
                for data in self._stream(offset, end, piece):
                    offset += len(data)
                    yield data
        yield from super().pieces(offset, end - offset, piece)

    def _stream(self, offset: int, end: int, piece: int) -> Iterator[bytes]:
        """Pieces from `offset` on, up to `end` or to the first chunk that is not there."""
        parts: list[memoryview] = []
        have = 0
        for view in self._chunks(offset, end):
            parts.append(view)
            have += len(view)
            while have >= min(piece, end - offset) > 0:
                left = have - min(piece, end - offset)
                last = parts[-1]
                data = b"".join([*parts[:-1], last[: len(last) - left]])
                offset += len(data)
                parts, have = [last[len(last) - left :]] if left else [], left
                yield data

    def _chunks(self, offset: int, end: int) -> Iterator[memoryview]:
        """The content from `offset` to `end` as it lies in chunks, up to the first one that is not as it should be."""
        number, last = offset // self._chunk_size, (end - 1) // self._chunk_size
        for chunk in self._find_chunks(number, last):
            if chunk.get("n") == number - 1:
                continue  # it moved during the query, and comes from both places
            start = number * self._chunk_size
            data = bytes_of(chunk, min(self._chunk_size, self.stat.size - start))
            if chunk.get("n") != number or data is None:
                return
            yield memoryview(data)[max(offset - start, 0) : end - start]
            number += 1

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
        raise ContentDamaged(f"File {self.stat.file_id} in {self._name} has no chunks {first} to {last} with its bytes")

    def _query(self, first: int, last: int) -> list[Any] | None:
        """The chunks' bytes in order, None unless all are there, with the right sizes and checksums."""
        # By number: a chunk that moves during the query may come from both places.
        found = {chunk.get("n"): chunk for chunk in self._find_chunks(first, last)}
        pieces = []
        for number in range(first, last + 1):
            size = min(self._chunk_size, self.stat.size - number * self._chunk_size)
            data = bytes_of(found.get(number, {}), size)
            if data is None:
                return None
            pieces.append(data)
        return pieces

    def _find_chunks(self, first: int, last: int) -> Iterator[Document]:
        where: Document = {"files_id": self._key, "n": {"$gte": first, "$lte": last}, OWN: self._upload}
        if self._upload is not None:
            where["files_id"] = {"$in": [self._key, self._upload]}  # either, while they are on their way to the key
        return self._connect().chunks.find(where, {"_id": False, "n": True, "data": True, CRC: True}).sort("n")

    def _current(self) -> FilesDocument:
        document = self._find(self._key)
        if document is None or document.version != self.stat.version:
            raise VersionChanged(f"File {self.stat.file_id} was replaced or deleted in {self._name}")
        return document
