"""Backends: the class that a configured storage names, what its constructor takes, and one built from it."""

from __future__ import annotations

import hashlib
import inspect
import json
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from depotfs.daemon.settings import StorageSettings
from depotfs.daemon.values import parse_size
from depotfs.errors import ConfigurationError
from depotfs.io.durations import parse_duration
from depotfs.io.foreign import ForeignStorage, adopt
from depotfs.io.interfaces import FileStorage
from depotfs.manager import class_at

LOCAL = "depotfs.io.local.LocalFileStorage"
_SIX = ("get", "create", "replace", "delete", "exists", "list")
_WORDS: dict[type, str] = {
    str: "text",
    bool: "yes or no",
    int: "a whole number",
    float: "a number",
    dict: "a mapping",
    list: "a list",
    types.NoneType: "nothing",
}


def import_backend(path: str) -> Callable[..., Any]:
    """The class of that dotted path; `depot.io.…` means ours.

    Raises:
        ValueError: why it cannot be had: no such module or class, an error while importing, not a storage.
    """
    try:
        found: Callable[..., Any] = class_at(path)
    except Exception as error:  # a module of the user's own may raise anything
        raise ValueError(f"cannot import {path}: {type(error).__name__}: {error}") from error
    lacking = [method for method in _SIX if not callable(getattr(found, method, None))]
    if lacking:
        raise ValueError(f"{path} is not a storage: it has no {', '.join(lacking)}")
    return found


def build(settings: StorageSettings) -> FileStorage:
    """The storage, constructed; our own make no request by that.

    Raises:
        ConfigurationError: its class or its options will not do.
    """
    try:
        return adopt(import_backend(settings.backend)(**settings.options))
    except ConfigurationError as error:
        raise ConfigurationError(f"storage {settings.name}: {error}") from error
    except Exception as error:  # a class of the user's own may raise anything
        raise ConfigurationError(f"storage {settings.name}: {settings.backend}: {_told(error)}") from error


def identity(settings: StorageSettings, storage: FileStorage) -> str:
    """What makes it the same storage after a restart, and another than all others.

    A class that does not say it is told by its options.
    """
    own = storage.identity()
    if type(storage).identity not in (FileStorage.identity, ForeignStorage.identity):
        return own
    return f"{own} {digest(settings.options)}"


def digest(options: Mapping[str, object]) -> str:
    """Equal for equal options, and tells none of them."""
    return hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _told(error: Exception) -> str:
    """What the exception says, in one line; with its kind and where it was raised unless it is about the options."""
    text = " ".join(str(error).split())
    if isinstance(error, TypeError | ValueError):
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({place.filename}:{place.lineno})"


def describe(value: object) -> str:
    """What kind of value it is."""
    return "a number" if type(value) is int else _WORDS.get(type(value), f"a {type(value).__name__}")


class Arguments:
    """What the constructor of a storage class takes, by name."""

    def __init__(self, backend: Callable[..., Any]) -> None:
        parameters = list(inspect.signature(backend).parameters.values())
        self.open = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.names = [p.name for p in named]
        self.required = [p.name for p in named if p.default is p.empty]
        self._types = _hints(backend)

    def missing(self, given: Iterable[str]) -> list[str]:
        """The required ones that were not given."""
        return [name for name in self.required if name not in set(given)]

    def fit(self, name: str, value: object) -> object:
        """The value as the constructor wants it: `1h` for a number of seconds, `8MiB` for one of bytes, else unchanged.

        Raises:
            ValueError: what was expected and what kind of value is there; never the value, it may be a secret.
        """
        accepted = _plain_types(self._types.get(name, Any))
        if accepted is None or _is_any(value, accepted):
            return value
        if isinstance(value, str) and float in accepted:
            return parse_duration(value)
        if isinstance(value, str) and int in accepted:
            return parse_size(value)
        expected = " or ".join(dict.fromkeys(_WORDS[t] for t in accepted if t is not types.NoneType))
        raise ValueError(f"{expected}, found {describe(value)}")


def _hints(backend: Callable[..., Any]) -> Mapping[str, Any]:
    constructor = backend.__init__ if isinstance(backend, type) else backend  # type: ignore[misc]
    try:
        return typing.get_type_hints(constructor)
    except Exception:  # annotations may name what exists for type checkers only
        return {}


def _plain_types(annotation: Any) -> tuple[type, ...] | None:
    """The classes that an annotation of plain values allows, None if it allows something else too."""
    if annotation is None:
        return (types.NoneType,)
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [_plain_types(part) for part in typing.get_args(annotation)]
        return None if None in parts else tuple(t for part in parts if part is not None for t in part)
    plain = {Mapping: dict, None: annotation}.get(origin, origin)
    return (plain,) if plain in _WORDS else None


def _is_any(value: object, accepted: tuple[type, ...]) -> bool:
    if isinstance(value, bool):  # which is an int in Python, and a mistake in its place here
        return bool in accepted
    return isinstance(value, accepted) or (isinstance(value, int) and float in accepted)
