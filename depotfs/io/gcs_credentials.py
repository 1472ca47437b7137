"""What the option `credentials` of a Google Cloud Storage backend means. Of its values, messages name a path alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final

import google.auth
import google.auth.credentials
from google.auth import exceptions as auth_errors
from google.oauth2 import credentials as oauth_credentials
from google.oauth2 import service_account

from depotfs.errors import AccessDenied, ConfigurationError, DepotError, StorageUnavailable

_SCOPES: Final = ("https://www.googleapis.com/auth/devstorage.full_control",)
_VARIABLE: Final = "GOOGLE_APPLICATION_CREDENTIALS"
_LONGEST_PATH: Final = 255
"""Characters of a path that is shown: what is longer is rather a key that was taken for one."""


class GcsCredentials:
    """The option, understood; nothing is asked of anybody before `load`.

    Args:
        given: a dict as Google issues it or its JSON text, the path of a file that holds it, a google.auth
            credentials object, or None: the application default credentials.
    Raises:
        ConfigurationError: a file that is named cannot be read, or what should be JSON is none.
    """

    def __init__(self, given: Any) -> None:
        self._given: Any = None
        self._path: str | None = None
        if isinstance(given, str) and given.lstrip().startswith("{"):
            self._given = _parsed(given, "GCS credentials")
        elif isinstance(given, str | os.PathLike) and given:
            self._path = os.fspath(given)
            _read(self._path, "GCS credentials")
        elif isinstance(given, Mapping):
            self._given = _checked(given, "GCS credentials")
        elif isinstance(given, google.auth.credentials.Credentials):
            self._given = given
        elif given:
            raise ConfigurationError(f"GCS credentials must not be of type {type(given).__name__}")
        elif named := os.environ.get(_VARIABLE):
            _read(named, _VARIABLE)  # google.auth reads it again

    def load(self) -> Any:
        """The google.auth credentials object. AccessDenied where there are none that can be used."""
        where = "given or found" if self._path is None else f"in {self._path}"
        try:
            return _loaded(self._given if self._path is None else _read(self._path, "GCS credentials"))
        except (auth_errors.GoogleAuthError, OSError, ValueError, KeyError, TypeError) as error:
            raise AccessDenied(f"There are no usable Google credentials {where} ({type(error).__name__})") from None


def _read(path: str, option: str) -> Mapping[str, Any]:
    shown = path if len(path) <= _LONGEST_PATH and path.isprintable() else "what is no path"
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigurationError(f"{option} names {shown}, which cannot be read: {reason}") from None
    return _parsed(text, f"{option} names {shown}, which")


def _parsed(text: str, what: str) -> Mapping[str, Any]:
    try:
        return _checked(json.loads(text), what)
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{what} must hold a JSON object as Google issues it") from None


def _checked(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        raise ConfigurationError(f"{what} must be an object as Google issues it, with a type")
    return value


def _loaded(given: Any) -> Any:
    if given is None:
        return google.auth.default(scopes=_SCOPES)[0]
    if not isinstance(given, Mapping):
        return google.auth.credentials.with_scopes_if_required(given, _SCOPES)  # type: ignore[no-untyped-call]
    if given.get("type") == "service_account":
        return service_account.Credentials.from_service_account_info(given, scopes=_SCOPES)  # type: ignore[no-untyped-call]
    if given.get("type") == "authorized_user":
        return oauth_credentials.Credentials.from_authorized_user_info(given, scopes=_SCOPES)  # type: ignore[no-untyped-call]
    return google.auth.load_credentials_from_dict(given, scopes=_SCOPES)[0]  # type: ignore[no-untyped-call]


def auth_failure(what: str, endpoint: str, error: auth_errors.GoogleAuthError) -> DepotError:
    """Why the credentials brought no access, or no signature."""
    if isinstance(error, auth_errors.TransportError) or getattr(error, "retryable", False):
        return StorageUnavailable(f"{what}: no access token could be fetched ({type(error).__name__})")
    return AccessDenied(f"{what}: {endpoint} does not accept the credentials ({type(error).__name__})")
