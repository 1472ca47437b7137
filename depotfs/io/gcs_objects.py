"""An object resource of Google Cloud Storage and the stored file that it is: filedepot's format, and our own keys."""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from depotfs.errors import InvalidMetadata
from depotfs.io.gcs_answers import Json
from depotfs.io.times import format_stored, from_datetime, parse_stored
from depotfs.io.utils import decode_header_text, encode_header_text, make_content_disposition
from depotfs.types import OCTET_STREAM, UNNAMED, FileId, FileMetadata, FileStat

FIELDS: Final = "name,size,generation,metageneration,contentType,updated,md5Hash,crc32c,metadata"
"""Of a resource, what a stat is made of."""
_FILENAME: Final = "x-depot-filename"
_MODIFIED: Final = "x-depot-modified"
_CONTENT_TYPE: Final = "x-depot-content-type"
_COMMIT: Final = "x-depot-commit"
_UPLOAD: Final = "x-depot-upload"  # which of our uploads, where no commit id tells
_LARGEST_METADATA: Final = 8000
"""Bytes of the keys and values that are sent: the service takes 8 KiB, which our commit id is part of."""
_RFC3339: Final = re.compile(r"(\d+)-(\d+)-(\d+)[Tt](\d+):(\d+):(\d+)(?:\.(\d{1,9}))?(?:Z|z|[+-]00:00)")


def new_resource(metadata: FileMetadata, commit: str, storage_class: str | None) -> Json:
    """What is sent beside new content. InvalidMetadata: the filename or type cannot be stored."""
    resource = changed_resource(metadata.filename, metadata.content_type, metadata.modified)
    resource["metadata"] |= {_COMMIT: commit} if commit else {_UPLOAD: uuid.uuid4().hex}
    return resource | ({"storageClass": storage_class} if storage_class else {})


def changed_resource(filename: str | None, content_type: str | None, modified: int | None) -> Json:
    """The merge patch that changes what is given. InvalidMetadata as above."""
    keys: dict[str, str] = {}
    changes: Json = {"metadata": keys}
    if filename is not None:
        keys[_FILENAME] = encode_header_text(filename)
        changes["contentDisposition"] = make_content_disposition("inline", filename)
    if content_type is not None:
        if content_type != _unicode(content_type):
            raise InvalidMetadata(f"The content type {content_type!r} is not valid Unicode")
        keys[_CONTENT_TYPE] = changes["contentType"] = content_type
    if modified is not None:
        keys[_MODIFIED] = format_stored(modified)
    if sum(len(key) + len(value.encode()) for key, value in keys.items()) > _LARGEST_METADATA:
        raise InvalidMetadata("The filename and content type are longer than Google Cloud Storage takes")
    return changes


def is_upload(resource: Mapping[str, Any], sent: Json) -> bool:
    """Whether the object comes from the very upload, or commit, that `sent` went with."""
    found, ours = _keys(resource), sent["metadata"]
    return any(key in ours and found.get(key) == ours[key] for key in (_COMMIT, _UPLOAD))


def stat_of(file_id: FileId, resource: Mapping[str, Any]) -> FileStat:
    """What a resource tells; what it lacks or has broken of the metadata is as for a foreign object.

    Raises:
        InvalidMetadata: it does not tell the size or the generation, without which nothing can be done.
    """
    size, generation = whole_number(resource.get("size")), whole_number(resource.get("generation"))
    if size is None or not generation:
        raise InvalidMetadata(f"The object of file {file_id} has no usable size and generation")
    keys = _keys(resource)
    changed = _changed_ns(resource.get("updated"))
    modified = parse_stored(keys.get(_MODIFIED))
    kind = resource.get("contentType")
    metadata = FileMetadata(
        _unicode(decode_header_text(keys.get(_FILENAME, ""))) or UNNAMED,
        _unicode(keys.get(_CONTENT_TYPE) or (kind if isinstance(kind, str) else "")) or OCTET_STREAM,
        changed // 10**9 if modified is None else modified,
    )
    version = str(generation)
    revision = f"{version}.{whole_number(resource.get('metageneration')) or 0}"
    return FileStat(file_id, size, version, revision, metadata, changed, keys.get(_COMMIT, ""), _checksum(resource))


def whole_number(value: Any) -> int | None:
    """A number of 63 bits as the service writes them, in a string; None where it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    plain = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20
    return number if plain and (number := int(value)) < 1 << 63 else None


def _unicode(text: str) -> str:
    """The text; JSON can hold halves of characters, which nothing else can."""
    return text.encode("utf-8", "replace").decode()


def _keys(resource: Mapping[str, Any]) -> dict[str, str]:
    keys = resource.get("metadata")
    return {k: v for k, v in keys.items() if isinstance(v, str)} if isinstance(keys, dict) else {}


def _checksum(resource: Mapping[str, Any]) -> str:
    for field, algorithm, size in (("md5Hash", "md5", 16), ("crc32c", "crc32c", 4)):
        try:
            value = base64.b64decode(resource.get(field) or "", validate=True)
            if len(value) == size:
                return f"{algorithm}:{value.hex()}"
        except (binascii.Error, ValueError, TypeError):
            continue
    return ""


def _changed_ns(text: Any) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time in UTC, 0 where it is none."""
    found = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return 0
    *moment, fraction = found.groups()
    try:
        seconds = from_datetime(datetime(*map(int, moment), tzinfo=UTC))  # type: ignore[arg-type, misc]  # six ints
    except (ValueError, OverflowError):
        return 0
    return seconds * 10**9 + int((fraction or "0").ljust(9, "0"))
