"""The WSGI middleware that serves stored files: filedepot's URLs and options, HTTP by `depotfs.http_policy`."""

from __future__ import annotations

import hashlib
import html
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import quote

from werkzeug.http import http_date

from depotfs.errors import ContentDamaged, DepotError, FileNotStored, InvalidFileId, VersionChanged
from depotfs.http_policy import (
    ACTIVE_TYPES,
    Decision,
    Representation,
    Span,
    decide,
    disposition,
    presigned_seconds,
    safe_content_type,
)
from depotfs.io.native import NativeStoredFile
from depotfs.io.reader import ContentReader
from depotfs.io.times import from_datetime
from depotfs.io.utils import make_content_disposition
from depotfs.manager import DepotManager

_log = logging.getLogger(__name__)

_BLOCK: Final = 4096 * 64
"""Bytes handed to the server at once (filedepot's)."""
_ATTEMPTS: Final = 3
"""How often a file is looked up anew when it is replaced just between its metadata and its first byte."""
_RETRY_AFTER: Final = 5
"""Seconds that a client is asked to wait where the storage named no time: longer than a server's restart of a worker,
shorter than a person's patience."""

Headers = list[tuple[str, str]]
Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class DepotMiddleware:
    """Below `mountpoint`, GET and HEAD of `<storage or alias>/<file id>` are answered; all else goes to `app`.

    A file with a `public_url` is a redirect to it: 301, or 302 no longer lasting than a presigned URL.
    The others are sent from the storage.

    Args:
        mountpoint: absolute path below SCRIPT_NAME; with "/", paths that name no storage go to `app`.
        cache_max_age: seconds for which clients and proxies may keep an answer, None to tell them nothing.
        replace_wsgi_filewrapper: the server's `wsgi.file_wrapper` is never used. Without it, it is where it can do
            better: for whole files of a local disk.
        attachment_types: patterns (`text/html`, `*/*+xml`) of the content types that browsers are told to save rather
            than to show, since what they contain would act with the rights of this site. `["*"]`: all, `[]`: none.
    """

    def __init__(
        self,
        app: App,
        mountpoint: str = "/depot",
        cache_max_age: float | None = 3600 * 24 * 7,
        replace_wsgi_filewrapper: bool = False,
        *,
        attachment_types: Collection[str] = ACTIVE_TYPES,
    ) -> None:
        if not mountpoint.startswith("/"):
            raise ValueError("DepotMiddleware mountpoint must be an absolute path")
        self.app = app
        self.mountpoint = mountpoint.rstrip("/")
        self.cache_max_age = cache_max_age
        self.replace_wsgi_filewrapper = replace_wsgi_filewrapper
        self.attachment_types = attachment_types

    def url_for(self, path: str) -> str:
        """The path, below SCRIPT_NAME, at which `storage/file_id` is served."""
        return f"{self.mountpoint}/{path}"

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        rest = self._below_mountpoint(environ)
        if rest is None:
            return self.app(environ, start_response)
        name, _, file_id = rest.lstrip("/").partition("/")
        storage = DepotManager.get(name) if name else None
        if storage is None and not self.mountpoint:
            return self.app(environ, start_response)
        if storage is None or not file_id or "/" in file_id:
            return _plain(environ, start_response, HTTPStatus.NOT_FOUND, "File Not Found")
        try:
            return self._serve(storage, file_id, environ, start_response)
        except Exception as error:
            return _failed(environ, start_response, error)

    def _below_mountpoint(self, environ: Environ) -> str | None:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return None
        path = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace")
        rest = path[len(self.mountpoint) :]
        return rest if path.startswith(self.mountpoint) and rest[:1] in ("", "/") else None

    def _serve(self, storage: Any, file_id: str, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        for attempt in range(_ATTEMPTS):
            file = _look_up(storage, file_id)
            served = False
            try:
                answer = self._answer(file, environ, start_response)
                served = True
                return answer
            except VersionChanged:
                if attempt == _ATTEMPTS - 1:
                    raise
            finally:
                if not served:
                    file.close()
        raise AssertionError("the loop returns or raises")

    def _answer(self, file: Any, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        url = getattr(file, "public_url", None)
        seconds = None if url is None else presigned_seconds(url, time.time())
        # A presigned URL is signed for GET and refuses HEAD.
        if url is not None and (seconds is None or environ["REQUEST_METHOD"] == "GET"):
            file.close()
            return _redirect(environ, start_response, url, self.cache_max_age, seconds)
        serve = FileServeApp(
            file, self.cache_max_age, self.replace_wsgi_filewrapper, attachment_types=self.attachment_types
        )
        return serve(environ, start_response)


class FileServeApp:
    """A WSGI application that answers GET and HEAD with one stored file, once, and closes it.

    Nothing was answered, and the file is open, when the call raises: VersionChanged if the content is no longer the
    one that `storedfile` tells of, or what the storage says. An error after that ends the answer short of its length,
    so that the client sees that it is incomplete.

    Args: as `DepotMiddleware`'s.
    """

    def __init__(
        self,
        storedfile: Any,
        cache_max_age: float | None,
        replace_wsgi_filewrapper: bool = False,
        *,
        attachment_types: Collection[str] = ACTIVE_TYPES,
    ) -> None:
        self.file = storedfile
        self.cache_max_age = cache_max_age
        self.replace_wsgi_filewrapper = replace_wsgi_filewrapper
        self.content_type = safe_content_type(getattr(storedfile, "content_type", None))
        self.disposition = disposition(self.content_type, attachment_types)
        self.found = _representation(storedfile)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        decision = decide(environ, self.found)
        status = decision.status
        if status in (HTTPStatus.PRECONDITION_FAILED, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            self.file.close()
            extra = [("Content-Range", f"bytes */{self.found.size}")] if status.value == 416 else []
            return _plain(environ, start_response, status, status.phrase, [*self._validators(), *extra])
        headers = [*self._validators(), *_caching(self.cache_max_age)]
        if status is HTTPStatus.NOT_MODIFIED:
            self.file.close()
            start_response(_line(status), headers)
            return []
        headers += self._description()
        if environ["REQUEST_METHOD"] == "HEAD":
            self.file.close()
            start_response(_line(status), [*headers, *self._whole()])
            return []
        return self._send(decision, headers, environ, start_response)

    def _send(
        self, decision: Decision, headers: Headers, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        reader = self.file.pin() if isinstance(self.file, NativeStoredFile) else None
        wrapper = environ.get("wsgi.file_wrapper")
        if decision.status is HTTPStatus.OK and wrapper and not self.replace_wsgi_filewrapper:
            local = self._local_file(reader)
            if local is not None:
                self.file.close()
                start_response(_line(decision.status), [*headers, *self._whole()])
                return cast("Iterable[bytes]", wrapper(local, _BLOCK))
        if len(decision.spans) > 1:
            more, pieces = self._multipart(decision.spans)
        elif decision.spans:
            more, pieces = self._single(decision.spans[0])
        else:
            more, pieces = self._whole(), self._bytes(0, self.found.size)
        body = _Body(self.file, pieces)
        body.begin()  # what fails now has a status of its own
        start_response(_line(decision.status), [*headers, *more])
        return body

    def _local_file(self, reader: ContentReader | None) -> Any:
        """The content as a file on disk that the server may send by itself, None where it is not one.

        Only such a one: servers read it in their event loop, or by sendfile(2).
        """
        fd = reader.fileno() if reader is not None else None
        if fd is None or os.fstat(fd).st_size != self.found.size:
            return None
        return os.fdopen(os.dup(fd), "rb")

    def _validators(self) -> Headers:
        headers = [] if self.found.etag is None else [("ETag", self.found.etag)]
        if self.found.modified is not None:
            headers.append(("Last-Modified", _date(self.found.modified)))
        return headers

    def _description(self) -> Headers:
        name = getattr(self.file, "filename", None)
        told = self.disposition if name is None else make_content_disposition(self.disposition, name)
        ranges = self.found.seekable and self.found.size is not None
        return [
            ("Content-Disposition", told),
            ("X-Content-Type-Options", "nosniff"),
            ("Accept-Ranges", "bytes" if ranges else "none"),
        ]

    def _whole(self) -> Headers:
        length = [] if self.found.size is None else [("Content-Length", str(self.found.size))]
        return [("Content-Type", self.content_type), *length]

    def _single(self, span: Span) -> tuple[Headers, Iterator[bytes]]:
        headers = [
            ("Content-Type", self.content_type),
            ("Content-Length", str(span.length)),
            ("Content-Range", self._content_range(span)),
        ]
        return headers, self._bytes(span.start, span.length)

    def _multipart(self, spans: tuple[Span, ...]) -> tuple[Headers, Iterator[bytes]]:
        boundary = secrets.token_hex(16)
        heads = [
            f"\r\n--{boundary}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Range: {self._content_range(span)}\r\n\r\n".encode("ascii")
            for span in spans
        ]
        end = f"\r\n--{boundary}--\r\n".encode("ascii")

        def pieces() -> Iterator[bytes]:
            for head, span in zip(heads, spans, strict=True):
                blocks = self._bytes(span.start, span.length)
                yield head + next(blocks)
                yield from blocks
            yield end

        length = sum(map(len, heads)) + sum(span.length for span in spans) + len(end)
        headers = [("Content-Type", f"multipart/byteranges; boundary={boundary}"), ("Content-Length", str(length))]
        return headers, pieces()

    def _content_range(self, span: Span) -> str:
        return f"bytes {span.start}-{span.stop - 1}/{self.found.size}"

    def _bytes(self, start: int, length: int | None) -> Iterator[bytes]:
        """Exactly `length` bytes from `start` on, or an error; without a length all that come."""
        if start or self.found.seekable:
            self.file.seek(start)
        left = length
        while left is None or left > 0:
            piece = self.file.read(_BLOCK if left is None else min(_BLOCK, left))
            if not piece and left is not None:
                raise ContentDamaged(f"File {self.file.file_id} ended {left} bytes before its length")
            if not piece:
                return
            if left is not None:
                piece = piece[:left]  # a class of others may give more than was asked for
                left -= len(piece)
            yield piece


class _Body:
    """The pieces of an answer; the stored file is closed with it, also if it was never read."""

    def __init__(self, file: Any, pieces: Iterator[bytes]) -> None:
        self._file = file
        self._pieces = pieces
        self._first: bytes | None = None

    def begin(self) -> None:
        """The first piece is there; what its reading raises is raised."""
        self._first = next(self._pieces, b"")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._first:
            first, self._first = self._first, None
            return first
        return next(self._pieces)

    def close(self) -> None:
        self._file.close()


def _look_up(storage: Any, file_id: str) -> Any:
    try:
        return storage.get(file_id)
    except (DepotError, ConnectionError, TimeoutError, PermissionError):
        raise
    except (OSError, ValueError) as error:
        # How filedepot's own classes say that there is no such file.
        raise FileNotStored(f"File {file_id} is not stored: {error}") from error


def _representation(file: Any) -> Representation:
    """Of a file of ours with a strong tag; of a class of others with a weak one, as it shares its time with others."""
    size, moment = getattr(file, "content_length", None), getattr(file, "last_modified", None)
    modified = None if moment is None else from_datetime(moment)
    etag = None
    if isinstance(file, NativeStoredFile):
        # More than the revision: behind an alias another storage may stand tomorrow, with numbers of its own.
        stat = file.stat
        known = f"{stat.file_id} {stat.size} {stat.changed_ns} {stat.revision}"
        etag = f'"{hashlib.sha256(known.encode("utf-8", "surrogatepass")).hexdigest()[:32]}"'
    elif modified is not None and size is not None:
        etag = f'W/"{modified}-{size}"'
    return Representation(size, etag, modified, seekable=hasattr(file, "seekable") and file.seekable())


def _caching(seconds: float | None, scope: str = "public") -> Headers:
    if seconds is None:
        return []
    whole = max(0, int(seconds))
    return [("Cache-Control", f"max-age={whole}, {scope}"), ("Expires", _date(int(time.time()) + whole))]


def _redirect(
    environ: Environ, start_response: StartResponse, url: str, max_age: float | None, presigned: float | None
) -> Iterable[bytes]:
    # Percent-encoding what no URL may contain also keeps a line break out of the header.
    location = quote(url, safe="!#$%&'()*+,/:;=?@[]~")
    if presigned is None:
        status, caching = HTTPStatus.MOVED_PERMANENTLY, _caching(max_age)
    else:
        # Whoever follows it at the last moment still has the other half of the URL's life to begin the download.
        seconds = presigned / 2 if max_age is None else min(max_age, presigned / 2)
        status, caching = HTTPStatus.FOUND, _caching(seconds, "private")
    link = html.escape(location)
    text = f'<!doctype html>\n<title>{_line(status)}</title>\n<p>The file is at <a href="{link}">{link}</a></p>\n'
    headers = [("Location", location), *caching]
    return _page(environ, start_response, status, "text/html; charset=utf-8", text, headers)


def _failed(environ: Environ, start_response: StartResponse, error: Exception) -> Iterable[bytes]:
    """The answer to an error of the storage that came before anything was answered; logged here unless it is a 404."""
    if isinstance(error, FileNotStored | InvalidFileId | FileNotFoundError):
        return _plain(environ, start_response, HTTPStatus.NOT_FOUND, "File Not Found")
    what = f"{environ['REQUEST_METHOD']} {environ.get('PATH_INFO', '')!r}"
    headers: Headers = [("Cache-Control", "no-store")]
    if isinstance(error, VersionChanged | ConnectionError | TimeoutError) or getattr(error, "transient", False):
        _log.warning("%s: %s", what, error)
        seconds = getattr(error, "retry_after", None) or _RETRY_AFTER
        headers.append(("Retry-After", str(math.ceil(seconds))))
        text = "The file cannot be read right now. Try again later."
        return _plain(environ, start_response, HTTPStatus.SERVICE_UNAVAILABLE, text, headers)
    text = "The file cannot be read."
    if isinstance(error, DepotError | OSError):
        _log.error("%s: %s", what, error)
        return _plain(environ, start_response, HTTPStatus.BAD_GATEWAY, text, headers)
    _log.error("%s: unexpected", what, exc_info=error)
    return _plain(environ, start_response, HTTPStatus.INTERNAL_SERVER_ERROR, text, headers)


def _plain(
    environ: Environ, start_response: StartResponse, status: HTTPStatus, text: str, headers: Headers | None = None
) -> Iterable[bytes]:
    text = f"{_line(status)}\n{text}\n"
    return _page(environ, start_response, status, "text/plain; charset=utf-8", text, headers or [])


def _page(
    environ: Environ, start_response: StartResponse, status: HTTPStatus, content_type: str, text: str, headers: Headers
) -> Iterable[bytes]:
    body = text.encode()
    start_response(
        _line(status),
        [
            *headers,
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("X-Content-Type-Options", "nosniff"),
        ],
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _line(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"


def _date(seconds: int) -> str:
    return http_date(min(max(seconds, -62135596800), 253402300799))  # the years 1 to 9999, all that a date can be
