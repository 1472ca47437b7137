"""Config: from a YAML file to `Settings`, or to every mistake in it at once.

A mistake reads `file:line: key: what was expected`. Nothing but the file and the classes that it names
is looked at: no storage is asked for anything.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import yaml

from depotfs.daemon import trust, values
from depotfs.daemon.backends import LOCAL, Arguments, describe, digest, import_backend
from depotfs.daemon.settings import MountSettings, Settings, StorageSettings
from depotfs.errors import ConfigurationError
from depotfs.io.durations import parse_duration

T = TypeVar("T")

_MISTAKEN: Final = object()
"""In place of a value that could not be read; unlike None, no value is this."""

_DEFAULT: Final = "depotfs.yaml"
_PREFIX: Final = "depot."
"""What filedepot's own configurations put before each key of a storage."""
_PATHS: Final = {"storage_path": "", "credentials": "depotfs.io.gcs"}
"""Constructor arguments that are paths where they are text → the module of the class, "" for any."""


def find_config(given: str | None) -> str | None:
    """The file to read: the one given, else `$DEPOTFS_CONFIG`, else `./depotfs.yaml` if there is one, else None."""
    if given or (given := os.environ.get("DEPOTFS_CONFIG")):
        return given
    return _DEFAULT if os.path.lexists(_DEFAULT) else None  # a dangling link is no reason for the embedded one


def load(path: str | None) -> Settings:
    """The settings of that file; the embedded ones for None: one storage `default`, local, in `./files`.

    Directories of `python_path` can be imported from afterwards.

    Raises:
        ConfigurationError: with all mistakes, one a line.
    """
    if path is None:
        local = StorageSettings("default", LOCAL, {"storage_path": os.path.abspath("files")})
        return Settings((local,), "default")
    return _Reader(path).read(_read(path))


def load_found(given: str | None) -> Settings:
    """`load` of what `find_config` finds; a file that nobody named must be trusted, since it tells what code to run.

    Raises:
        ConfigurationError: as `load`; or the file is somebody else's, or others may write to it.
    """
    path = find_config(given)
    if path == _DEFAULT and not given and not os.environ.get("DEPOTFS_CONFIG"):
        return _Reader(path).read(_read(path, trusted=True))
    return load(path)


