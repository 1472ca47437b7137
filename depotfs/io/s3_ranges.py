"""Ranges of S3 objects, asked for with a third of boto3's work.

Most of what boto3 does for a request is the same for every range of one object: it costs more than a millisecond
under Python's GIL, which a mount that reads in order, or a program that reads here and there, pays each time. Here
an object's URL is signed once (by boto3; valid for every range, since a range need not be signed) and then asked
by botocore's HTTP session. Whatever is not the wanted range is left to boto3, which asks again, tries again where
that can help, and says what is wrong.
"""

from __future__ import annotations

import time
from typing import Any, Final

import botocore.session
from botocore.awsrequest import AWSRequest
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from depotfs.io.s3_client import CONNECTIONS, S3Client, S3Settings, retry_after
from depotfs.io.s3_errors import BROKEN_CONNECTION

_VALID: Final = 900
_USED: Final = 300
"""Seconds that a signature is valid and that it is used: clocks may differ."""
_OBJECTS: Final = 1000
"""Signed URLs that are remembered."""
_REFUSALS: Final = 3
"""Refusals in a row after which no range is asked for in this way any more: some servers and policies want
signatures in headers only."""


class S3Ranges:
    """Asks for ranges of the bucket of `settings`, from any thread."""

    def __init__(self, settings: S3Settings, client: S3Client) -> None:
        self._settings = settings
        self._client = client
        self._made_for: Any = None
        self._session: Any = None
        self._signed: dict[str, tuple[str, float]] = {}
        self._refusals = 0

    def open(self, key: str, etag: str, offset: int, size: int) -> Any:
        """A body to read those bytes of that version from, None where boto3 has to be asked.

        Args:
            etag: without quotes.
        """
        if self._settings.requester_pays or self._refusals >= _REFUSALS:
            return None
        try:
            url = self._url(key)
            headers = {"Range": f"bytes={offset}-{offset + size - 1}", "If-Match": f'"{etag}"'}
            request = AWSRequest("GET", url, headers=headers, stream_output=True)
            answer = self._session.send(request.prepare())
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
        self._signed.pop(key, None)
        self._refusals += answer.status_code in (400, 401, 403)
        answer.raw.close()
        time.sleep(retry_after(answer) or 0)
        return None

    def _url(self, key: str) -> str:
        client = self._client.current()
        if client is not self._made_for:  # after a fork too
            self._session, self._signed, self._made_for = self._make_session(client), {}, client
        url, until = self._signed.get(key, ("", 0.0))
        if until < time.monotonic():
            where = {"Bucket": self._settings.bucket, "Key": key}
            url = client.generate_presigned_url("get_object", Params=where, ExpiresIn=_VALID)
            if len(self._signed) >= _OBJECTS:
                self._signed = {}
            self._signed[key] = url, time.monotonic() + _USED
        return url

    def _make_session(self, client: Any) -> Any:
        bundle = botocore.session.Session(profile=self._settings.profile_name).get_config_variable("ca_bundle")
        return URLLib3Session(
            verify=bundle or True,
            proxies=get_environ_proxies(client.meta.endpoint_url),
            timeout=(self._settings.timeout, self._settings.timeout),  # type: ignore[arg-type]  # connect, read
            max_pool_connections=CONNECTIONS,
        )

    def close(self) -> None:
        """Its connections are closed."""
        if self._session is not None:
            self._session.close()
        self._session = self._made_for = None
