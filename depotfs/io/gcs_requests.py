"""The requests of one Google Cloud Storage backend: retries, deadlines, and errors by their cause.

google-auth brings the credentials and the authorised session, google-cloud-storage the signing of URLs. Its own methods
for objects ask twice where the service needs one request, so objects are asked for here, by the JSON API (https://cloud.google.com/storage/docs/json_api/v1).
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import requests
import urllib3
from google.auth import exceptions as auth_errors

from depotfs.errors import (
    AccessDenied,
    ConfigurationError,
    ContentDamaged,
    DepotError,
    StorageMissing,
    StorageUnavailable,
)
from depotfs.io.gcs_answers import Answer, refusal, unlike, whole_body
from depotfs.io.gcs_client import GcsClient
from depotfs.io.gcs_credentials import GcsCredentials, auth_failure
from depotfs.io.patience import Patience

DEFAULT_ENDPOINT = "https://storage.googleapis.com"
_CONNECT_SECONDS = 10.0
_FIRST_DELAY = 0.25
_LONGEST_WAIT = 30.0
"""Seconds: a server that asks to be left alone for longer is reported as unavailable at once."""
_SILENCES = 2
"""Times that a server may let a request's time run out, if it answers no other request of ours meanwhile."""
_SLOWEST = 64 << 10
"""Bytes per second below which a transfer counts as stalled, beside the time that one answer may take."""
_PIECE = 256 << 10
"""Bytes sent or received at once: each has the whole time limit of a socket for itself."""
_TRANSPORT_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class GcsRequests:
    """Requests to one endpoint; safe for use by several threads and after fork(2).

    Attributes:
        patience: how long a call may take; bytes that arrive at either side are its progress.
    Args:
        project_id, credentials: as `GcsClient` has them.
        timeout: seconds without a byte after which an attempt has failed.
        attempts: how often a request is made at most before StorageUnavailable is raised.
        new_bucket: resource of a bucket that is made before the first request if there is none; None: none is made.
    """

    def __init__(
        self,
        endpoint: str,
        project_id: str | None,
        credentials: GcsCredentials | None,
        *,
        timeout: float,
        attempts: int,
        new_bucket: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.endpoint = endpoint
        self._client = GcsClient(endpoint, project_id, credentials)
        self._timeout = timeout
        self._attempts = attempts
        self._new_bucket = new_bucket
        self.patience = Patience()
        self._sleep = sleep
        self._heard = time.monotonic()  # when an answer last began to come

    @property
    def client(self) -> Any:
        """The `google.cloud.storage.Client`, this process's own. AccessDenied where there are no credentials."""
        return self._client.client

    def close(self) -> None:
        """The connections are closed."""
        self._client.close()

    def signed_url(self, bucket: str, name: str, seconds: float) -> str | None:
        """Where the object can be fetched for so long; None where the credentials cannot sign."""
        return self._client.signed_url(bucket, name, seconds)

    # --- requests --------------------------------------------------------------------------------------------

    def send(
        self,
        what: str,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | dict[str, Any] | None = None,
        attempts: int | None = None,
        empty: bool = False,
        bare: bool = False,
    ) -> Answer:
        """The server's answer, success or a refusal that the caller understands (304, 308, 4xx).

        Args:
            what: what is done, on which file, for messages.
            url: a path of the endpoint, or a whole URL of it.
            empty: success may come without a JSON object; bare: a refusal too.
        Raises:
            AccessDenied, StorageMissing, QuotaExceeded, TooLarge: the server refused for that reason.
            StorageUnavailable: it did not answer, or was failing or throttling, at every attempt.
        """
        self._make_bucket()
        tries = attempts or self._attempts
        return self._send(what, method, url, params, headers, body, tries, empty=empty or bare, bare=bare)

    def _send(
        self,
        what: str,
        method: str,
        url: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        body: bytes | dict[str, Any] | None,
        attempts: int,
        *,
        empty: bool = False,
        bare: bool = False,
    ) -> Answer:
        head = dict(headers or {})
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            head["Content-Type"] = "application/json; charset=UTF-8"

        def attempt() -> Answer:
            data = None if body is None else _Pieces(body, self.patience.progressed)
            with self._exchange(method, url, params, head, data) as response:
                answer = self._answer(response, len(body or b""))
            if not (bare or answer.is_like) or (answer.ok and answer.parsed is None and (answer.body or not empty)):
                # A proxy's page, or another service: not to be taken for a bucket that holds nothing.
                raise unlike(f"answers {answer.status} without JSON")
            return answer

        return self._repeat(what, attempt, attempts)

    def download(self, what: str, url: str, params: Mapping[str, str], offset: int, size: int, whole: int) -> Answer:
        """Bytes of an object exactly as they are stored; a body that was cut short is completed by further requests.

        Args:
            whole: bytes that the object has.
        Raises: as `send`; ContentDamaged: the server sent other bytes than were asked for.
        """
        self._make_bucket()
        pieces: list[bytes] = []

        def attempt() -> Answer:
            had = sum(map(len, pieces))
            head = {"Range": f"bytes={offset + had}-{offset + size - 1}", "Accept-Encoding": "gzip"}
            with self._exchange("GET", url, params, head, None) as response:
                if response.status_code not in (200, 206):
                    return self._answer(response, 0)
                _check_range(what, response, offset + had, whole)
                for piece in self._received(response, size):
                    pieces.append(piece)
                    had += len(piece)
                    self.patience.progressed()
                    if had >= size:
                        break
                if had < size:
                    raise _CutShort(f"{had} of {size} bytes came")
                return Answer(response.status_code, response.headers, b"".join(pieces)[:size])

        return self._repeat(what, attempt, self._attempts)

    def _exchange(self, method: str, url: str, params: Any, headers: Mapping[str, str], data: Any) -> Any:
        target = url if "://" in url else self.endpoint + url
        silence = min(self._timeout, self.patience.left())
        if silence <= 0:
            raise TimeoutError("the call has taken too long")
        response = self._client.session().request(
            method,
            target,
            params=params,
            headers=headers,
            data=data,
            timeout=(min(_CONNECT_SECONDS, silence), silence),
            stream=True,
            allow_redirects=False,
        )
        self._heard = time.monotonic()
        return response

    def _answer(self, response: Any, sent: int) -> Answer:
        """The answer to a request with a body of `sent` bytes."""
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        body = whole_body(self._received(response, sent), response.status_code, encoding)
        return Answer(response.status_code, response.headers, body)

    def _received(self, response: Any, size: int) -> Iterator[bytes]:
        """The body in pieces, as they come and are stored; bounded in time, not in size."""
        seconds = min(self._timeout, max(self.patience.left(), 0.0)) + size / _SLOWEST
        deadline = time.monotonic() + seconds
        while piece := response.raw.read1(_PIECE, decode_content=False):
            yield piece
            if time.monotonic() > deadline:
                raise TimeoutError(f"the answer takes longer than {seconds:.0f} s")

    def _repeat(self, what: str, attempt: Callable[[], Answer], attempts: int) -> Answer:
        failures = 0
        with self.patience.call():
            while True:
                tried = self._tried(what, attempt, failures)
                if isinstance(tried, Answer):
                    return tried
                if not isinstance(tried, StorageUnavailable):
                    raise tried
                failures += 1
                self.pause(failures, tried, attempts)

    def _tried(self, what: str, attempt: Callable[[], Answer], failures: int) -> Answer | DepotError:
        """The answer to one more attempt, or why it has failed."""
        try:
            answer = attempt()
        except auth_errors.GoogleAuthError as error:
            return auth_failure(what, self.endpoint, error)
        except DepotError as error:
            return error
        except _TRANSPORT_ERRORS as error:
            reason = _reason(error, min(self._timeout, self.patience.seconds or self._timeout))
            failure = StorageUnavailable(f"{what}: {self.endpoint} did not answer: {reason}")
            if _ran_out_of_time(error) and failures + 1 >= _SILENCES and self._silent():
                raise failure from None  # the URL, which `error` names, may be one that lets its reader write
            return failure
        return refusal(answer, self.told(what, answer)) or answer

    def _silent(self) -> bool:
        return time.monotonic() - self._heard >= _SILENCES * self._timeout

    def pause(self, failures: int, failure: StorageUnavailable, attempts: int | None = None) -> None:
        """It is time to try again after that many failures; raises the failure where that is not worth while."""
        delay = _delay(failures, failure.retry_after)
        if failures >= (attempts or self._attempts) or delay is None or delay >= self.patience.left():
            raise failure
        self._sleep(delay)

    def told(self, what: str, answer: Answer) -> str:
        """What failed and what the server said to it."""
        return f"{what}: {self.endpoint} answered {answer.status}: {answer.message}"

    def own(self, location: str) -> str:
        """The URL that the server gave, at the configured endpoint: requests go nowhere else. StorageUnavailable."""
        ours = urlsplit(self.endpoint)
        try:
            return urlunsplit((ours.scheme, ours.netloc, *urlsplit(location)[2:]))
        except ValueError:
            raise StorageUnavailable(f"{self.endpoint} gave a URL that is none") from None

    def _make_bucket(self) -> None:
        """The bucket exists, if it is to be made; made if it did not. What fails is tried again by the next call.

        By each of several threads that come here first: one makes it, the others find it.
        """
        if (resource := self._new_bucket) is not None:
            self._make(resource)
            self._new_bucket = None

    def _make(self, resource: Mapping[str, str]) -> None:
        what = f"Making bucket {resource['name']}"
        try:
            path = bucket_path(resource["name"])
            if self._send(what, "GET", path, {"fields": "name"}, None, None, self._attempts).ok:
                return
        except AccessDenied:
            return  # it is there, but may not be looked at
        except StorageMissing:
            pass
        project = self._client.project()
        if not project:
            raise ConfigurationError(f"{what}: project_id must say in which project")
        answer = self._send(what, "POST", "/storage/v1/b", {"project": project}, None, dict(resource), self._attempts)
        if not answer.ok and answer.status != 409:  # 409: somebody else was faster
            raise StorageMissing(self.told(what, answer))


class _CutShort(OSError):
    """Fewer bytes than the server had promised."""


class _Pieces:
    """A body that is sent in pieces, each with the socket's whole time limit to itself; tells of each that is sent."""

    def __init__(self, data: bytes, sent: Callable[[], None]) -> None:
        self._data = data
        self._sent = sent

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[memoryview]:
        view = memoryview(self._data)
        for start in range(0, len(view), _PIECE):
            yield view[start : start + _PIECE]
            self._sent()


def bucket_path(bucket: str) -> str:
    return f"/storage/v1/b/{quote(bucket, safe='')}"


def object_path(bucket: str, name: str) -> str:
    return f"{bucket_path(bucket)}/o/{quote(name, safe='')}"


def _check_range(what: str, response: Any, offset: int, whole: int) -> None:
    sent = response.headers.get("Content-Range", "")
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", sent)
        if found is None or int(found[1]) != offset or found[2] not in ("*", str(whole)):
            raise ContentDamaged(
                f"{what}: the server sent {sent[:50]!r} instead of the bytes from {offset} on of {whole}"
            )
    elif offset:
        raise ContentDamaged(f"{what}: the server does not send ranges of this object")


def _delay(attempt: int, retry_after: float | None) -> float | None:
    """Seconds to wait after the attempt of that number, None where waiting is for somebody else.

    Between half and all of a time that doubles, so that many clients do not come back together.
    """
    if retry_after is not None:
        return retry_after * random.uniform(1.0, 1.1) if retry_after <= _LONGEST_WAIT else None
    return min(_LONGEST_WAIT, _FIRST_DELAY * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def _reason(error: BaseException, timeout: float) -> str:
    """Why there was no answer; without the URL, which may be one that lets its reader write."""
    named = [cause.strerror for cause in _causes(error) if isinstance(cause, OSError) and cause.strerror]
    if named:
        return named[0]
    return f"nothing came for {timeout:g} s" if _ran_out_of_time(error) else type(error).__name__.lstrip("_")


def _ran_out_of_time(error: BaseException) -> bool:
    slow = requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError
    return any(isinstance(cause, slow) for cause in _causes(error))


def _causes(error: BaseException) -> list[BaseException]:
    """The error and all that led to it."""
    causes = [error]
    for cause in causes:
        inner = [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
        causes += [i for i in inner if isinstance(i, BaseException) and i not in causes]
    return causes
