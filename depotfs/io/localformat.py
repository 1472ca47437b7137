"""What stands in the directory of a locally stored file, byte for byte as filedepot writes and reads it.

`<id>/file` holds the bytes, `<id>/metadata.json` one line of ASCII JSON. A key of our own in there would make
filedepot's `get` fail, so there is none: versions are made of what the file system tells.
"""

from __future__ import annotations

import json
import os
import stat as modes
from typing import Any, Final

from depotfs.errors import InvalidMetadata
from depotfs.io.times import format_stored, parse_stored
from depotfs.types import OCTET_STREAM, UNNAMED, FileId, FileMetadata, FileStat

CONTENT: Final = "file"
METADATA: Final = "metadata.json"


def encode_metadata(metadata: FileMetadata, size: int) -> bytes:
    """The bytes of `metadata.json`: filedepot's key order and separators, ASCII for its locale-dependent open."""
    return json.dumps(
        {
            "filename": metadata.filename,
            "content_type": metadata.content_type,
            "content_length": size,
            "last_modified": format_stored(metadata.modified),
        }
    ).encode("ascii")


def decode_metadata(raw: bytes, changed_ns: int) -> FileMetadata:
    """The metadata; what is missing or of another type is replaced by its default, the time by `changed_ns`.

    Raises: InvalidMetadata if it is no JSON object at all.
    """
    try:
        stored = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidMetadata(f"Invalid file metadata, no JSON: {error}") from None
    if not isinstance(stored, dict):
        raise InvalidMetadata(f"Invalid file metadata, a JSON {type(stored).__name__} and not an object")
    modified = parse_stored(stored.get("last_modified"))
    return FileMetadata(
        _text(stored.get("filename"), UNNAMED),
        _text(stored.get("content_type"), OCTET_STREAM),
        changed_ns // 10**9 if modified is None else modified,
    )


def _text(value: Any, default: str) -> str:
    return value if isinstance(value, str) and value else default


def version_of(content: os.stat_result) -> str:
    """The version of a content file: which inode, last written when, how long."""
    return f"{content.st_ino:x}-{content.st_mtime_ns:x}-{content.st_size:x}"


def file_stat(file_id: FileId, content: os.stat_result, described: os.stat_result, metadata: FileMetadata) -> FileStat:
    """The stat of a stored file, of `fstat` of its content and of its `metadata.json`."""
    version = version_of(content)
    return FileStat(
        file_id=file_id,
        size=content.st_size,
        version=version,
        revision=f"{version}-{described.st_ino:x}-{described.st_mtime_ns:x}",
        metadata=metadata,
        changed_ns=max(content.st_ctime_ns, described.st_ctime_ns),
    )


def is_content(found: os.stat_result) -> bool:
    """Whether that is a regular file."""
    return modes.S_ISREG(found.st_mode)
