"""An answer of Google Cloud Storage: received within bounds, understood whatever it holds."""

from __future__ import annotations

import errno
import json
import re
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, Final

from depotfs.errors import (
    AccessDenied,
    ConfigurationError,
    DepotError,
    InvalidMetadata,
    QuotaExceeded,
    StorageMissing,
    StorageUnavailable,
    TooLarge,
)

Json = dict[str, Any]

_LARGEST: Final = 64 << 20
"""Bytes of an answer that is no content: a page of 1,000 objects has 0.7 MB, and 9 MB with all metadata that fit."""
_LONGEST_RETRY_AFTER: Final = 86_400.0
"""Seconds: a server that asks for more has said nothing that helps."""
_THROTTLED: Final = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "usageLimits"})
_LARGEST_REFUSAL: Final = 64 << 10
"""Bytes that are read of an answer that is an error, whose rest tells nothing more."""


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @cached_property
    def parsed(self) -> Json | None:
        """The body as a JSON object, None where it is none."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def json(self) -> Json:
        """The body as a JSON object; empty where it is none."""
        return self.parsed or {}

    @property
    def message(self) -> str:
        """The server's own words about an error, at most 200 characters in one line."""
        error = self.json().get("error")
        text = error.get("message") if isinstance(error, dict) else self.body[:1000].decode("utf-8", "replace")
        words = " ".join(str(text)[:1000].split())
        return "".join(c if c.isprintable() else "?" for c in words)[:200]

    @property
    def reasons(self) -> frozenset[str]:
        """Why it refused, in the service's own terms, such as "rateLimitExceeded"."""
        error = self.json().get("error")
        details = error.get("errors") if isinstance(error, dict) else None
        found = details if isinstance(details, list) else []
        return frozenset(str(detail.get("reason")) for detail in found if isinstance(detail, dict))

    @property
    def is_like(self) -> bool:
        """Whether Google Cloud Storage could have given it, by its status and kind of body, to a question in JSON."""
        if self.status in (404, 412):
            return isinstance(self.json().get("error"), dict) or not self.body
        return not 300 <= self.status < 400 or self.status in (304, 308)

    @property
    def no_bucket(self) -> bool:
        return self.status == 404 and "bucket does not exist" in self.message.lower()


def whole_body(pieces: Iterable[bytes], status: int, encoding: str) -> bytes:
    """The body that comes in pieces, decompressed; of an error perhaps only its begin.

    Decompressed here and not by urllib3, since only so a small body cannot become a large one in memory.

    Raises:
        OSError: it is too large, or compressed by other means than gzip, or cut short.
    """
    refused = status >= 400
    limit = _LARGEST_REFUSAL if refused else _LARGEST
    inflated = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    if encoding not in ("", "identity", "gzip"):
        raise unlike("compresses in a way that nobody asked for")
    body = bytearray()
    try:
        for piece in pieces:
            body += inflated.decompress(piece, limit + 1 - len(body)) if inflated else piece
            if len(body) > limit:
                break
    except zlib.error:
        raise unlike("sends what cannot be decompressed") from None
    if refused:
        return bytes(body[:limit])
    if len(body) > limit:
        raise unlike(f"sends more than {limit >> 20} MiB")
    if inflated and not inflated.eof and body:
        raise unlike("ends before its end")
    return bytes(body)


def unlike(what: str) -> OSError:
    """The error that an answer is which Google Cloud Storage never gives: by a proxy, or another service."""
    return OSError(errno.EPROTO, f"what answers there is not Google Cloud Storage: it {what}")


def refusal(answer: Answer, text: str) -> DepotError | None:
    """The error that an answer is, whatever was asked; None where the caller must say."""
    status = answer.status
    if status < 400:
        return None
    if status in (408, 429) or status >= 500 or (status == 403 and answer.reasons & _THROTTLED):
        return StorageUnavailable(text, retry_after=_retry_after(answer.headers.get("Retry-After")))
    if status in (401, 403):
        return QuotaExceeded(text) if "quotaExceeded" in answer.reasons else AccessDenied(text)
    if status == 413:
        too_large = TooLarge(text)
        too_large.curable = True  # our own limit is the service's: this is a proxy's, which somebody can raise
        return too_large
    return StorageMissing(text) if answer.no_bucket else None


def unexpected(answer: Answer, text: str, *, public: bool = False) -> DepotError:
    """The error that an answer is which neither `refusal` nor the caller understands.

    Args:
        public: an access list was sent.
    """
    status, message = answer.status, answer.message.lower()
    if status == 404:
        return StorageMissing(text)
    if status == 409 or status < 400:
        return StorageUnavailable(text)
    if status == 400 and public and "acl" in message:
        return ConfigurationError(f"{text} (policy public-read needs a bucket with fine-grained access)")
    if status == 400 and answer.reasons and "metadata" in message:
        return InvalidMetadata(text)
    return DepotError(text)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None where it is neither, or absurd."""
    if not value:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value.strip(), re.ASCII):
        seconds = float(value)
    else:
        try:
            seconds = max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return seconds if seconds <= _LONGEST_RETRY_AFTER else None
