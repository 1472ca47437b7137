"""A commit: chunks that were uploaded become the content of a file, if that file is as expected."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from bson import Int64
from pymongo.errors import DuplicateKeyError, PyMongoError

from depotfs.errors import AlreadyStored, DepotError, FileNotStored, StorageUnavailable, VersionChanged
from depotfs.io.gridfs_connection import Collections
from depotfs.io.gridfs_documents import CHUNK_SIZE, OWN, Document, FilesDocument
from depotfs.io.gridfs_errors import leaves_doubt
from depotfs.io.gridfs_swap import Upload, finish, settled
from depotfs.io.times import format_stored
from depotfs.types import ABSENT, ANY, PRESENT, Expected, FileMetadata

_ROUNDS: Final = 100
_PAUSE: Final = 0.001
"""Times that a commit which takes whatever is there loses to another one before it gives up, and the seconds that it
waits after the first, which grow: 5 in all."""


class Commit:
    """Decides about one upload; each decision is one conditional write of the files document.

    Args:
        key: the file's `_id`; what: names file and storage in messages.
    """

    def __init__(self, collections: Collections, key: Any, expect: Expected, what: str) -> None:
        self._collections = collections
        self._key, self._expect, self._what = key, expect, what
        self._before: FilesDocument | None = None

    def begin(self) -> Upload:
        """An upload for this commit; its chunks go where the file's own will be, if the file is expected to be new.

        Raises:
            FileNotStored, VersionChanged: as far as that can be told without an upload.
        """
        self._collections.ensure_indexes()
        if self._expect not in (ANY, ABSENT):
            self._look()
        return Upload(self._collections, self._key, staged=self._before is not None)

    def occupied(self) -> None:
        """Another chunk stands where one of the upload should: looks whether that ends it. AlreadyStored."""
        self._look()

    def decide(self, upload: Upload, metadata: FileMetadata, *, md5: str, commit: str) -> FilesDocument:
        """The upload is the file's content. Where it cannot be, its chunks are gone when this raises.

        Raises:
            AlreadyStored, FileNotStored, VersionChanged: the file is not as expected.
            StorageUnavailable: it may be the content all the same; its chunks remain.
        """
        own = {name: value for name, value in (("md5", md5), ("commit", commit)) if value}
        fields = _fields(metadata, upload.size)
        doubted = False
        for lost in range(_ROUNDS):
            if lost:
                time.sleep(random.uniform(0.5, 1.0) * _PAUSE * lost)
            try:
                document = self._attempt(upload, fields, {"upload": upload.id, **own})
            except (DepotError, PyMongoError) as error:
                if not leaves_doubt(error):
                    upload.discard(error)
                    raise
                if doubted:
                    raise
                doubted, document = True, None  # the reply was lost: look, and try once more if it is not there
            if document is not None:
                self._finish(document)
                return document
            self._before = settled(self._collections, self._key)
            if self._before is not None and self._before.upload == upload.id:
                return self._before
            if doubted and not upload.is_whole():
                raise StorageUnavailable(f"{self._what} may have been stored, and replaced by others since")
        raise StorageUnavailable(f"{self._what} is written by others all the time")

    def _look(self) -> None:
        self._before = settled(self._collections, self._key)
        check_expected(self._before, self._expect, self._what)

    def _attempt(self, upload: Upload, fields: Document, own: Document) -> FilesDocument | None:
        """The file's new document, None where the file is not what it was when it was looked at."""
        check_expected(self._before, self._expect, self._what)
        if self._before is None:
            return self._insert(upload, fields, own)
        upload.stage()
        return self._exchange(self._before, fields, own)

    def _insert(self, upload: Upload, fields: Document, own: Document) -> FilesDocument | None:
        if upload.staged or upload.batches > 1:
            # While a longer upload was at work, another one may have moved its chunks out of the way.
            own = {**own, "pointer": upload.id}
        document = {"_id": self._key, **fields, OWN: own}
        try:
            self._collections.deciding.insert_one(document)
        except DuplicateKeyError:
            return None
        return FilesDocument(document)

    def _exchange(self, before: FilesDocument, fields: Document, own: Document) -> FilesDocument | None:
        own = {**own, "pointer": own["upload"], "old": before.upload}
        change = {"$set": {**fields, OWN: own}, "$unset": {"md5": ""}}  # an md5 of the old content
        done = self._collections.deciding.find_one_and_update(before.unchanged(), change, {"_id": True})
        return FilesDocument({"_id": self._key, **fields, OWN: own}) if done is not None else None

    def _finish(self, document: FilesDocument) -> None:
        if document.pending:
            # The file is stored. What cannot be finished now is finished by whoever looks at it next.
            with suppress(PyMongoError):
                finish(self._collections, document)


def check_expected(document: FilesDocument | None, expect: Expected, what: str) -> None:
    """The document, or its absence, is what a write expects, else AlreadyStored, FileNotStored, VersionChanged."""
    if expect is ANY or (document is None and expect == ABSENT):
        return
    if document is None:
        if expect == PRESENT:
            raise FileNotStored(f"{what} does not exist")
        raise VersionChanged(f"{what} was deleted")
    if expect == ABSENT:
        raise AlreadyStored(f"{what} is there already")
    if expect not in (PRESENT, document.version):
        raise VersionChanged(f"{what} was replaced")


def now() -> datetime:
    """Now as BSON keeps it: UTC, whole milliseconds."""
    moment = datetime.now(UTC).replace(tzinfo=None)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _fields(metadata: FileMetadata, size: int) -> Document:
    """GridFS's and filedepot's fields of a files document."""
    return {
        "filename": metadata.filename,
        "contentType": metadata.content_type,
        "chunkSize": CHUNK_SIZE,
        "length": Int64(size),  # the type that drivers store, however small it is
        "uploadDate": now(),
        "last_modified": format_stored(metadata.modified),
    }
