"""What HTTP wants to be answered where a stored file is asked for: decisions only, no I/O.

The sections named are those of RFC 9110. Header lists, dates and ranges are parsed by `werkzeug.http`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from werkzeug.datastructures import ETags
from werkzeug.http import parse_date, parse_etags, parse_range_header, unquote_etag

from depotfs.io.times import from_datetime
from depotfs.types import OCTET_STREAM

MAX_RANGES: Final = 16
"""Ranges of one request that are served one by one; a list that is longer costs more than the whole file (14.2)."""

ACTIVE_TYPES: Final = frozenset(
    {
        "text/html",
        "application/xhtml+xml",
        "image/svg+xml",
        "*/xml",
        "*/*+xml",
        "*/xsl",
        "text/javascript",
        "application/javascript",
        "application/ecmascript",
        "application/x-javascript",
        "application/x-shockwave-flash",
        "message/rfc822",
        "multipart/*",
    }
)
"""Types in which a browser may run scripts with the rights of the site that serves them.

PDF is not among them: browsers' viewers give its scripts no access to the site, and people want to read it in place.
"""

_LAST_NONE = re.compile(r"-0+", re.ASCII)
"""The last 0 bytes, as a range."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|\"[ !#-\[\]-~]*\"))*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Representation:
    """What is known of a stored file before its bytes are read.

    Attributes:
        size: bytes, None where it is not known.
        etag: as it stands in the header, quotes and `W/` included; None where nothing identifies the content.
        modified: seconds since the epoch, None where it is not known.
        seekable: whether reading can begin in the middle.
    """

    size: int | None
    etag: str | None
    modified: int | None
    seekable: bool


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `start` up to but without `stop`; never empty."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer's status, and which bytes it carries: `spans` where the status is 206, else none or all."""

    status: HTTPStatus
    spans: tuple[Span, ...] = ()


def decide(environ: Mapping[str, Any], found: Representation) -> Decision:
    """The answer to a GET or HEAD, with the preconditions in the order of 13.2.2."""
    if not _required(environ, found):
        return Decision(HTTPStatus.PRECONDITION_FAILED)
    if _known_to_client(environ, found):
        return Decision(HTTPStatus.NOT_MODIFIED)
    value = environ.get("HTTP_RANGE")
    if not value or environ["REQUEST_METHOD"] != "GET" or not found.seekable or found.size is None:
        return Decision(HTTPStatus.OK)
    if not _same_content(environ, found):
        return Decision(HTTPStatus.OK)
    spans = select_spans(value, found.size)
    if spans is None:
        return Decision(HTTPStatus.OK)
    return Decision(HTTPStatus.PARTIAL_CONTENT if spans else HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, spans)


def select_spans(value: str, size: int) -> tuple[Span, ...] | None:
    """The bytes that a Range header means: none if nothing of it is in the file, None if it is to be ignored.

    Spans that overlap or touch become one (15.3.7.2); the others keep the order in which they were asked for.
    """
    unit, _, items = value.partition("=")
    parts = items.split(",")
    if unit.strip().lower() != "bytes" or len(parts) > MAX_RANGES:
        return None
    spans: list[Span] = []
    for part in map(str.strip, parts):
        if _LAST_NONE.fullmatch(part):
            continue  # well-formed, and nothing of it is in any file (14.1.2); the parser takes it for malformed
        # One by one: the parser takes a list that is not in order for a malformed one.
        parsed = parse_range_header(f"bytes={part}")
        if parsed is None:
            return None
        start, stop = parsed.ranges[0]
        span = Span(max(0, size + start) if start < 0 else start, min(size, size if stop is None else stop))
        if span.length > 0:
            spans = _joined(spans, span)
    return tuple(spans)


def safe_content_type(stored: str | None) -> str:
    """The stored type if it is one by the grammar of 8.3.1, else `application/octet-stream`."""
    return stored if stored and _MEDIA_TYPE.fullmatch(stored) else OCTET_STREAM


def disposition(content_type: str, attachment_types: Collection[str]) -> str:
    """`attachment` if the type is one of the patterns (`text/html`, `*/*+xml`), else `inline`."""
    media_type = content_type.partition(";")[0].strip().lower()
    active = any(fnmatchcase(media_type, pattern) for pattern in attachment_types)
    return "attachment" if active else "inline"


def presigned_seconds(url: str, now: float) -> float | None:
    """For how long from `now` on a presigned URL is good that was just made; None if it is a plain one.

    By the parameters of AWS (signature versions 4 and 2) and GCS; so also of a class that makes such URLs by itself.
    """
    query = dict(parse_qsl(urlsplit(url).query))
    for name in ("X-Amz-Expires", "X-Goog-Expires"):
        if query.get(name, "").isdecimal():
            return float(query[name])
    if "Signature" in query and query.get("Expires", "").isdecimal():
        return max(0.0, float(query["Expires"]) - now)
    return None


def _required(environ: Mapping[str, Any], found: Representation) -> bool:
    """If-Match, else If-Unmodified-Since (13.1.1, 13.1.4)."""
    if match := environ.get("HTTP_IF_MATCH"):
        tag, weak = unquote_etag(found.etag)
        tags = _tags(match)
        return tags.star_tag or (tag is not None and not weak and tags.is_strong(tag))
    since = _seconds(environ.get("HTTP_IF_UNMODIFIED_SINCE"))
    return since is None or found.modified is None or found.modified <= since


def _known_to_client(environ: Mapping[str, Any], found: Representation) -> bool:
    """If-None-Match, else If-Modified-Since (13.1.2, 13.1.3)."""
    if none_match := environ.get("HTTP_IF_NONE_MATCH"):
        tag, _ = unquote_etag(found.etag)
        tags = _tags(none_match)
        return tags.star_tag or (tag is not None and tags.contains_weak(tag))
    since = _seconds(environ.get("HTTP_IF_MODIFIED_SINCE"))
    return since is not None and found.modified is not None and found.modified <= since


def _same_content(environ: Mapping[str, Any], found: Representation) -> bool:
    """If-Range (13.1.5), by a strong tag only.

    Never by a date: stored times have whole seconds and can be set, so that other bytes may have the same one.
    """
    value = environ.get("HTTP_IF_RANGE")
    if not value:
        return True
    return found.etag is not None and not found.etag.startswith("W/") and value.strip() == found.etag


def _tags(value: str) -> ETags:
    return parse_etags(value.strip())


def _seconds(value: str | None) -> int | None:
    """An HTTP date, None where there is none or it is not one, which means that its header is to be ignored."""
    try:
        moment = parse_date(value)
        return None if moment is None else from_datetime(moment)
    except OverflowError:
        return None


def _joined(spans: list[Span], new: Span) -> list[Span]:
    touching = [span for span in spans if span.start <= new.stop and new.start <= span.stop]
    if not touching:
        return [*spans, new]
    merged = Span(min(s.start for s in [*touching, new]), max(s.stop for s in [*touching, new]))
    return [merged if span is touching[0] else span for span in spans if span is touching[0] or span not in touching]
