"""The storage that keeps files in memory: the honest reference of the contract, and the fake to test against."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
import uuid
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, Final

from depotfs.errors import AlreadyStored, FileNotStored, TooLarge, VersionChanged
from depotfs.io.content import CHUNK, Content
from depotfs.io.interfaces import PAGE
from depotfs.io.locks import Lock
from depotfs.io.moves import move_onto_itself
from depotfs.io.native import NativeStorage
from depotfs.io.reader import ContentReader
from depotfs.io.times import from_datetime, to_datetime
from depotfs.types import (
    ABSENT,
    ANY,
    OCTET_STREAM,
    PRESENT,
    UNNAMED,
    Expected,
    FileEntry,
    FileId,
    FileMetadata,
    FileStat,
)

LARGEST: Final = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
"""Bytes of one file: a quarter of the machine's memory, since they are there twice while they are stored. A sparse
file of a terabyte would otherwise end the process."""


class MemoryFileStorage(NativeStorage):
    """Files that are gone with the process. Reads and writes copy nothing but what callers could change.

    Args:
        options: ignored, so that a test can put this class in the place of any other.

    Attributes:
        files: file id -> {"data": bytes, "metadata": {"filename", "content_type", "content_length",
            "last_modified" (datetime)}}, as in filedepot, and what else we know of it.
    """

    inline = True
    max_size = LARGEST

    def __init__(self, **options: Any) -> None:
        self.files: dict[str, dict[str, Any]] = {}
        self._identity = f"memory:{uuid.uuid4()}"
        self._lock = Lock()  # from comparing to storing; nothing else is done inside
        self._numbers = itertools.count(1)

    def identity(self) -> str:
        return self._identity

    def stat(self, file_id: FileId) -> FileStat:
        return _stat_of(file_id, self._record(file_id))

    def pages(self, after: str = "") -> Iterator[Sequence[FileEntry]]:
        ids = sorted(self.files)
        for start in range(bisect_right(ids, after), len(ids), PAGE):
            records = [(FileId(i), self.files.get(i)) for i in ids[start : start + PAGE]]
            stats = [_stat_of(file_id, record) for file_id, record in records if record is not None]
            yield [FileEntry(s.file_id, s.size, s.revision, s.changed_ns, s) for s in stats]

    def open_content(self, file: FileId | FileStat) -> ContentReader:
        file_id = file if isinstance(file, str) else file.file_id
        record = self._record(file_id)
        stat = _stat_of(file_id, record)
        if isinstance(file, FileStat) and file.version != stat.version:
            raise VersionChanged(f"File {file_id} was replaced in {self._identity}")
        return _MemoryReader(stat, record["data"])

    def put(
        self, content: Content, metadata: FileMetadata, *, file_id: FileId, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        if content.size is not None and content.size > self.max_size:
            raise TooLarge(f"{self._identity} holds files of up to {self.max_size} bytes")
        data = b"".join(iter(lambda: content.read(CHUNK), b""))
        return self._store(file_id, data, metadata, expect, commit)

    def copy(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        reader = self.open_content(source)
        return self._store(target, reader.pread(0, source.size), metadata, expect, commit)

    def move(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        if target == source.file_id:
            return move_onto_itself(self, source, metadata, expect)
        with self._lock:
            data = self._record(source.file_id)["data"]
            self._check(source.file_id, source.version)
            self._check(target, expect)
            record = self._made(data, metadata, commit)
            self.files[target] = record
            del self.files[source.file_id]
        return _stat_of(target, record)

    def update(
        self,
        file: FileStat,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        modified: int | None = None,
    ) -> FileStat:
        with self._lock:
            record = self._record(file.file_id)
            self._check(file.file_id, file.version)
            changes = {
                "filename": filename,
                "content_type": content_type,
                "last_modified": None if modified is None else to_datetime(modified),
            }
            given = {key: value for key, value in changes.items() if value is not None}
            self.files[file.file_id] = {
                **record,
                "metadata": {**record["metadata"], **given},
                "revision": f"r{next(self._numbers)}",
                "changed_ns": time.time_ns(),
            }
            return _stat_of(file.file_id, self.files[file.file_id])

    def remove(self, file_id: FileId, *, expect: Expected = ANY) -> None:
        with self._lock:
            if file_id in self.files:
                self._check(file_id, expect)
                del self.files[file_id]

    def _record(self, file_id: FileId) -> dict[str, Any]:
        record = self.files.get(file_id)
        if record is None:
            raise FileNotStored(f"File {file_id} does not exist in {self._identity}")
        return record

    def _store(self, file_id: FileId, data: bytes, metadata: FileMetadata, expect: Expected, commit: str) -> FileStat:
        record = self._made(data, metadata, commit)
        with self._lock:
            self._check(file_id, expect)
            self.files[file_id] = record
        return _stat_of(file_id, record)

    def _made(self, data: bytes, metadata: FileMetadata, commit: str) -> dict[str, Any]:
        number = next(self._numbers)
        return {
            "data": data,
            "metadata": {
                "filename": metadata.filename,
                "content_type": metadata.content_type,
                "content_length": len(data),
                "last_modified": to_datetime(metadata.modified),
            },
            "version": f"v{number}",
            "revision": f"r{number}",
            "changed_ns": time.time_ns(),
            "commit": commit,
        }

    def _check(self, file_id: FileId, expect: Expected) -> None:
        if expect is ANY:
            return
        record = self.files.get(file_id)
        if expect == ABSENT:
            if record is not None:
                raise AlreadyStored(f"File {file_id} is there already in {self._identity}")
        elif expect == PRESENT:
            self._record(file_id)
        elif record is None or _stat_of(file_id, record).version != expect:
            raise VersionChanged(f"File {file_id} was replaced or deleted in {self._identity}")


class _MemoryReader(ContentReader):
    def __init__(self, stat: FileStat, data: bytes) -> None:
        self.stat = stat
        self._data = data

    def pread(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]

    def close(self) -> None:
        self._data = b""


def _stat_of(file_id: FileId, record: dict[str, Any]) -> FileStat:
    """The stat of a record of ours, or of one that a test put into `files` in filedepot's form."""
    data, stored = record["data"], record["metadata"]
    version = record.get("version") or hashlib.sha256(data).hexdigest()
    modified = stored.get("last_modified")
    seconds = from_datetime(modified) if modified else 0
    return FileStat(
        file_id=file_id,
        size=len(data),
        version=version,
        revision=record.get("revision") or f"{version} {sorted(stored.items())}",
        metadata=FileMetadata(stored.get("filename") or UNNAMED, stored.get("content_type") or OCTET_STREAM, seconds),
        changed_ns=record.get("changed_ns") or seconds * 10**9,
        commit=record.get("commit", ""),
    )
