"""The database: the catalog's rows in SQLite, one writer and one reader, each step quick or in one transaction."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from depotfs.types import FileId, FileMetadata, FileStat

Key = tuple[str, FileId]
"""Identity of the storage, and the file's id in it."""

APPLICATION: Final = 0x64706673  # "dpfs"; what tells our file from any other SQLite database
VERSION: Final = 1
SCHEMA: Final = """
-- The storages, by what they are (kind, endpoint, bucket or path, prefix), not by their configured names.
CREATE TABLE identity (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);
-- The last FileStat of each stored file; it is exact as long as the storage says the same revision.
CREATE TABLE file (
    identity     INTEGER NOT NULL REFERENCES identity,
    file_id      TEXT    NOT NULL,
    revision     TEXT    NOT NULL,
    version      TEXT    NOT NULL,
    size         INTEGER NOT NULL,  -- bytes
    filename     TEXT    NOT NULL,
    content_type TEXT    NOT NULL,
    modified     INTEGER NOT NULL,  -- seconds since the epoch
    changed_ns   INTEGER NOT NULL,
    "commit"     TEXT    NOT NULL,
    checksum     TEXT    NOT NULL,
    used         INTEGER NOT NULL,  -- number of the write in which it was last needed; grows by 1 each write
    PRIMARY KEY (identity, file_id)
) WITHOUT ROWID;
CREATE INDEX file_used ON file (used);
"""
_COLUMNS: Final = 'file_id, revision, version, size, filename, content_type, modified, changed_ns, "commit", checksum'
_SELECT: Final = f"SELECT {_COLUMNS} FROM file WHERE identity = ? AND file_id"
_INSERT: Final = f"INSERT OR REPLACE INTO file ({_COLUMNS}, identity, used) VALUES ({', '.join('?' * 12)})"
_IDS_AT_ONCE: Final = 500
"""Ids in one SELECT; SQLite took 999 parameters before 3.32."""
_EVICT_TO: Final = 0.9
"""Of the rows, what is left when they are too many, so that not every write has to evict."""


class Foreign(Exception):
    """The file is a database, but not a catalog of this version."""


def is_damaged(error: Exception) -> bool:
    """Whether what is in the file is to blame, not the disk, a lock or a permission."""
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR
    return isinstance(error, sqlite3.DatabaseError | Foreign) and not isinstance(error, sqlite3.ProgrammingError)


