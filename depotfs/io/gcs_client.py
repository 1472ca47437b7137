"""The google-cloud-storage client of one storage: made when first needed, for all threads, and anew after a fork."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import google.auth
import google.auth.credentials
import requests
from google.auth import exceptions as auth_errors
from google.cloud import storage
from google.oauth2 import credentials as oauth_credentials
from google.oauth2 import service_account

from depotfs.errors import AccessDenied, DepotError, StorageUnavailable
from depotfs.io.durations import LONGEST_SIGNATURE

_SCOPES = ("https://www.googleapis.com/auth/devstorage.full_control",)
_CONNECTIONS = 64
"""Idle connections kept: more threads than this read at once from no mount of ours."""
_connecting = threading.Lock()
"""Held while a client is made; fork(2) waits for it, so that no child finds it taken by a thread that it has not."""
os.register_at_fork(before=_connecting.acquire, after_in_parent=_connecting.release, after_in_child=_connecting.release)


class GcsClient:
    """Gives the library's client, and its authorised session.

    Args:
        credentials: a dict or the path of a file as Google issues them, a credentials object, or None: the
            application default credentials. Used at the first request, not before.
        anonymous: no credentials at all, and nothing is looked up to find some.
    """

    def __init__(self, endpoint: str, project_id: str | None, credentials: Any, *, anonymous: bool) -> None:
        self.endpoint = endpoint
        self._project_id = project_id
        self._given = credentials
        self._anonymous = anonymous
        self._client: Any = None
        self._session: Any = None
        self._pid = 0

    @property
    def client(self) -> Any:
        """The `google.cloud.storage.Client`, this process's own. AccessDenied where there are no credentials."""
        self.session()
        return self._client

    def session(self) -> Any:
        """The authorised session."""
        with _connecting:
            if self._session is None or self._pid != os.getpid():  # a child must not share its parent's sockets
                self._client = self._new_client()
                self._session = self._client._http
                _prepare_session(self._session, self.endpoint)
                self._pid = os.getpid()
            return self._session

    def _new_client(self) -> Any:
        credentials = self._credentials()
        return storage.Client(
            project=self._project_id or getattr(credentials, "project_id", None),  # None: the library looks for none
            credentials=credentials,
            client_options={"api_endpoint": self.endpoint},
            use_auth_w_custom_endpoint=not self._anonymous,
        )

    def _credentials(self) -> Any:
        if self._anonymous:
            return google.auth.credentials.AnonymousCredentials()  # type: ignore[no-untyped-call]
        try:
            return _load_credentials(self._given)
        except (auth_errors.GoogleAuthError, OSError, ValueError, KeyError) as error:
            where = f"in {self._given}" if isinstance(self._given, str) else "given or found"
            raise AccessDenied(f"There are no usable Google credentials {where} ({type(error).__name__})") from error

    def close(self) -> None:
        """The connections are closed."""
        with _connecting:
            if self._client is not None and self._pid == os.getpid():
                self._client.close()
            self._client = self._session = None

    def signed_url(self, bucket: str, name: str, seconds: float) -> str | None:
        """Where the object can be fetched for so long; None where the credentials cannot sign."""
        if not isinstance(self.client._credentials, google.auth.credentials.Signing):
            return None
        try:
            url: str = (
                self.client.bucket(bucket)
                .blob(name)
                .generate_signed_url(
                    version="v4",
                    expiration=timedelta(seconds=int(max(1.0, min(seconds, LONGEST_SIGNATURE)))),
                    method="GET",
                    api_access_endpoint=self.endpoint,
                )
            )
        except auth_errors.GoogleAuthError as error:  # of credentials that have their signatures made elsewhere
            raise auth_failure(f"Signing a URL of {bucket}", self.endpoint, error) from error
        return url


def _prepare_session(session: Any, endpoint: str) -> None:
    # What the environment says is read once, not at each request, and never a password from ~/.netrc.
    session.proxies = requests.utils.get_environ_proxies(endpoint)
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    session.trust_env = False
    session.headers["Accept-Encoding"] = "gzip"  # what `gcs_answers` understands
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS)
    session.mount("http://", adapter)
    if not session.is_mtls:
        session.mount("https://", adapter)


def _load_credentials(given: Any) -> Any:
    if given is None:
        return google.auth.default(scopes=_SCOPES)[0]
    if isinstance(given, str | os.PathLike):
        with open(given, encoding="utf-8") as file:
            given = json.load(file)
    if not isinstance(given, Mapping):
        return google.auth.credentials.with_scopes_if_required(given, _SCOPES)  # type: ignore[no-untyped-call]
    if given.get("type") == "service_account":
        return service_account.Credentials.from_service_account_info(given, scopes=_SCOPES)  # type: ignore[no-untyped-call]
    if given.get("type") == "authorized_user":
        return oauth_credentials.Credentials.from_authorized_user_info(given, scopes=_SCOPES)  # type: ignore[no-untyped-call]
    if not given.get("type"):
        raise ValueError("no type")
    return google.auth.load_credentials_from_dict(given, scopes=_SCOPES)[0]  # type: ignore[no-untyped-call]


def auth_failure(what: str, endpoint: str, error: auth_errors.GoogleAuthError) -> DepotError:
    """Why the credentials brought no access, or no signature."""
    if isinstance(error, auth_errors.TransportError) or getattr(error, "retryable", False):
        return StorageUnavailable(f"{what}: no access token could be fetched ({type(error).__name__})")
    return AccessDenied(f"{what}: {endpoint} does not accept the credentials ({type(error).__name__})")
