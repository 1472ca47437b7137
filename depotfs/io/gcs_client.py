"""The authorised session of one Google Cloud Storage backend: made when first needed, and anew after a fork."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, Final

import google.auth.credentials
import requests
from google.auth import exceptions as auth_errors
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage

from depotfs.io.durations import LONGEST_SIGNATURE
from depotfs.io.gcs_credentials import GcsCredentials, auth_failure
from depotfs.io.locks import Lock

_CONNECTIONS: Final = 64
"""Idle connections kept: more threads than this read at once from no mount of ours."""


class GcsClient:
    """Gives the session, and google-cloud-storage's client, which has one of its own.

    Args:
        credentials: used at the first request, not before; None: none are used, and none are looked for.
    """

    def __init__(self, endpoint: str, project_id: str | None, credentials: GcsCredentials | None) -> None:
        self.endpoint = endpoint
        self._project_id = project_id
        self._given = credentials
        self._lock = Lock()  # around making what follows, so that one thread does and the others find it
        self._credentials: Any = None
        self._session: Any = None
        self._client: Any = None
        self._pid = 0

    def session(self) -> Any:
        """The session, this process's own, for all of its threads. AccessDenied where there are no credentials."""
        with self._lock:
            return self._made()

    @property
    def client(self) -> Any:
        """The `google.cloud.storage.Client`, this process's own. AccessDenied where there are no credentials."""
        with self._lock:
            self._made()
            if self._client is None:
                self._client = storage.Client(
                    project=self._project,  # None: the library looks for none
                    credentials=self._credentials,
                    client_options={"api_endpoint": self.endpoint},
                    use_auth_w_custom_endpoint=self._given is not None,
                )
            return self._client

    def project(self) -> str | None:
        """The project that was given, or the credentials'. AccessDenied where there are no credentials."""
        with self._lock:
            self._made()
            return self._project

    @property
    def _project(self) -> str | None:
        return self._project_id or getattr(self._credentials, "project_id", None)

    def _made(self) -> Any:
        if self._session is None or self._pid != os.getpid():  # a child must not share its parent's sockets
            anonymous = self._given is None
            nobody: Any = google.auth.credentials.AnonymousCredentials
            self._credentials = nobody() if self._given is None else self._given.load()
            self._session = _new_session(self._credentials, self.endpoint, anonymous=anonymous)
            self._client, self._pid = None, os.getpid()
        return self._session

    def close(self) -> None:
        """The connections are closed."""
        with self._lock:
            if self._pid == os.getpid():
                for one in filter(None, (self._client, self._session)):
                    one.close()
            self._client = self._session = None

    def signed_url(self, bucket: str, name: str, seconds: float) -> str | None:
        """Where the object can be fetched for so long; None where the credentials cannot sign."""
        blob = self.client.bucket(bucket).blob(name)
        if not isinstance(self._credentials, google.auth.credentials.Signing):
            return None
        valid = timedelta(seconds=int(max(1.0, min(seconds, LONGEST_SIGNATURE))))
        try:
            url: str = blob.generate_signed_url(
                version="v4", expiration=valid, method="GET", api_access_endpoint=self.endpoint
            )
        except auth_errors.GoogleAuthError as error:  # of credentials that have their signatures made elsewhere
            raise auth_failure(f"Signing a URL of {bucket}", self.endpoint, error) from None
        return url


def _new_session(credentials: Any, endpoint: str, *, anonymous: bool) -> Any:
    session: Any = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
    if not anonymous:
        session.configure_mtls_channel()
    # What the environment says is read once, not at each request, and never a password from ~/.netrc.
    session.proxies = requests.utils.get_environ_proxies(endpoint)
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    session.trust_env = False
    session.headers["Accept-Encoding"] = "gzip"  # what `gcs_answers` understands
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS)
    session.mount("http://", adapter)
    if not session.is_mtls:
        session.mount("https://", adapter)
    return session
