"""Ranges of S3 objects, asked for with a third of boto3's work.

Most of what boto3 does for a request is the same for every range of one object: it costs more than a millisecond
under Python's GIL, which a mount that reads in order, or a program that reads here and there, pays each time. Here
an object's URL is signed once (by boto3; valid for every range, since a range need not be signed) and then asked
through the HTTP session of boto3's client, with its connections, proxies, certificates and time limits. Whatever is
not the wanted range is left to boto3, which asks again, tries again where that can help, and says what is wrong.
"""

from __future__ import annotations

import time
from typing import Any, Final

from botocore.awsrequest import AWSRequest

from depotfs.io.s3_client import S3Client, S3Settings, retry_after
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


class S3Ranges:
    """Asks for ranges of the bucket of `settings`, from any thread."""

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
        if self._settings.requester_pays or time.monotonic() < self._paused_until:
            return None
        try:
            client = self._client.current()
            headers = {"Range": f"bytes={offset}-{offset + size - 1}", "If-Match": f'"{etag}"'}
            request = AWSRequest("GET", self._url(client, key), headers=headers, stream_output=True)
            answer = S3Client.session_of(client).send(request.prepare())
        except BROKEN_CONNECTION:
            return None
        told = answer.headers
        if (
            answer.status_code == 206
            and told.get("ETag", "").strip('"') == etag
            and told.get("Content-Range", "").startswith(f"bytes {offset}-{offset + size - 1}/")
        ):
            self._refusals = 0
            return answer.raw
        answer.raw.close()
        if answer.status_code < 500 and answer.status_code not in _NO_REFUSAL:
            self._refused(key)
        time.sleep(retry_after(answer) or 0)
        return None

    def _refused(self, key: str) -> None:
        self._signed.pop(key, None)
        self._refusals += 1
        if self._refusals >= _REFUSALS:
            self._refusals, self._paused_until = 0, time.monotonic() + _PAUSE

    def _url(self, client: Any, key: str) -> str:
        if client is not self._signed_by:
            self._signed, self._signed_by = {}, client
        url, until = self._signed.get(key, ("", 0.0))
        if until < time.monotonic():
            where = {"Bucket": self._settings.bucket, "Key": key}
            url = client.generate_presigned_url("get_object", Params=where, ExpiresIn=_VALID)
            if len(self._signed) >= _OBJECTS:
                self._signed = {}
            self._signed[key] = url, time.monotonic() + _USED
        return url
