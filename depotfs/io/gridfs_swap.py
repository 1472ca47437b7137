"""Replacing content in GridFS without a moment at which it is half there.

A replace goes through these steps; what a crash behind each one leaves, and who repairs it:

1. *New chunks* are inserted, stamped with the upload's id and with that id as `files_id`, where no reader looks.
   Crash: the old file is whole; the chunks are orphans, never visible, deleted by `sweep`.
2. *One conditional update of the files document* sets length, name, times, upload and `pointer`. This decides.
   Readers of ours take only chunks with the document's stamp, from the file's key or from `pointer`.
   Crash: readers of ours see the new file whole; filedepot sees the old chunks, and may find them damaged.
3. *Old chunks* at the key, told by their stamp, are deleted. Crash: as before; filedepot finds no content.
4. *New chunks* get the file's key as `files_id`, one by one. Crash: as before, filedepot finds part of the content.
5. `pointer` is removed. Now filedepot reads the file too.

Whoever of ours meets a `pointer` (stat, open, put, copy, remove, update of that id) does what is left of 3 to 5;
all of it may be done twice, or by two at once.

A new file is stored under its key at once: chunks, then the files document. Crash between them: no file; the
chunks are orphans as in 1. Where such an orphan, or another upload of the same id, holds a chunk's place, the upload
moves to its own id, as in 1, and the document is inserted with a `pointer`.

A remove deletes the files document, then the chunks. Crash between them: no file; orphans as in 1.
"""

from __future__ import annotations

import hashlib
import random
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from bson import Int64, ObjectId
from bson.binary import Binary
from pymongo import ReadPreference
from pymongo.errors import BulkWriteError, NetworkTimeout, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from depotfs.errors import ContentDamaged, StorageUnavailable
from depotfs.io.content import Content
from depotfs.io.gridfs_connection import Collections
from depotfs.io.gridfs_documents import CHUNK_SIZE, CRC, OWN, Document, FilesDocument
from depotfs.io.gridfs_errors import is_duplicate, leaves_doubt

BATCH: Final = 32 * CHUNK_SIZE
"""Bytes of one insert of chunks: just below 8 MiB, where mongod was measured fastest. Memory holds it three times."""
_COPIED: Final = 256
"""Chunks that the server copies at once: it takes half a second (measured), and limits are those of a step."""
_SHORTER: Final = 2
_SHORTEST: Final = 5
"""By how many powers of two the next insert is shorter after one that took too long, and by how many at most."""
_SWAPS: Final = 20
_PAUSE: Final = 0.01
"""Swaps of others that are finished on the way to a file at rest, and the seconds before the second one, which grow."""
_MOVES: Final = 8
"""Times that chunks in the way are moved aside in one swap; more than one means uploads of one id all the time."""


