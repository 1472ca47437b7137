"""The words of the house as types. One meaning each:

inode, `ino`: the kernel's number of a file · node: one life of a file, as the kernel knows it ·
file id: a storage's key · depot name: a configured name of a storage; alias: another name for it ·
handle, `fh`: an open file · lookup count: the kernel's references to a node ·
version: which content a file id has (ETag, generation, upload id); equal versions of one file id mean
equal bytes · revision: which content *and* metadata; it changes with either ·
block: aligned piece of one version in the cache; run: neighbouring blocks that came with one request;
part: piece of a multipart upload; page: the kernel's ·
cache: may vanish at any moment; spool: may not · seal: no more writes; commit: the storage has
acknowledged · evict (cache), discard (spool), unlink (directory entry), delete (storage), forget
(kernel) · read-ahead: bytes fetched beyond the reader ·
name: bytes from the kernel; filename: the str in the stored metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NewType

FileId = NewType("FileId", str)
InodeNo = NewType("InodeNo", int)
HandleId = NewType("HandleId", int)

UNNAMED: Final = "unnamed"
"""Filename of a file that has none (filedepot's default)."""
OCTET_STREAM: Final = "application/octet-stream"
"""Content type of a file that has none (filedepot's default)."""

ANY: Final = None
"""Expectation of a write: whatever is there, or nothing."""
ABSENT: Final = ""
"""Expectation of a write: nothing is stored under that id. Never the version of anything."""
PRESENT: Final = "*"
"""Expectation of a write: something is stored under that id. Never the version of anything."""

Expected = str | None
"""What a write is conditional on: `ANY`, `ABSENT`, `PRESENT`, or the version it was based on."""


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """What is stored beside the bytes.

    Attributes:
        modified: `last_modified` as whole seconds since the epoch (all formats store seconds, UTC).
    """

    filename: str
    content_type: str
    modified: int

    def changed(self, filename: str | None, content_type: str | None, modified: int | None) -> FileMetadata:
        """The same but for what is given."""
        return FileMetadata(
            self.filename if filename is None else filename,
            self.content_type if content_type is None else content_type,
            self.modified if modified is None else modified,
        )


@dataclass(frozen=True, slots=True)
class FileStat:
    """All that a storage tells of one stored file without its bytes; exact.

    Attributes:
        size: bytes.
        version: the content's version, see the module's text; never "" nor "*".
        revision: version of content and metadata together.
        metadata: filename, content type and time as stored; where a foreign file lacks one:
            `unnamed`, `application/octet-stream`, the backend's own time of change.
        changed_ns: the backend's own time of the last change, nanoseconds since the epoch.
        commit: id of the commit that wrote this content, "" where none was given or kept.
        checksum: `algorithm:hex` of the whole content ("md5:…", "crc32c:…", "crc32:…", "sha256:…"),
            "" where none is stored.
    """

    file_id: FileId
    size: int
    version: str
    revision: str
    metadata: FileMetadata
    changed_ns: int
    commit: str = ""
    checksum: str = ""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What a listing tells of one stored file, at no extra request.

    Attributes:
        size: bytes, None where the listing does not carry it.
        revision: as in `FileStat`, None where unknown: a `FileStat` known from before with the same
            revision is still exact.
        changed_ns: as in `FileStat`, None where unknown.
        stat: everything, where the listing carries everything.
    """

    file_id: FileId
    size: int | None = None
    revision: str | None = None
    changed_ns: int | None = None
    stat: FileStat | None = None
