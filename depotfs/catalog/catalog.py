"""The catalog: the last known `FileStat` of stored files, in memory and, batch by batch, in SQLite."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from depotfs.catalog.database import Database, Foreign, Key, is_damaged, set_aside
from depotfs.types import FileId, FileStat

_FRONT: Final = 50_000
"""Stats kept in memory, some 50 MB at most: a directory listed again and again costs no query."""
_BATCH: Final = 1024
"""Changes that wait for one transaction, some 10 to 50 ms of an event loop if no thread flushes before."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogStatistics:
    """Rows on the disk (or a few more), changes that wait to be written, finds that were answered or not."""

    current_rows: int
    current_pending: int
    total_hits: int
    total_misses: int


class Catalog:
    """Remembers stats of stored files, at most `rows`; the least recently used go.

    Find, remember and forget are quick enough for an event loop, and belong to its thread; `flush` may run in a
    thread beside them. Without a usable disk everything works from memory, and the log says why.

    Args:
        path: of the database; made if missing. It is a cache: a damaged or foreign one is set aside.
    """

    def __init__(self, path: str, rows: int = 500_000) -> None:
        self.path = path
        self.rows = rows
        self._database: Database | None = None
        self._damaged = False
        self._front: OrderedDict[Key, FileStat] = OrderedDict()
        self._pending: dict[Key, FileStat | None] = {}
        self._flushing: dict[Key, FileStat | None] = {}
        self._used: set[Key] = set()
        # Lock order: writing → tables. Tables is never held over a query.
        self._writing = threading.Lock()
        self._tables = threading.Lock()
        self._hits = 0
        self._misses = 0

    def open(self) -> None:
        """Ready; what was remembered before is found. A file that is no catalog is set aside, never an error."""
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            self._database = self._open_or_replace()
        except (OSError, sqlite3.Error, Foreign) as error:
            _logger.warning("the catalog %s cannot be used, what is known is kept in memory only: %s", self.path, error)

    def close(self) -> None:
        """Everything remembered is in the file. May be called again."""
        self.flush()
        with self._writing:
            database, self._database = self._database, None
            if database is not None:
                database.close()

    def find(self, identity: str, file_id: FileId, revision: str) -> FileStat | None:
        """What is known of exactly that revision. `identity` is the storage's."""
        return self.find_many(identity, [(file_id, revision)]).get(file_id)

    def find_many(self, identity: str, wanted: Iterable[tuple[FileId, str]]) -> dict[FileId, FileStat]:
        """What is known of exactly those (file id, revision), by file id; the others are missing."""
        revisions = dict(wanted)
        found: dict[FileId, FileStat] = {}
        unknown: list[FileId] = []
        with self._tables:
            for file_id in revisions:
                known, stat = self._look((identity, file_id))
                if stat is not None:
                    found[file_id] = stat
                elif not known:
                    unknown.append(file_id)
        selected = self._select(identity, unknown)
        with self._tables:
            for stat in selected:
                found[stat.file_id] = stat
                self._used.add((identity, stat.file_id))
                self._keep((identity, stat.file_id), stat)
        exact = {file_id: stat for file_id, stat in found.items() if stat.revision == revisions[file_id]}
        self._hits += len(exact)
        self._misses += len(revisions) - len(exact)
        self._flush_if_full()
        return exact

    def knows(self, identity: str, file_id: FileId) -> bool:
        """Whether such a file was ever heard of and not forgotten, in whatever revision."""
        with self._tables:
            known, stat = self._look((identity, file_id))
        return stat is not None or (not known and bool(self._select(identity, [file_id])))

    def remember(self, identity: str, stats: Iterable[FileStat]) -> None:
        """Found from now on; in the file by the next `flush`, which a full batch brings about by itself."""
        with self._tables:
            for stat in stats:
                key = (identity, stat.file_id)
                if self._front.get(key) != stat:
                    self._pending[key] = stat
                self._keep(key, stat)
        self._flush_if_full()

    def forget(self, identity: str, file_id: FileId) -> None:
        """Not found any more."""
        with self._tables:
            self._front.pop((identity, file_id), None)
            self._pending[identity, file_id] = None
        self._flush_if_full()

    def flush(self) -> None:
        """What was remembered and forgotten is in the file, or the log says why not. Thread-safe."""
        with self._writing:
            with self._tables:
                changes, self._pending = self._pending, {}
                used, self._used = self._used, set()
                self._flushing = changes
            try:
                self._write(changes, used)
            finally:
                self._flushing = {}

    def statistics(self) -> CatalogStatistics:
        return CatalogStatistics(
            current_rows=0 if self._database is None else self._database.count,
            current_pending=len(self._pending),
            total_hits=self._hits,
            total_misses=self._misses,
        )

    def _look(self, key: Key) -> tuple[bool, FileStat | None]:
        """Whether memory knows about the file, and what; (True, None): it was forgotten."""
        stat = self._front.get(key)
        if stat is not None:
            self._front.move_to_end(key)
            return True, stat
        for changes in (self._pending, self._flushing):
            if key in changes:
                return True, changes[key]
        return False, None

    def _keep(self, key: Key, stat: FileStat) -> None:
        self._front[key] = stat
        self._front.move_to_end(key)
        if len(self._front) > _FRONT:
            self._front.popitem(last=False)

    def _select(self, identity: str, file_ids: list[FileId]) -> list[FileStat]:
        database = self._database
        if database is None or not file_ids:
            return []
        try:
            return database.select(identity, file_ids)
        except (sqlite3.Error, UnicodeEncodeError) as error:
            self._failed("read", error)
            return []

    def _flush_if_full(self) -> None:
        if len(self._pending) + len(self._used) >= _BATCH:
            self.flush()

    def _write(self, changes: dict[Key, FileStat | None], used: set[Key]) -> None:
        if self._damaged:
            self._begin_anew()
        if self._database is None or not (changes or used):
            return
        try:
            self._database.write(changes, used)
        except (sqlite3.Error, UnicodeEncodeError) as error:
            self._failed("written", error)

    def _failed(self, what: str, error: Exception) -> None:
        """It is a cache: what cannot be read is asked for again, what cannot be written is not remembered."""
        _logger.warning("the catalog %s cannot be %s: %s", self.path, what, error)
        self._damaged = self._damaged or is_damaged(error)

    def _begin_anew(self) -> None:
        database, self._database = self._database, None
        self._damaged = False
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()
        try:
            self._database = self._replace("it is damaged")
        except (OSError, sqlite3.Error, Foreign) as error:
            _logger.warning("the catalog %s cannot be made anew: %s", self.path, error)

    def _open_or_replace(self) -> Database:
        try:
            return Database(self.path, self.rows)
        except (sqlite3.Error, Foreign) as error:
            if not is_damaged(error):
                raise
            return self._replace(str(error))

    def _replace(self, reason: str) -> Database:
        aside = set_aside(self.path)
        _logger.warning("the catalog %s is begun anew (%s); the old one is %s", self.path, reason, aside)
        return Database(self.path, self.rows)
