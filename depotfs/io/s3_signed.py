"""GET by signed URLs: ranges of S3 objects, and small objects, with a third of boto3's work.

Most of what boto3 does for a request is the same for every range of one object: it costs more than a millisecond
under Python's GIL, which a mount that reads in order, or a program that reads here and there, pays each time. Here
an object's URL is signed once (by boto3; valid for every range, since a range need not be signed) and then asked
through the HTTP session of boto3's client, with its connections, proxies, certificates and time limits. Whatever is
not the wanted range is left to boto3, which asks again, tries again where that can help, and says what is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from botocore.awsrequest import AWSRequest
from botocore.parsers import create_parser

from depotfs.io.s3_client import S3Client, S3Settings, quoted, retry_after, unquoted
from depotfs.io.s3_errors import BROKEN_CONNECTION

_VALID: Final = 900
_USED: Final = 300
"""Seconds that a signature is valid and that it is used: clocks may differ."""
_OBJECTS: Final = 1000
"""Signed URLs that are remembered."""
_REFUSALS: Final = 3
_PAUSE: Final = 300
"""Refusals in a row after which no range is asked for in this way for so many seconds: some servers and policies
want signatures in headers only, some buckets are elsewhere, and some credentials come to be valid again."""
_NO_REFUSAL: Final = (404, 412, 429)
"""What every way of asking is told: the version is gone, or the server has too much to do."""
_WITH_CHECKSUM: Final = {"x-amz-checksum-mode": "ENABLED"}
_parser: Any = create_parser("rest-xml")


class S3SignedGets:
    """Asks for ranges and whole objects of the bucket of `settings`, from any thread."""

    def __init__(self, settings: S3Settings, client: S3Client) -> None:
        self._settings = settings
        self._client = client
        self._signed_by: Any = None
        self._signed: dict[str, tuple[str, float]] = {}
        self._refusals = 0
        self._paused_until = 0.0

    def open(self, key: str, etag: str, offset: int, size: int) -> Any:
        """A body to read those bytes of that version from, None where boto3 has to be asked.

        Args:
            etag: without quotes.
        """
        headers = {"Range": f"bytes={offset}-{offset + size - 1}", "If-Match": quoted(etag)}
        answer = self._ask(lambda client: self._url(client, key), headers)
        if answer is None:
            return None
        told = answer.headers
        if (
            answer.status_code == 206
            and unquoted(told.get("ETag", "")) == etag
            and told.get("Content-Range", "").startswith(f"bytes {offset}-{offset + size - 1}/")
        ):
            self._refusals = 0
            return answer.raw
        self._signed.pop(key, None)
        self._leave(answer)
        return None

    def load(self, key: str) -> dict[str, Any] | None:
        """What boto3's `get_object` tells of a whole object, None where boto3 has to be asked.

        A signature of its own is made for each: this is for small ones, which are asked for once.
        """
        answer = self._ask(lambda client: self._sign(client, key, ChecksumMode="ENABLED"), _WITH_CHECKSUM)
        if answer is None:
            return None
        if answer.status_code != 200 or "Expires" in answer.headers:  # which boto3 has its own way with
            self._leave(answer)
            return None
        self._refusals = 0
        response = {"status_code": 200, "headers": answer.headers, "body": answer.raw}
        shape = self._client.current().meta.service_model.operation_model("GetObject").output_shape
        told: dict[str, Any] = _parser.parse(response, shape)
        return told

    def _ask(self, sign: Callable[[Any], str], headers: dict[str, str]) -> Any:
        """The answer, None where none came or none is to be asked for in this way."""
        if self._settings.requester_pays or time.monotonic() < self._paused_until:
            return None
        client = self._client.current()
        try:
            request = AWSRequest("GET", sign(client), headers=headers, stream_output=True)
            return S3Client.session_of(client).send(request.prepare())
        except BROKEN_CONNECTION:
            return None

    def _leave(self, answer: Any) -> None:
        """To boto3, once the server wants to be asked again."""
        answer.raw.close()
        self._refusals += answer.status_code < 500 and answer.status_code not in _NO_REFUSAL
        if self._refusals >= _REFUSALS:
            self._refusals, self._paused_until = 0, time.monotonic() + _PAUSE
        time.sleep(retry_after(answer) or 0)

    def _url(self, client: Any, key: str) -> str:
        if client is not self._signed_by:
            self._signed, self._signed_by = {}, client
        url, until = self._signed.get(key, ("", 0.0))
        if until < time.monotonic():
            url = self._sign(client, key)
            if len(self._signed) >= _OBJECTS:
                self._signed = {}
            self._signed[key] = url, time.monotonic() + _USED
        return url

    def _sign(self, client: Any, key: str, **fields: str) -> str:
        where = {"Bucket": self._settings.bucket, "Key": key, **fields}
        return str(client.generate_presigned_url("get_object", Params=where, ExpiresIn=_VALID))
