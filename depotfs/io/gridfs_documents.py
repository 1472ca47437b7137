"""The documents of GridFS: what a files document tells of a stored file, and how one is found by its content.

A files document is GridFS's (`_id`, `filename`, `contentType`, `chunkSize`, `length`, `uploadDate`) with
filedepot's `last_modified` and, where this library wrote it, a sub-document `depotfs`:

- `upload`: ObjectId of the upload that the content came with; each of its chunks carries it too, as its `depotfs`;
- `md5`: of the content, hex · `commit`: the id that the caller gave it;
- `pointer`, while the chunks may stand elsewhere than at `_id`: their `files_id`, equal to `upload`;
- `old`, only beside `pointer`: the `upload` (null: none) of the content before, whose chunks are to be deleted;
- `revision`: how often the metadata was changed since the upload · `changed`: when that was last.

A chunk of ours has, beside GridFS's fields and its upload, a CRC-32 of its bytes (`crc32`): what a network changed is
seen in each range, while an md5 is that of the whole.
"""

from __future__ import annotations

import re
import zlib
from calendar import timegm
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from bson import ObjectId
from bson.datetime_ms import DatetimeMS

from depotfs.errors import ContentDamaged, InvalidMetadata
from depotfs.io.ids import IdForm, form_of, is_canonical
from depotfs.io.times import from_datetime, parse_stored, to_datetime
from depotfs.types import OCTET_STREAM, UNNAMED, FileId, FileMetadata, FileStat

CHUNK_SIZE = 255 * 1024
"""Bytes of a chunk of ours: GridFS's default, which is what filedepot writes."""
OWN = "depotfs"
"""Our field: in a files document a sub-document, in a chunk the upload's id."""

CRC: Final = "crc32"
"""Field of a chunk of ours: the checksum of its bytes."""

Document = dict[str, Any]
_MD5: Final = re.compile("[0-9a-fA-F]{32}")
_ODD = "x"  # in a version: the field is missing or of another type than GridFS says


def key_of(file_id: FileId) -> ObjectId | str:
    """The `_id` of a canonical file id: an ObjectId, or the string of a UUID."""
    return ObjectId(file_id) if form_of(file_id) is IdForm.OBJECT_ID else str(file_id)


def id_of(key: Any) -> FileId | None:
    """The file id of an `_id`, None where it is neither an ObjectId nor the canonical string of a UUID."""
    if isinstance(key, ObjectId):
        return FileId(str(key))
    return FileId(key) if isinstance(key, str) and len(key) == 36 and is_canonical(key) else None


class FilesDocument:
    """One files document as it was read; of any shape, since other programs write them too.

    Attributes:
        key: its `_id`; raw: all of it; upload: None for content that is not ours.

    Args:
        asked: the `_id` that was asked for, None where a listing tells it.
    Raises:
        ContentDamaged: another `_id` came: the bytes were changed on the way, and others' chunks must not go for it.
    """

    def __init__(self, raw: Mapping[str, Any], asked: Any = None) -> None:
        if "_id" not in raw or (asked is not None and raw["_id"] != asked):
            raise ContentDamaged("A document came that nobody asked for")
        self.raw = raw
        self.key = raw["_id"]
        own = raw.get(OWN)
        self._own: Mapping[str, Any] = own if isinstance(own, dict) else {}
        upload = self._own.get("upload")
        self.upload: ObjectId | None = upload if isinstance(upload, ObjectId) else None

    @property
    def pending(self) -> bool:
        """Whether its chunks may still stand elsewhere than at its `_id`."""
        return self.upload is not None and self._own.get("pointer") == self.upload

    @property
    def replaces(self) -> bool:
        """Whether chunks of the content before may still be there, stamped `old`."""
        return self.pending and isinstance(self._own.get("old", _ODD), ObjectId | None)

    @property
    def old(self) -> ObjectId | None:
        """The upload of the content before, see `replaces`."""
        return self._own.get("old")

    @property
    def commit(self) -> str:
        """The id that the caller gave to the commit of this content, "" where there is none."""
        commit = self._own.get("commit")
        return commit if isinstance(commit, str) else ""

    @property
    def version(self) -> str:
        """Names the content: the upload's id, or what other programs' content is told apart by."""
        if self.upload is not None:
            return str(self.upload)
        uploaded = _milliseconds(self.raw.get("uploadDate"))
        parts = (uploaded, _integer(self.raw.get("length")), _integer(self.raw.get("chunkSize")))
        return "_".join(_ODD if part is None else str(part) for part in parts)

    def unchanged(self) -> Document:
        """Finds the document while its content is what was read, whatever shape it has."""
        fields = (OWN, "uploadDate", "length", "chunkSize")
        return {"_id": self.key, **{name: {"$eq": self.raw.get(name)} for name in fields}}

    def stat(self) -> FileStat:
        """All that the document tells. InvalidMetadata where it does not tell the length or the size of a chunk."""
        file_id = id_of(self.key)
        size, chunk_size = _integer(self.raw.get("length")), _integer(self.raw.get("chunkSize"))
        if file_id is None or size is None or size < 0 or chunk_size is None or chunk_size <= 0:
            raise InvalidMetadata(f"The GridFS document of file {self.key} has no usable length and chunkSize")
        metadata = self._metadata()
        digest = zlib.crc32(repr(metadata).encode("utf-8", "surrogatepass"))
        # With the digest, since other programs change metadata without counting.
        revision = f"{self.version}.{_integer(self._own.get('revision')) or 0}.{digest:08x}"
        changed = max(_in_calendar(self.raw.get("uploadDate")), _in_calendar(self._own.get("changed")))
        return FileStat(
            file_id=file_id,
            size=size,
            version=self.version,
            revision=revision,
            metadata=metadata,
            changed_ns=changed * 10**6,
            commit=self.commit,
            checksum=self._checksum(),
        )

    def _metadata(self) -> FileMetadata:
        filename, content_type = self.raw.get("filename"), self.raw.get("contentType")
        modified = parse_stored(self.raw.get("last_modified"))
        if modified is None:
            modified = _in_calendar(self.raw.get("uploadDate")) // 1000
        return FileMetadata(
            filename if isinstance(filename, str) else UNNAMED,
            content_type if isinstance(content_type, str) else OCTET_STREAM,
            modified,
        )

    def _checksum(self) -> str:
        """Ours, or the one that drivers stored before 2020 (`md5` beside the length)."""
        md5 = self._own.get("md5") if self.upload is not None else self.raw.get("md5")
        return f"md5:{md5.lower()}" if isinstance(md5, str) and _MD5.fullmatch(md5) else ""


