"""Files in MongoDB's GridFS, as filedepot stores them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import islice
from typing import Any, ClassVar, Final

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.errors import OperationFailure, PyMongoError

from depotfs.errors import (
    AlreadyStored,
    FileNotStored,
    InvalidMetadata,
    StorageUnavailable,
    VersionChanged,
)
from depotfs.io.content import Content, StreamContent
from depotfs.io.gridfs_commit import Commit, check_expected, now
from depotfs.io.gridfs_connection import Connection, Target
from depotfs.io.gridfs_documents import OWN, Document, FilesDocument, content_filter, key_of, upload_of
from depotfs.io.gridfs_errors import CURSOR_ENDED, code_of, leaves_doubt, translated
from depotfs.io.gridfs_reader import GridFSReader
from depotfs.io.gridfs_swap import Upload, delete_chunks, finish, settled
from depotfs.io.gridfs_sweep import sweep
from depotfs.io.ids import IdForm
from depotfs.io.interfaces import PAGE
from depotfs.io.native import NativeStorage
from depotfs.io.reader import ContentReader, ReaderStream
from depotfs.io.times import format_stored
from depotfs.types import ABSENT, ANY, PRESENT, Expected, FileEntry, FileId, FileMetadata, FileStat

_UUID_PATTERN: Final = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_ORPHAN_AGE: Final = 86_400.0
"""Seconds: no upload is at work for longer than a day."""


class GridFSStorage(NativeStorage):
    """Files in the GridFS `collection` of a MongoDB database; filedepot reads and writes the same ones.

    Replacing is atomic for readers of ours, and whole after a crash at any step: `gridfs_swap` says what each step
    leaves and who repairs it. filedepot may fail to read a file during the moment of its swap. filedepot itself
    deletes before it writes: it and this class must not *write* the same id at the same time.

    A move is a copy in the server, then the removal of what was copied; a process that dies in between leaves both. No
    single update can do it: an `_id` cannot be changed, two documents do not change at once on a standalone server,
    and filedepot finds chunks by the file's own `_id`, so that each has to be written anew anyway (measured: 64 MiB
    take 0.4 s to copy, and 0.25 s to write anew in place, where a crash could leave chunks that two files call theirs).

    Needs MongoDB 4.2; from 4.4 on copies are made in the server. A file's UUID is stored as a string `_id`.
    Stored content is in the server's journal when a call returns, unless the URI says `journal=false`. Read and
    write concern, read preference and time limits are the URI's; where it has no limits, a server that cannot be
    found is given up after 2.5 s, one that does not answer after 60 s. A URI that names a replica set by more than one
    host, by `replicaSet` or as mongodb+srv lets pymongo repeat a write when the set gets another primary.

    Args:
        mongouri: names a database: `mongodb://host/database`. Nothing is sent to it before the first use.
        collection: GridFS's name for the pair of collections, `<collection>.files` and `<collection>.chunks`.

    Raises:
        ConfigurationError: the URI is wrong or names no database.
    """

    id_form: ClassVar[IdForm] = IdForm.OBJECT_ID

    def __init__(self, mongouri: str, collection: str = "filedepot") -> None:
        self._target = Target(mongouri)
        self._collection = collection
        self._connection = Connection(self._target, collection)

    def identity(self) -> str:
        return f"gridfs:{self._target.hosts}/{self._target.database}/{self._collection}"

    def limit_calls(self, seconds: float | None) -> None:
        self._connection.limit(seconds)

    def close(self) -> None:
        self._connection.close()

    def new_id(self) -> FileId:
        return FileId(str(ObjectId()))

    # --- looking ---------------------------------------------------------------------------------------------

    def stat(self, file_id: FileId) -> FileStat:
        with self._doing(f"File {file_id} cannot be looked up"):
            document = self._find(key_of(file_id))
        if document is None:
            raise FileNotStored(f"{self._file(file_id)} does not exist")
        return document.stat()

    def pages(self, after: str = "") -> Iterator[Sequence[FileEntry]]:
        """As `FileStorage.pages`, from two cursors (ObjectIds, UUIDs); entries carry everything.

        A document that tells no length is listed without a `stat`. Those with other kinds of `_id` are not listed.
        """
        object_ids = self._scan({"$gte": _object_id_near(after), "$type": "objectId"})
        uuids = self._scan({"$gt": after, "$type": "string", "$regex": _UUID_PATTERN})
        entries = heapq.merge(object_ids, uuids, key=lambda entry: entry.file_id)
        behind = (entry for entry in entries if entry.file_id > after)
        last = after
        while page := list(islice(behind, PAGE)):
            ids = [last, *(entry.file_id for entry in page)]
            if ids != sorted(set(ids)):
                raise StorageUnavailable(f"The listing of {self.identity()} does not move on behind {last!r}")
            last = ids[-1]
            yield page

    def _scan(self, keys: Document) -> Iterator[FileEntry]:
        """Entries of the files whose `_id` matches, in the order of `_id`."""
        with self._doing("Files cannot be listed"):
            before = None
            while before != keys:
                before = keys
                files = self._connection.collections().files
                try:
                    for raw in files.find({"_id": keys}).sort("_id").batch_size(PAGE):
                        document = FilesDocument(raw)
                        keys = {**keys, "$gt": document.key}
                        yield _entry_of(document)
                except OperationFailure as error:
                    if code_of(error) not in CURSOR_ENDED:
                        raise
                else:
                    return
            raise StorageUnavailable(f"The listing of {self.identity()} does not move on")

    def open_content(self, file: FileId | FileStat) -> ContentReader:
        """As `FileStorage.open_content`. Of a stat, its version is asked for by the first read, not here."""
        if not isinstance(file, FileStat):
            file = self.stat(file)
        elif not file.size and self.stat(file.file_id).version != file.version:  # no read of no bytes would ask
            raise VersionChanged(f"{self._file(file.file_id)} was replaced")
        return GridFSReader(self._connection.collections, self._find, file, self.identity())

    def _find(self, key: Any) -> FilesDocument | None:
        """The files document, by one query; an interrupted swap is finished, if that is allowed and works."""
        collections = self._connection.collections()
        raw = collections.files.find_one({"_id": key})
        if raw is None:
            return None
        document = FilesDocument(raw, key)
        if document.pending:
            with suppress(PyMongoError):  # a reader without the right to write still reads
                finish(collections, document)
        return document

    # --- changing --------------------------------------------------------------------------------------------

    def put(
        self, content: Content, metadata: FileMetadata, *, file_id: FileId, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        """As `FileStorage.put`; at most 24 MiB of memory are used for the content."""

        def send(upload: Upload, occupied: Callable[[], None]) -> str:
            upload.send(content, occupied)
            return upload.md5

        return self._store(send, metadata, file_id, expect, commit)

    def copy(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        """As `FileStorage.copy`; the bytes stay in the server where it can do that, else they pass through here."""

        def send(upload: Upload, occupied: Callable[[], None]) -> str:
            origin = upload_of(source.version)
            if origin is not None and upload.copy(key_of(source.file_id), origin, source.size, occupied):
                return source.checksum.removeprefix("md5:")
            upload.send(StreamContent(ReaderStream(self.open_content(source)), source.size), occupied)
            return upload.md5

        return self._store(send, metadata, target, expect, commit)

    def _store(
        self,
        send: Callable[[Upload, Callable[[], None]], str],
        metadata: FileMetadata,
        file_id: FileId,
        expect: Expected,
        commit: str,
    ) -> FileStat:
        """The chunks that `send` uploads are the file's content; `send` returns their md5, "" where it is unknown."""
        _check_text(metadata.filename, metadata.content_type)
        with self._doing(f"File {file_id} cannot be stored"):
            collections = self._connection.collections()
            decision = Commit(collections, key_of(file_id), expect, self._file(file_id))
            try:
                return self._decided(decision, send, metadata, commit).stat()
            except (AlreadyStored, FileNotStored, VersionChanged):
                # Perhaps by this very commit, in a call before this one whose reply was lost.
                document = settled(collections, key_of(file_id)) if commit else None
                if document is None or document.commit != commit:
                    raise
                return document.stat()

    def _decided(
        self,
        decision: Commit,
        send: Callable[[Upload, Callable[[], None]], str],
        metadata: FileMetadata,
        commit: str,
    ) -> FilesDocument:
        upload = decision.begin()
        try:
            md5 = send(upload, decision.occupied)
        except BaseException as error:
            upload.discard(error)
            raise
        return decision.decide(upload, metadata, md5=md5, commit=commit)

    def update(
        self,
        file: FileStat,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        modified: int | None = None,
    ) -> FileStat:
        """As `FileStorage.update`, by one write of the files document; sent twice if its first reply is lost."""
        last_modified = None if modified is None else format_stored(modified)
        given = {"filename": filename, "contentType": content_type, "last_modified": last_modified}
        changes = {name: value for name, value in given.items() if value is not None}
        _check_text(*changes.values())
        change = {"$set": {**changes, f"{OWN}.changed": now()}, "$inc": {f"{OWN}.revision": 1}}
        key = key_of(file.file_id)
        where = content_filter(key, file.version)
        with self._doing(f"The metadata of file {file.file_id} cannot be changed"):
            collections = self._connection.collections()

            def write() -> Document | None:
                return collections.deciding.find_one_and_update(where, change, return_document=ReturnDocument.AFTER)

            raw = _twice(write)
            if raw is None:
                document = settled(collections, key)
                check_expected(document, PRESENT if document is None else file.version, self._file(file.file_id))
                raise VersionChanged(f"{self._file(file.file_id)} was replaced meanwhile")
            document = FilesDocument(raw, key)
            if document.pending:
                with suppress(PyMongoError):
                    finish(collections, document)
            return document.stat()

    def remove(self, file_id: FileId, *, expect: Expected = ANY) -> None:
        """As `FileStorage.remove`: the files document goes first, then the chunks."""
        key = key_of(file_id)
        any_version = expect in (ANY, ABSENT, PRESENT)
        where = {"_id": key} if any_version else content_filter(key, str(expect))
        with self._doing(f"File {file_id} cannot be deleted"):
            collections = self._connection.collections()
            raw = None if expect == ABSENT else _twice(lambda: collections.files.find_one_and_delete(where))
            if raw is not None:
                with suppress(PyMongoError):  # the file is gone: what cannot be deleted now is an orphan for `sweep`
                    delete_chunks(collections, FilesDocument({**raw, "_id": key}))
            elif not any_version or expect == ABSENT:
                document = settled(collections, key)
                if document is not None:
                    check_expected(document, expect, self._file(file_id))

    def sweep(self, older_than: float = _ORPHAN_AGE) -> int:
        """Chunks that no file owns, inserted more than `older_than` seconds ago, are gone; returns how many went.

        They are what killed uploads, copies and removes leave. The server reads all chunks for this: something for
        a quiet hour. An upload that has been at work for longer than `older_than` loses its chunks.
        """
        with self._doing("Orphans cannot be deleted"):
            return sweep(self._connection.collections(), older_than)

    def _doing(self, what: str) -> AbstractContextManager[None]:
        return translated(f"{what} in {self.identity()}")

    def _file(self, file_id: FileId) -> str:
        return f"File {file_id} in {self.identity()}"


def _twice(write: Callable[[], Document | None]) -> Document | None:
    """What `write` returns; called again if the first reply is lost."""
    try:
        return write()
    except PyMongoError as error:
        if not leaves_doubt(error):
            raise
        return write()


def _entry_of(document: FilesDocument) -> FileEntry:
    try:
        stat = document.stat()
    except InvalidMetadata:
        return FileEntry(FileId(str(document.key)))
    return FileEntry(stat.file_id, stat.size, stat.revision, stat.changed_ns, stat)


def _object_id_near(after: str) -> ObjectId:
    """An ObjectId that none whose text sorts behind `after` is below."""
    digits = ""
    for character in after[:24]:
        if character not in "0123456789abcdef":
            break
        digits += character
    return ObjectId(digits.ljust(24, "0"))


def _check_text(*values: str) -> None:
    for value in values:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidMetadata(f"{value!r} is not valid Unicode: {error.reason}") from None