def _read(path: str, *, trusted: bool = False) -> bytes:
    try:
        with open(path, "rb") as file:
            fault = trust.find_fault(os.fstat(file.fileno())) if trusted else None
            if fault is None:
                return file.read()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    raise ConfigurationError(f"{path}: {fault}, and it may name code to run: if it is right, say --config {path}")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One key of a mapping with its value.

    Attributes:
        path: the key with all those above it, for messages; line: counted from 1.
    """

    path: str
    line: int
    value: yaml.Node


class _Reader:
    """Reads one file; a mistake is noted and reading goes on with what can be understood."""

    def __init__(self, path: str) -> None:
        self._file = path
        self._directory = os.path.dirname(os.path.abspath(path))
        self._mistakes: list[tuple[int, str]] = []
        self._identities: dict[str, _Entry] = {}
        self._mount_keys: Mapping[str, Callable[[yaml.Node], object]] = {
            "commit": _scalar(values.parse_commit),
            "attr_timeout": _scalar(parse_duration),
            "scratch": _texts,
            "scratch_delay": _scalar(parse_duration),
            "deadline": _scalar(values.parse_deadline),
            "read_only": _boolean,
            "file_mode": _scalar(values.parse_mode),
            "dir_mode": _scalar(values.parse_mode),
            "uid": _scalar(values.parse_user),
            "gid": _scalar(values.parse_group),
        }
        self._daemon_keys: Mapping[str, Callable[[yaml.Node], object]] = {
            "allow_other": _boolean,
            "spool": lambda node: self._absolute(_scalar(values.parse_path)(node)),
            "spool_size": _scalar(values.parse_size),
            "cache_size": _scalar(values.parse_size),
        }

    def read(self, text: bytes) -> Settings:
        top = self._entries(self._compose(text), "", 1)
        self._refuse_others(top, ("storages", "aliases", "default", "mount", "python_path", "log_level"))
        python_path = self._read_python_path(top.get("python_path"))
        found = self._read_values(top.get("mount"), {**self._mount_keys, **self._daemon_keys})
        mount = replace(MountSettings(), **{key: value for key, value in found.items() if key in self._mount_keys})
        storages = self._read_storages(top.get("storages"), mount)
        names = [storage.name for storage in storages]
        aliases = self._read_aliases(top.get("aliases"), names)
        default = self._read_default(top.get("default"), names, aliases)
        log_level = self._value(top.get("log_level"), _scalar(values.parse_log_level), "INFO")
        if self._mistakes:
            raise ConfigurationError(
                "\n".join(f"{self._file}:{line}: {text}" for line, text in sorted(dict.fromkeys(self._mistakes)))
            )
        daemon: dict[str, Any] = {key: value for key, value in found.items() if key in self._daemon_keys}
        daemon["spool_directory"] = daemon.pop("spool", None)
        return Settings(
            tuple(storages),
            default,
            aliases,
            mount,
            log_level=log_level,
            python_path=python_path,
            source=os.path.abspath(self._file),
            **daemon,
        )

    # --- the chapters of the file ----------------------------------------------------------------------------

    def _read_python_path(self, entry: _Entry | None) -> tuple[str, ...]:
        if entry is None:
            return ()
        nothing: tuple[str, ...] = ()
        directories = tuple(map(self._absolute, self._value(entry, _texts, nothing)))
        for directory in directories:
            if not os.path.isdir(directory):
                self._note(entry, f"expected directories, {directory!r} is none")
            elif directory not in sys.path:
                sys.path.append(directory)
        return directories

    def _read_storages(self, entry: _Entry | None, mount: MountSettings) -> list[StorageSettings]:
        named = self._entries(entry.value, entry.path, entry.line) if entry else {}
        if not named:
            self._mistakes.append((entry.line if entry else 1, "storages: expected at least one storage"))
        return [self._read_storage(name, item, mount) for name, item in named.items()]

    def _read_storage(self, name: str, entry: _Entry, mount: MountSettings) -> StorageSettings:
        self._check_name(entry, name)
        keys: dict[str, _Entry] = {}
        for key, item in self._entries(entry.value, entry.path, entry.line).items():
            plain = key.removeprefix(_PREFIX)
            if plain in keys:
                self._note(item, f"expected only one of {plain} and {_PREFIX}{plain}")
            keys[plain] = item
        own = self._read_values(keys.pop("mount", None), self._mount_keys)
        backend = keys.get("backend")
        path = self._value(keys.pop("backend", None), _scalar(values.parse_text), LOCAL)
        options = self._read_options(path, backend or entry, entry, keys)
        return StorageSettings(name, path, options, replace(mount, **own))

    def _read_options(
        self, backend: str, named: _Entry, storage: _Entry, keys: Mapping[str, _Entry]
    ) -> dict[str, object]:
        constructed = {key: self._construct(item) for key, item in keys.items()}
        given = {key: value for key, value in constructed.items() if value is not _MISTAKEN}
        try:
            constructor = import_backend(backend)
            arguments = Arguments(constructor)
        except ValueError as error:
            self._note(named, str(error))
            return given
        if not arguments.open:
            self._refuse_others(keys, arguments.names)
        missing = arguments.missing(keys)
        for name in missing:
            self._note(_Entry(f"{storage.path}.{name}", storage.line, storage.value), f"missing, {backend} needs it")
        options = {
            key: self._fit(keys[key], arguments, key, value, _PATHS.get(key) in ("", constructor.__module__))
            for key, value in given.items()
        }
        fitting = {key: value for key, value in options.items() if value is not _MISTAKEN}
        if constructor.__module__.startswith("depotfs."):
            known = {key: value for key, value in fitting.items() if arguments.open or key in arguments.names}
            self._try(constructor, known, storage, keys)
        else:
            self._note_place(f"{backend} {digest(fitting)}", storage)
        return fitting

    def _try(
        self,
        constructor: Callable[..., Any],
        options: dict[str, object],
        storage: _Entry,
        keys: Mapping[str, _Entry],
    ) -> None:
        """Notes what only the class knows to be wrong. Ours ask nobody for anything before they are used.

        A class tells of one mistake at a time. So what it names is left out, or replaced by some text if it then is
        missed, and it is tried again. A message about anything that was told before may be no more than a consequence.
        """
        told = set(keys) - set(options)
        replaced: set[str] = set()
        while True:
            try:
                made = constructor(**options)
            except TypeError:
                return  # without an option that it needs, which was noted
            except ValueError as error:
                words = re.findall(r"\w+", str(error))
                named = [word for word in dict.fromkeys(words) if word in keys]
                if told.isdisjoint(words):
                    self._note(keys[named[0]] if named else storage, str(error))
                told.update(named)
                name = next((name for name in named if name not in replaced), None)
                if name is None:
                    return
                if name in options:
                    del options[name]
                else:
                    options[name] = "text"
                    replaced.add(name)
            else:
                if not told:
                    self._note_place(made.identity(), storage)
                made.close()
                return

    def _note_place(self, identity: str, storage: _Entry) -> None:
        """Two storages on one place would not know of each other's files that are not stored yet."""
        first = self._identities.setdefault(identity, storage)
        if first is not storage:
            self._note(storage, f"the same place as {first.path} in line {first.line}; an alias gives it another name")

    def _fit(self, entry: _Entry, arguments: Arguments, name: str, value: object, is_path: bool) -> object:
        """The value as the constructor wants it, `_MISTAKEN` if it is none."""
        try:
            value = arguments.fit(name, value)
            if is_path and isinstance(value, str) and not value.lstrip().startswith("{"):  # which is a key itself
                return self._absolute(values.parse_path(value))
            if name != "storage_path" or isinstance(value, str):
                return value
            raise ValueError(f"text, found {describe(value)}")
        except ValueError as error:
            self._note(entry, f"expected {error}")
        return _MISTAKEN

    def _read_aliases(self, entry: _Entry | None, names: list[str]) -> dict[str, str]:
        aliases: dict[str, str] = {}
        found = self._entries(entry.value, entry.path, entry.line) if entry else {}
        for alias, item in found.items():
            self._check_name(item, alias)
            if alias in names:
                self._note(item, "expected a name of its own, a storage has this one")
            target = self._value(item, _scalar(values.parse_text), "")
            if target in names:
                aliases[alias] = target
            elif target and target in found:
                self._note(item, f"expected a storage, {target!r} is an alias")
            elif target:
                self._note(item, f"expected a storage ({', '.join(names)}), found {target!r}")
        return aliases

    def _read_default(self, entry: _Entry | None, names: list[str], aliases: Mapping[str, str]) -> str:
        given = self._value(entry, _scalar(values.parse_text), names[0] if names else "")
        target = aliases.get(given, given)
        if entry and given and target not in names:
            self._note(entry, f"expected a storage or an alias ({', '.join([*names, *aliases])}), found {given!r}")
        return target

    def _read_values(self, entry: _Entry | None, keys: Mapping[str, Callable[[yaml.Node], object]]) -> dict[str, Any]:
        found = self._entries(entry.value, entry.path, entry.line) if entry else {}
        self._refuse_others(found, keys)
        read = {key: self._value(item, keys[key], None) for key, item in found.items() if key in keys}
        return {key: value for key, value in read.items() if value is not None}

    # --- nodes -----------------------------------------------------------------------------------------------

    def _compose(self, text: bytes) -> yaml.Node | None:
        try:
            return yaml.compose(text, Loader=yaml.SafeLoader)
        except RecursionError:
            raise ConfigurationError(f"{self._file}:1: expected YAML that is not nested this deep") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{self._file}:{mark.line + 1 if mark else 1}"
            raise ConfigurationError(f"{where}: expected YAML: {error.problem or error.context}") from None
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{self._file}:1: expected YAML: {' '.join(str(error).split())}") from None

    def _entries(self, node: yaml.Node | None, path: str, line: int) -> dict[str, _Entry]:
        """The keys of a mapping, none for an empty value; whatever else it is, is a mistake."""
        if node is None or node.tag == "tag:yaml.org,2002:null":
            return {}
        if not isinstance(node, yaml.MappingNode):
            self._mistakes.append((line, f"{path}: expected keys with values".removeprefix(": ")))
            return {}
        found: dict[str, _Entry] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else "?"
            entry = _Entry(f"{path}.{name}".removeprefix("."), key.start_mark.line + 1, value)
            if name in found:
                self._note(entry, f"expected once, it is in line {found[name].line} already")
            found.setdefault(name, entry)
        return found

    def _construct(self, entry: _Entry) -> object:
        """The plain Python value of an entry, `_MISTAKEN` if it has none; it may be a secret and is never shown."""
        for node in _parts(entry.value, set()):
            if isinstance(node, yaml.MappingNode):
                self._entries(node, entry.path, node.start_mark.line + 1)
        if self._refuse_references(entry):
            return _MISTAKEN
        try:
            return yaml.SafeLoader("").construct_document(entry.value)
        except yaml.MarkedYAMLError as error:
            self._note(entry, f"expected plain YAML: {error.problem}")
        except Exception:  # `!!bool maybe` or a date that the calendar lacks; what is raised tells the value
            self._note(entry, "expected plain YAML: a value is not of the type that it is written as")
        return _MISTAKEN

    def _refuse_references(self, entry: _Entry) -> bool:
        """Whether a text in it has `${…}`, which is meant for something else than to be taken as it stands."""
        found = any(isinstance(node, yaml.ScalarNode) and "${" in node.value for node in _parts(entry.value, set()))
        if found:
            self._note(entry, "${…} is not replaced by anything: write the value itself")
        return found

    def _value(self, entry: _Entry | None, convert: Callable[[yaml.Node], T], fallback: T) -> T:
        """What `convert` makes of the entry; the fallback if there is none or it is a mistake."""
        if entry is None or self._refuse_references(entry):
            return fallback
        try:
            return convert(entry.value)
        except ValueError as error:
            found = f", found {entry.value.value!r}" if isinstance(entry.value, yaml.ScalarNode) else ""
            self._note(entry, f"expected {error}{found}")
            return fallback

    def _check_name(self, entry: _Entry, name: str) -> None:
        try:
            values.parse_entry_name(name)
        except ValueError as error:
            self._note(entry, f"expected {error}")

    def _refuse_others(self, entries: Mapping[str, _Entry], known: Collection[str]) -> None:
        for key, entry in entries.items():
            if key not in known:
                close = difflib.get_close_matches(key, known, 1)
                hint = f"{close[0]}?" if close else f"one of {', '.join(known)}"
                self._note(entry, f"unknown key, expected {hint}")

    def _note(self, entry: _Entry, text: str) -> None:
        self._mistakes.append((entry.line, f"{entry.path}: {text}"))

    def _absolute(self, path: str) -> str:
        return os.path.normpath(os.path.join(self._directory, os.path.expanduser(path)))


def _scalar(parse: Callable[[str], T]) -> Callable[[yaml.Node], T]:
    """Parses the text of a scalar; a list or mapping counts as the empty text, which no parser takes."""
    return lambda node: parse(node.value if isinstance(node, yaml.ScalarNode) else "")


def _boolean(node: yaml.Node) -> bool:
    text = str(node.value).lower()
    if node.tag != "tag:yaml.org,2002:bool" or text not in ("yes", "true", "on", "no", "false", "off"):
        raise ValueError("yes or no")
    return text in ("yes", "true", "on")


def _texts(node: yaml.Node) -> tuple[str, ...]:
    """A list of texts; one alone needs no list."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not all(isinstance(item, yaml.ScalarNode) and item.value for item in nodes):
        raise ValueError("a list of texts")
    return tuple(item.value for item in nodes)


def _parts(node: yaml.Node, seen: set[int]) -> Iterator[yaml.Node]:
    """A node and all those in it; an anchor may make one its own part."""
    if id(node) in seen:
        return
    seen.add(id(node))
    yield node
    if isinstance(node, yaml.CollectionNode):
        for part in node.value:
            for inner in part if isinstance(part, tuple) else (part,):
                yield from _parts(inner, seen)