def bytes_of(chunk: Document, size: int) -> bytes | None:
    """The bytes of a chunk, None where they are not so many, or others than were stored."""
    data, crc = chunk.get("data"), chunk.get(CRC)
    if not isinstance(data, bytes) or len(data) != size:
        return None
    return data if crc is None or crc == zlib.crc32(data) else None


def content_filter(key: Any, version: str) -> Document:
    """Finds the files document of that `_id` while it has that very content."""
    upload = upload_of(version)
    if upload is not None:
        return {"_id": key, f"{OWN}.upload": upload}
    found: Document = {"_id": key, f"{OWN}.upload": {"$not": {"$type": "objectId"}}}
    uploaded, length, chunk_size = _foreign(version)
    found["uploadDate"] = {"$not": {"$type": "date"}} if uploaded is None else DatetimeMS(uploaded)
    found["length"] = {"$not": {"$type": "number"}} if length is None else length
    found["chunkSize"] = {"$not": {"$type": "number"}} if chunk_size is None else chunk_size
    return found


def upload_of(version: str) -> ObjectId | None:
    """The upload that a version names, None where the content is another program's."""
    return ObjectId(version) if len(version) == 24 and ObjectId.is_valid(version) else None


def chunk_size_of(version: str) -> int:
    """Bytes of each chunk but the last of that content."""
    return CHUNK_SIZE if upload_of(version) else _foreign(version)[2] or CHUNK_SIZE


def _foreign(version: str) -> tuple[int | None, int | None, int | None]:
    """(uploadDate in ms, length, chunkSize) of the version of another program's content."""
    parts = version.split("_")
    if len(parts) != 3:
        return -1, -1, -1  # no version of ours: no document has this
    uploaded, length, chunk_size = (int(part) if part.lstrip("-").isdecimal() else None for part in parts)
    return uploaded, length, chunk_size


def _milliseconds(value: Any) -> int | None:
    """Milliseconds since the epoch of a BSON date, None where it is none."""
    if isinstance(value, DatetimeMS):
        return int(value)
    if isinstance(value, datetime):
        return timegm(value.timetuple()) * 1000 + value.microsecond // 1000
    return None


def _in_calendar(value: Any) -> int:
    """Milliseconds since the epoch of a BSON date, brought into the years 1 to 9999; 0 where it is none."""
    moment = _milliseconds(value) or 0
    return from_datetime(to_datetime(moment // 1000)) * 1000 + moment % 1000


def _integer(value: Any) -> int | None:
    """A whole number of whatever BSON type (the shell stores doubles), None where it is none or has over 63 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if abs(value) < 1 << 63 else None
