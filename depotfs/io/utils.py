"""From whatever an application hands over to content, filename and content type (filedepot's path for these names)."""

from __future__ import annotations

import gzip
import io
import mimetypes
import os
import tempfile
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

from depotfs.errors import InvalidMetadata
from depotfs.io.content import CHUNK, BytesContent, Content, StreamContent
from depotfs.types import OCTET_STREAM, UNNAMED

INMEMORY_FILESIZE = 1024 * 1024
"""Bytes up to which `file_from_content` keeps its copy in memory."""

_TYPES = mimetypes.MimeTypes()  # the module's own table: the same answer on every machine
_HEADER_SAFE = "!#$&+-.^_`|~"
"""What `encode_header_text` leaves as it is beside letters and digits (filedepot 0.12's choice)."""


def timestamp() -> str:
    """Now, as it is stored: `YYYY-MM-DD HH:MM:SS`, UTC. Looked up at each call, so that tests can replace it."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


class FileIntent:
    """Content together with the filename and content type that it is to be stored under.

    Args:
        fileobj: anything that `create` takes; filename, content_type: win over all that is detected.
    """

    def __init__(self, fileobj: Any, filename: str | None, content_type: str | None) -> None:
        self._fileobj = fileobj
        self._filename = filename
        self._content_type = content_type

    @property
    def fileinfo(self) -> tuple[Any, str | None, str | None]:
        """(content, filename, content type) as given."""
        return self._fileobj, self._filename, self._content_type


def file_from_content(content: Any) -> tuple[bool, Any]:
    """(whether the caller is to close it, a seekable binary file of the whole content at its first byte).

    A file that can seek is handed out itself, of all else a copy is made; on disk above `INMEMORY_FILESIZE`.
    """
    given = detect(content)[0]
    source = as_content(given)
    file = getattr(given, "buffer", given)
    if _is_seekable(file):
        file.seek(0)
        return False, file
    copy = tempfile.SpooledTemporaryFile(INMEMORY_FILESIZE)  # noqa: SIM115 - the caller's
    while piece := source.read(CHUNK):
        copy.write(piece)
    copy.seek(0)
    return True, copy


def _is_seekable(file: Any) -> bool:
    return callable(getattr(file, "seekable", None)) and bool(file.seekable())


def guess_type(filename: str | None) -> str | None:
    """Content type by the filename's ending, None if it tells nothing."""
    return _TYPES.guess_type(filename, strict=False)[0] if filename else None


def fileinfo(
    fileobj: Any, filename: str | None = None, content_type: str | None = None, existing: Any = None
) -> tuple[Any, str, str]:
    """(content, filename, content type) of something to store, by filedepot's rules without their traps.

    As `detect`, then what `existing` (a stored file or None) has, then `unnamed` and `application/octet-stream`.
    """
    content, name, kind = detect(fileobj, filename, content_type)
    name = name or getattr(existing, "filename", None) or UNNAMED
    kind = kind or getattr(existing, "content_type", None) or OCTET_STREAM
    return content, name, kind


def detect(
    fileobj: Any, filename: str | None = None, content_type: str | None = None
) -> tuple[Any, str | None, str | None]:
    """(content, filename, content type), None for what neither the caller nor the content tells.

    An explicit name or type of a `FileIntent` (ours or filedepot's) wins, then the argument, then what the content
    tells of itself (`filename`, the last part of `name` · `content_type`, `type`, the ending of the name).

    Raises:
        TypeError: a filename or content type that is no str.
    """
    intended = _intended(fileobj)
    if intended is not None:
        fileobj, intended_name, intended_type = intended
        filename = intended_name or filename
        content_type = intended_type or content_type
    for what, value in (("filename", filename), ("content type", content_type)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"The {what} must be a str, not {type(value).__name__}")
    name = filename or _name_of(fileobj) or None
    kind = content_type or _type_of(fileobj) or guess_type(name)
    return (fileobj.file if _is_field(fileobj) else fileobj), name, kind


def _intended(source: Any) -> tuple[Any, str | None, str | None] | None:
    """What a `FileIntent` of ours or of filedepot's holds; None of anything else."""
    info = getattr(source, "fileinfo", None)
    return info if isinstance(info, tuple) and len(info) == 3 else None


def as_content(source: Any) -> Content:
    """A `Content` of bytes-likes and binary file objects; of a text-mode file its bytes, from `.buffer`.

    Raises:
        TypeError: for str, StringIO and everything that gives no bytes; nothing was read.
    """
    if isinstance(source, bytes):
        return BytesContent(source)
    if isinstance(source, bytearray | memoryview):
        return BytesContent(bytes(source))
    if isinstance(source, str):
        raise TypeError("Only bytes can be stored, not unicode")
    if isinstance(source, Content) and not isinstance(source, io.IOBase):
        return source
    source = getattr(source, "buffer", source)
    if isinstance(source, io.TextIOBase):
        raise TypeError("Only bytes can be stored, not unicode")
    if not callable(getattr(source, "read", None)):
        raise TypeError(f"Only bytes and binary file objects can be stored, not {type(source).__name__}")
    return StreamContent(source)


def _is_field(source: Any) -> bool:
    """Like cgi.FieldStorage or a multipart part: a filename, and the file proper in `.file`."""
    file = getattr(source, "file", None)
    return file is not None and file is not False and getattr(source, "filename", None) is not None


def _name_of(source: Any) -> str | None:
    # Asking a GzipFile for this is deprecated, and an error under `-W error`; its `name` tells the same.
    filename = None if isinstance(source, gzip.GzipFile) else getattr(source, "filename", None)
    if filename is not None:
        return filename if isinstance(filename, str) else os.fsdecode(filename)
    name = getattr(source, "name", None)  # an int where the file was opened from a descriptor
    return os.path.basename(os.fsdecode(name)) if isinstance(name, str | bytes) else None


def _type_of(source: Any) -> str | None:
    for attribute in ("content_type", "type"):
        value = getattr(source, attribute, None)
        if isinstance(value, str) and value:
            return value
    return None


def encode_header_text(text: str, what: str = "filename") -> str:
    """Percent-encoded once as filedepot stores a filename in S3 and GCS metadata.

    Raises:
        InvalidMetadata: (a ValueError) the text has lone surrogates, which UTF-8 cannot hold.
    """
    try:
        return quote(text, safe=_HEADER_SAFE)
    except UnicodeEncodeError as error:
        raise InvalidMetadata(f"The {what} {text!r} is not valid Unicode: {error.reason}") from None


def check_header_text(text: str, what: str) -> str:
    """The text, which an HTTP header can carry as it is.

    Raises:
        InvalidMetadata: (a ValueError) it is not printable ASCII.
    """
    if not (text.isascii() and text.isprintable()):
        raise InvalidMetadata(f"The {what} {text!r} cannot be stored: it must be printable ASCII")
    return text


def decode_header_text(text: str) -> str:
    """What `encode_header_text` was given."""
    return unquote(text)


def make_content_disposition(disposition: str, filename: str) -> str:
    """A Content-Disposition value (RFC 6266) that is ASCII, safe against injection, and keeps every name.

    Args:
        disposition: "inline" or "attachment".
    """
    plain = "".join(c if " " <= c < "\x7f" and c not in '"\\%;' else "_" for c in filename)
    encoded = quote(filename.encode("utf-8", "surrogatepass"), safe=_HEADER_SAFE)
    return f"{disposition}; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