class Database:
    """An open database file.

    `select` may be called in one thread while `write` is called in another.

    Attributes:
        count: rows, or a few more.

    Raises:
        Foreign: see there.
        sqlite3.Error: the file is damaged or cannot be used; see `is_damaged`.
    """

    def __init__(self, path: str, rows: int) -> None:
        self.rows = rows
        self._reading = threading.Lock()  # a connection must not be closed under a query
        self._writer = _connect(path)
        try:
            _prepare(self._writer)
            self._reader = _connect(path)
        except BaseException:
            self._writer.close()
            raise
        self.count: int = self._writer.execute("SELECT count(*) FROM file").fetchone()[0]
        self._used: int = self._writer.execute("SELECT coalesce(max(used), 0) FROM file").fetchone()[0]
        self._identities: dict[str, int] = dict(self._writer.execute("SELECT name, id FROM identity"))

    def close(self) -> None:
        with self._reading:
            self._reader.close()
        self._writer.close()

    def select(self, identity: str, file_ids: list[FileId]) -> list[FileStat]:
        """The rows of those that there are, in any order. Raises sqlite3.Error."""
        number = self._identities.get(identity)
        if number is None:
            return []
        found: list[Any] = []
        for start in range(0, len(file_ids), _IDS_AT_ONCE):
            some = file_ids[start : start + _IDS_AT_ONCE]
            marks = ", ".join("?" * len(some))
            with self._reading:
                found += self._reader.execute(f"{_SELECT} IN ({marks})", (number, *some)).fetchall()
        return [_stat(row) for row in found]

    def write(self, changes: Mapping[Key, FileStat | None], used: Iterable[Key]) -> None:
        """One transaction: stats kept, None removed, `used` noted as needed now; then too many are not too many.

        Raises:
            sqlite3.Error: nothing of it was done.
        """
        self._used += 1
        run = self._writer.execute
        run("BEGIN IMMEDIATE")
        try:
            for (identity, file_id), stat in changes.items():
                number = self._number(identity)
                # What SQLite cannot hold (a lone surrogate, an integer of 65 bits) is just not remembered.
                with suppress(UnicodeEncodeError, OverflowError):
                    if stat is None:
                        run("DELETE FROM file WHERE identity = ? AND file_id = ?", (number, file_id))
                    else:
                        run(_INSERT, (*_values(stat), number, self._used))
                        self.count += 1
            self._writer.executemany(
                "UPDATE file SET used = ? WHERE identity = ? AND file_id = ?",
                [(self._used, self._number(identity), file_id) for identity, file_id in used],
            )
            self._evict()
            run("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                run("ROLLBACK")
            # Numbers given in it are gone, too.
            self._identities = {}
            with suppress(sqlite3.Error):
                self._identities = dict(run("SELECT name, id FROM identity"))
            raise

    def _number(self, identity: str) -> int:
        if identity not in self._identities:
            cursor = self._writer.execute("INSERT INTO identity (name) VALUES (?)", (identity,))
            assert cursor.lastrowid is not None
            self._identities[identity] = cursor.lastrowid
        return self._identities[identity]

    def _evict(self) -> None:
        if self.count <= self.rows:
            return
        self.count = self._writer.execute("SELECT count(*) FROM file").fetchone()[0]
        if self.count <= self.rows:
            return
        surplus = self.count - int(self.rows * _EVICT_TO)
        self._writer.execute(
            "DELETE FROM file WHERE (identity, file_id) IN (SELECT identity, file_id FROM file ORDER BY used LIMIT ?)",
            (surplus,),
        )
        self.count -= surplus


def set_aside(path: str) -> str:
    """Nothing is at `path` any more; what was there is at the returned path. Raises OSError."""
    aside = Path(path + ".damaged")
    Path(path).replace(aside)
    for companion in ("-wal", "-shm"):
        Path(path + companion).unlink(missing_ok=True)
    return str(aside)


def _connect(path: str) -> sqlite3.Connection:
    # Autocommit, since transactions are begun by hand; another thread, since `write` may be called in one.
    return sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)


def _prepare(connection: sqlite3.Connection) -> None:
    """The connection's file has our schema. Raises Foreign, with the file untouched, or sqlite3.Error."""

    def value(query: str) -> int:
        return int(connection.execute(query).fetchone()[0])

    empty = value("SELECT count(*) FROM sqlite_master") == 0
    ours = value("PRAGMA application_id") == APPLICATION and value("PRAGMA user_version") == VERSION
    if not (empty or ours):
        raise Foreign("it is another program's, or another version's")
    # WAL: a reader never waits for the writer. NORMAL: a power loss takes the last writes, never the whole file.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    if empty:
        connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; {SCHEMA} COMMIT"
        )
    connection.execute(f"SELECT {_COLUMNS}, identity, used FROM file LIMIT 1").fetchall()


def _values(stat: FileStat) -> tuple[str | int, ...]:
    return (
        stat.file_id,
        stat.revision,
        stat.version,
        stat.size,
        stat.metadata.filename,
        stat.metadata.content_type,
        stat.metadata.modified,
        stat.changed_ns,
        stat.commit,
        stat.checksum,
    )


def _stat(row: tuple[Any, ...]) -> FileStat:
    file_id, revision, version, size, filename, content_type, modified, changed_ns, commit, checksum = row
    metadata = FileMetadata(filename, content_type, modified)
    return FileStat(FileId(file_id), size, version, revision, metadata, changed_ns, commit, checksum)
