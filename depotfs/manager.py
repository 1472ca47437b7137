"""Named storages for the whole process: configured once, found by name, alias or as the default."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from depotfs.errors import UnknownDepot
from depotfs.io.locks import ReentrantLock

if TYPE_CHECKING:
    from depotfs.backup import BackupReport
    from depotfs.middleware import DepotMiddleware

_LOCAL: Final = "depotfs.io.local.LocalFileStorage"
_OURS: Final = ("depot.io.", "depot.middleware")
"""What of filedepot's has its counterpart here, one package name further: existing configurations name these."""


class DepotManager:
    """The storages of this process. Never instantiated; its methods may be called from any thread."""

    _lock = ReentrantLock()  # around every change; a storage that is being constructed may ask for others
    _default_depot: str | None = None  # None: the first of them
    _depots: dict[str, Any] = {}  # noqa: RUF012 - class-level by design, replaced as a whole by _clear
    _middleware: Any = None
    _aliases: dict[str, str] = {}  # noqa: RUF012

    @classmethod
    def set_default(cls, name: str) -> None:
        """The storage of that name (not an alias) is the default. RuntimeError if there is none."""
        with cls._lock:
            if name not in cls._depots:
                raise RuntimeError(f"{name} depot has not been configured")
            cls._default_depot = name

    @classmethod
    def get_default(cls) -> str:
        """The name of the default storage. RuntimeError if none was configured."""
        with cls._lock:
            name = cls._find_default()
        if name is None:
            raise RuntimeError("No depots have been configured!")
        return name

    @classmethod
    def _find_default(cls) -> str | None:
        return next(iter(cls._depots), None) if cls._default_depot is None else cls._default_depot

    @classmethod
    def set_middleware(cls, mw: Any) -> None:
        """The middleware that `url_for` asks. RuntimeError if there is one already."""
        with cls._lock:
            if cls._middleware is not None:
                raise RuntimeError("There is already a WSGI middleware registered")
            cls._middleware = mw

    @classmethod
    def get_middleware(cls) -> Any:
        """The middleware that was made or set. RuntimeError if there is none."""
        middleware = cls._middleware
        if middleware is None:
            raise RuntimeError("No WSGI middleware currently registered")
        return middleware

    @classmethod
    def get(cls, name: str | None = None) -> Any:
        """The storage of that name or alias, the default one without a name; None if there is no such storage."""
        with cls._lock:
            resolved = cls.resolve_alias(cls._find_default() if name is None else name)
            return None if resolved is None else cls._depots.get(resolved)

    @classmethod
    def get_file(cls, path: str) -> Any:
        """The stored file of a path `<storage or alias>/<file id>`.

        Raises:
            ValueError: there is no `/` in the path, or no id behind it.
            UnknownDepot: (an AttributeError) no storage has that name.
            FileNotStored: (an OSError) it does not hold the file.
        """
        name, file_id = path.split("/", 1)
        depot = cls.get(name)
        if depot is None:
            raise UnknownDepot(f"No depot {name!r} has been configured, so there is no file {path!r}")
        return depot.get(file_id)

    @classmethod
    def url_for(cls, path: str) -> str:
        """The URL under which the middleware serves the file of that path. RuntimeError if there is no middleware."""
        url: str = cls.get_middleware().url_for(path)
        return url

    @classmethod
    def configure(cls, name: str, config: Mapping[str, Any] | None, prefix: str = "depot.") -> Any:
        """The storage is made (see `from_config`), has that name, and is the default if it is the first.

        Nothing has changed when it raises. RuntimeError if the name is taken.
        """
        with cls._lock:
            if name in cls._depots:
                raise RuntimeError(f"Depot {name} has already been configured")
            storage = cls.from_config(config, prefix)
            cls._depots[name] = storage
            return storage

    @classmethod
    def alias(cls, alias: str, name: str) -> None:
        """`alias` names the storage `name` from now on, whatever it named before.

        ValueError if there is no such storage (an alias is none), or if the alias is the name of a storage.
        """
        with cls._lock:
            if name not in cls._depots:
                raise ValueError(f"You can only alias an existing storage, {name} not found")
            if alias in cls._depots:
                raise ValueError(f"Cannot use an existing storage name as an alias, will break existing files: {alias}")
            cls._aliases[alias] = name

    @classmethod
    def resolve_alias(cls, name: str | None) -> str | None:
        """The name of the storage that a name or alias means; None if none."""
        with cls._lock:
            return name if name in cls._depots else cls._aliases.get(name or "")

    @classmethod
    def make_middleware(cls, app: Any, **options: Any) -> DepotMiddleware:
        """The application with all storages served beside it: see `DepotMiddleware`. RuntimeError if there is one."""
        from depotfs.middleware import DepotMiddleware

        middleware = DepotMiddleware(app, **options)
        cls.set_middleware(middleware)
        return middleware

    @classmethod
    def backup(cls, source: Any, target: Any, **options: Any) -> BackupReport:
        """All files of one storage are in another: see `depotfs.backup.backup`."""
        from depotfs.backup import backup

        return backup(source, target, **options)

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None, prefix: str = "depot.") -> Any:
        """A new storage, not registered under any name.

        Args:
            config: `<prefix>backend` is the class or its dotted path, a `LocalFileStorage` without it; every other key
                with the prefix is an argument of its constructor. A key with another dot belongs to another prefix.
        """
        given = {key[len(prefix) :]: value for key, value in (config or {}).items() if _has_prefix(key, prefix)}
        options = {key: value for key, value in given.items() if "." not in key}
        return cls._new(options.pop("backend", _LOCAL), **options)

    @classmethod
    def _new(cls, backend: Any, **options: Any) -> Any:
        return (class_at(backend) if isinstance(backend, str) else backend)(**options)

    @classmethod
    def _clear(cls) -> None:
        """As if nothing had ever been configured; for tests."""
        with cls._lock:
            cls._default_depot = None
            cls._depots = {}
            cls._middleware = None
            cls._aliases = {}


def _has_prefix(key: object, prefix: str) -> bool:
    return isinstance(key, str) and key.startswith(prefix)


def class_at(path: str) -> Any:
    """The class of that dotted path, ours for filedepot's. ValueError without a dot; else what importing raises."""
    module, dot, name = path.rpartition(".")
    if not dot:
        raise ValueError(f"The backend must be the dotted path of a class, such as {_LOCAL}, not {path!r}")
    if path.startswith(_OURS):
        module = module.replace("depot", "depotfs", 1)
    return getattr(importlib.import_module(module), name)


get_depot = DepotManager.get
get_file = DepotManager.get_file
configure = DepotManager.configure
set_default = DepotManager.set_default