class Upload:
    """Chunks of one content on their way into a GridFS; they belong to no file yet.

    Attributes:
        id: stamp of each chunk; place: their `files_id`, the file's key or the upload's own id.
        size: bytes so far; batches: inserts so far.
    """

    def __init__(self, collections: Collections, key: Any, *, staged: bool) -> None:
        self._collections = collections
        self.id = ObjectId()
        self.key = key
        self.place: Any = self.id if staged else key
        self.size = 0
        self.batches = 0
        self._chunks = collections.chunks
        self._md5 = hashlib.md5(usedforsecurity=False)

    @property
    def staged(self) -> bool:
        """Whether no chunk stands at the file's key."""
        return bool(self.place == self.id)

    @property
    def md5(self) -> str:
        """Of all bytes so far, hex."""
        return self._md5.hexdigest()

    def send(self, content: Content, occupied: Callable[[], None]) -> None:
        """All of the content is in chunks.

        Args:
            occupied: called when another chunk holds the place of one; it may raise to give up.
        """
        while data := content.read(self._batch()):
            self._md5.update(data)
            self._insert(list(self._documents(data)), occupied)
            self.size += len(data)
            self.batches += 1
        if content.size is not None and content.size != self.size:
            raise ContentDamaged(f"{self.size} bytes came of content of {content.size} bytes")

    def _batch(self) -> int:
        """Bytes of the next insert: whole chunks."""
        return max(BATCH >> self._collections.shorter, CHUNK_SIZE) // CHUNK_SIZE * CHUNK_SIZE

    def copy(self, key: Any, source: ObjectId, size: int, occupied: Callable[[], None]) -> bool:
        """The chunks are those of another upload, at `key` or its own id, copied in the server.

        False, and nothing is uploaded, where the server cannot or where the source is not whole or at rest.
        """
        try:
            for first in range(0, -(-size // CHUNK_SIZE), _COPIED):
                self._merge(key, source, first)
        except OperationFailure as error:
            if leaves_doubt(error):
                raise
            if self.staged or not is_duplicate(error):
                self.discard()
                return False
            occupied()
            self.discard()
            self.place = self.id
            return self.copy(key, source, size, occupied)
        self.size, self.batches = size, -(-size // BATCH)
        if not self.is_whole():
            self.discard()
            self.size = self.batches = 0
            return False
        return True

    def _merge(self, key: Any, source: ObjectId, first: int) -> None:
        ours = {"files_id": self.place, OWN: self.id}
        numbers = {"$gte": first, "$lt": first + _COPIED}
        stages: list[Document] = [
            {"$match": {"files_id": {"$in": [key, source]}, "n": numbers, OWN: source}},
            {
                "$project": {
                    "_id": 0,
                    "n": 1,
                    "data": 1,
                    CRC: 1,
                    **{name: {"$literal": value} for name, value in ours.items()},
                }
            },
            {"$merge": {"into": self._chunks.name, "whenMatched": "fail"}},
        ]
        self._chunks.with_options(read_preference=ReadPreference.PRIMARY).aggregate(stages)

    def _documents(self, data: bytes) -> Iterator[Document]:
        first = self.size // CHUNK_SIZE  # every batch but the last is a whole number of chunks
        for n, start in enumerate(range(0, len(data), CHUNK_SIZE), first):
            piece = Binary(data[start : start + CHUNK_SIZE])
            own = {OWN: self.id, CRC: Int64(zlib.crc32(piece))}
            yield {"_id": ObjectId(), "files_id": self.place, "n": n, "data": piece, **own}

    def _insert(self, documents: list[Document], occupied: Callable[[], None]) -> None:
        try:
            self._chunks.insert_many(documents)
        except NetworkTimeout:
            # A slow line: what is stored later is sent in shorter pieces.
            self._collections.shorter = min(self._collections.shorter + _SHORTER, _SHORTEST)
            raise
        except BulkWriteError as error:
            if self.staged or not is_duplicate(error):
                raise
            occupied()
            self.stage()
            left = documents[error.details["nInserted"] :]  # in order: what precedes the refused one is in
            self._chunks.insert_many([{**chunk, "files_id": self.place} for chunk in left])

    def is_whole(self) -> bool:
        """Whether all of the chunks are there."""
        where = {"files_id": {"$in": [self.key, self.id]}, OWN: self.id}
        return bool(self._chunks.count_documents(where) == -(-self.size // CHUNK_SIZE))

    def stage(self) -> None:
        """The chunks stand at the upload's own id, out of everybody's way."""
        if not self.staged:
            self.place = self.id
            self._chunks.update_many({"files_id": self.key, OWN: self.id}, {"$set": {"files_id": self.id}})

    def discard(self, because: BaseException | None = None) -> None:
        """The chunks are gone, as far as the server can be reached: else `sweep` deletes them.

        Args:
            because: why; if it is that no server was found, none is looked for again.
        """
        if isinstance(because, ServerSelectionTimeoutError):
            return
        with suppress(PyMongoError):
            self._chunks.delete_many({"files_id": {"$in": [self.key, self.id]}, OWN: self.id})


def settled(collections: Collections, key: Any) -> FilesDocument | None:
    """The files document of the key, None where there is none; no swap is under way in it. StorageUnavailable."""
    for tried in range(_SWAPS):
        if tried:
            time.sleep(random.uniform(0.5, 1.0) * _PAUSE * tried)
        raw = collections.deciding.find_one({"_id": key})
        document = FilesDocument(raw, key) if raw is not None else None
        if document is None or not document.pending:
            return document
        finish(collections, document)
    raise StorageUnavailable(f"File {key} is written by others all the time")


def finish(collections: Collections, document: FilesDocument) -> None:
    """What is left of the document's swap is done: its chunks stand at its key, those of the old content are gone."""
    key, upload = document.key, document.upload
    if document.replaces:
        collections.chunks.delete_many({"files_id": key, OWN: document.old})  # null finds those without a stamp
    _move_home(collections, key, upload)
    mine = {"_id": key, f"{OWN}.upload": upload}
    done = collections.files.update_one(mine, {"$unset": {f"{OWN}.pointer": "", f"{OWN}.old": ""}})
    if not done.matched_count:
        # Replaced or removed meanwhile, perhaps while a chunk was between its two places: then it was missed.
        collections.chunks.delete_many({"files_id": {"$in": [key, upload]}, OWN: upload})


def delete_chunks(collections: Collections, document: FilesDocument) -> None:
    """No chunk is left of a files document that is deleted already."""
    places = [document.key] if document.upload is None else [document.key, document.upload]
    stamps = [document.upload, document.old] if document.replaces else [document.upload]
    where = {"files_id": {"$in": places}, OWN: {"$in": stamps}}
    # Again while a swap may be moving chunks from the place not yet searched to the one already searched.
    while collections.chunks.delete_many(where).deleted_count and document.pending:
        pass


def _move_home(collections: Collections, key: Any, upload: ObjectId | None) -> None:
    """The upload's chunks stand at the key, unless the document has other content by now."""
    left = _MOVES
    while True:
        try:
            collections.chunks.update_many({"files_id": upload, OWN: upload}, {"$set": {"files_id": key}})
        except OperationFailure as error:
            left -= 1
            if not is_duplicate(error) or not left:
                raise
            if not collections.deciding.find_one({"_id": key, f"{OWN}.upload": upload}, {"_id": True}):
                return
            _clear(collections, key, upload)
        else:
            return


def _clear(collections: Collections, key: Any, upload: ObjectId | None) -> None:
    """Chunks at the key that are not the document's are out of the way: without a stamp deleted, as no document can
    name them any more; those of another upload moved to its own id, where it goes on if it is still at work."""
    collections.chunks.delete_many({"files_id": key, OWN: None})
    others = {"files_id": key, OWN: {"$nin": [upload, None]}}
    collections.chunks.update_many(others, [{"$set": {"files_id": f"${OWN}"}}])
