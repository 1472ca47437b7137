"""Contents, ids and helpers that the contract's tests share."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from depotfs.io.content import BytesContent
from depotfs.io.ids import new_uuid
from depotfs.io.interfaces import FileStorage
from depotfs.types import ANY, Expected, FileId, FileMetadata, FileStat

TEXT = "text/plain"
PNG = "image/png"
OLD = 981_173_106  # 2001-02-03 04:05:06 UTC
METADATA = FileMetadata("name.txt", TEXT, OLD)
ABSENT_IDS = (FileId("590f20fd-d941-5e6d-b65e-8496d7f4da20"), FileId("590f20fdd9415e6db65e8496"))
"""An id of each form, stored nowhere at first."""


def noise(size: int, seed: int = 1) -> bytes:
    """`size` bytes in which no piece looks like another."""
    return random.Random(seed).randbytes(size)


def put(
    storage: FileStorage,
    data: bytes,
    file_id: FileId | None = None,
    *,
    metadata: FileMetadata = METADATA,
    expect: Expected = ANY,
    commit: str = "",
) -> FileStat:
    """Stored under `file_id`, by default a new one."""
    return storage.put(BytesContent(data), metadata, file_id=file_id or new_uuid(), expect=expect, commit=commit)


def content_of(storage: FileStorage, file: FileId | FileStat) -> bytes:
    """The bytes, by way of `open_content`."""
    reader = storage.open_content(file)
    try:
        return reader.pread(0, reader.stat.size + 1)
    finally:
        reader.close()


class OneWay(io.RawIOBase):
    """A stream such as a socket or pipe gives: no seek, no name, fewer bytes than asked for at times."""

    def __init__(self, data: bytes, fail_at: int | None = None, error: BaseException | None = None) -> None:
        super().__init__()
        self._source = io.BytesIO(data)
        self._fail_at = fail_at
        self._error = error or OSError("the source is gone")

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if self._fail_at is not None and self._source.tell() >= self._fail_at:
            raise self._error
        return self._source.read(min(size, 70_000) if size and size > 0 else -1)


class TurnsToText:
    """A source that gives bytes at first and text later."""

    def __init__(self) -> None:
        self._pieces: list[Any] = [b"bytes", "text"]

    def read(self, size: int = -1) -> Any:
        return self._pieces.pop(0) if self._pieces else b""


class Field:
    """What web frameworks hand over for an uploaded file (cgi.FieldStorage, a multipart part)."""

    def __init__(self, data: bytes, filename: str, type: str | None = None) -> None:
        self.file = io.BytesIO(data)
        self.filename = filename
        self.type = type


@contextmanager
def unchanged(storage: FileStorage) -> Iterator[None]:
    """Inside, nothing that the storage holds may change."""

    def picture() -> dict[str, tuple[FileStat, bytes]]:
        ids = [FileId(file_id) for file_id in storage.list()]
        return {file_id: (_settled(storage.stat(file_id)), content_of(storage, file_id)) for file_id in ids}

    before = picture()
    yield
    assert picture() == before


def _settled(stat: FileStat) -> FileStat:
    """The same, as it is told of a file that is not young: on S3 one of the last seconds has another revision."""
    return replace(stat, revision=stat.revision.partition("+")[0])
