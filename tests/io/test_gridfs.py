"""GridFSStorage on real servers: the contract on each kind, then what is its own."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import traceback
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import Decimal128, ObjectId, Timestamp
from bson.datetime_ms import DatetimeMS
from pymongo import MongoClient

from depotfs.errors import (
    AccessDenied,
    AlreadyStored,
    ConfigurationError,
    ContentDamaged,
    DepotError,
    InvalidMetadata,
    StorageUnavailable,
)
from depotfs.io import gridfs_swap
from depotfs.io.content import BytesContent
from depotfs.io.gridfs import GridFSStorage
from depotfs.io.gridfs_connection import Collections, Target
from depotfs.io.gridfs_documents import CHUNK_SIZE
from depotfs.io.ids import new_uuid
from depotfs.io.times import to_datetime
from depotfs.types import ABSENT, FileId
from tests.io.contract import StorageContract
from tests.io.contract_sources import ABSENT_IDS, METADATA, TEXT, content_of, noise
from tests.io.gridfs_faults import counted, failing
from tests.servers.mongod import Mongod
from tests.servers.process import free_port


@pytest.mark.xdist_group("mongod")
class TestStandalone(StorageContract):
    @pytest.fixture
    def storage(self, mongod: Mongod) -> Iterator[GridFSStorage]:
        storage = GridFSStorage(mongod.new_uri())
        yield storage
        storage.close()


@pytest.mark.xdist_group("mongod_replica_set")
class TestReplicaSet(StorageContract):
    @pytest.fixture
    def storage(self, mongod_replica_set: Mongod) -> Iterator[GridFSStorage]:
        storage = GridFSStorage(mongod_replica_set.new_uri())
        yield storage
        storage.close()


@pytest.fixture
def uri(mongod: Mongod) -> str:
    return mongod.new_uri()


@pytest.fixture
def storage(uri: str) -> Iterator[GridFSStorage]:
    storage = GridFSStorage(uri)
    yield storage
    storage.close()


@pytest.mark.xdist_group("mongod")
class TestCommands:
    """What is sent to the server, counted at the wire."""

    def test_one_command_to_look(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with counted(monkeypatch, uri) as (storage, commands):
            file_id = storage.create(noise(300_000), "n", TEXT)
            assert _taken(commands) == ["insert chunks", "insert files"]
            stat = storage.stat(FileId(file_id))
            assert storage.exists(file_id)
            assert _taken(commands) == ["find files"] * 2
            storage.open_content(stat).pread(1, 299_999)
            assert _taken(commands) == ["find chunks"]
            assert storage.get(file_id).read() == noise(300_000)
            assert _taken(commands) == ["find files", "find chunks"]
            assert storage.update(stat, filename="m").version == stat.version
            assert _taken(commands) == ["findAndModify files"]
            storage.copy(stat, ABSENT_IDS[0], METADATA)
            assert _taken(commands) == ["aggregate chunks"] * 2 + ["insert files"]
            storage.remove(ABSENT_IDS[0])
            assert _taken(commands) == ["findAndModify files", "delete chunks"]

    def test_replace(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        swap = ["findAndModify files", "delete chunks", "update chunks", "update files"]
        with counted(monkeypatch, uri) as (storage, commands):
            file_id = storage.create(b"x", "n", TEXT)
            commands.clear()
            storage.replace(file_id, b"y", "n", TEXT)
            assert _taken(commands) == ["find files", "insert chunks", *swap]

    def test_listing_is_one_cursor_per_form(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with counted(monkeypatch, uri) as (storage, commands):
            template = {"length": 0, "chunkSize": CHUNK_SIZE, "depotfs": {"upload": ObjectId()}}
            files = MongoClient[dict[str, Any]](uri).get_default_database().filedepot.files
            files.insert_many([{"_id": ObjectId(), **template} for _ in range(2500)])
            files.database.client.close()
            assert [len(page) for page in storage.pages()] == [1000, 1000, 500]
            assert sorted(_taken(commands)) == ["find files"] * 2 + ["getMore files"] * 2
            assert len(next(storage.pages())) == 1000
            assert sorted(_taken(commands)) == ["find files"] * 2

    def test_listing_survives_a_forgotten_cursor(self, storage: GridFSStorage, uri: str) -> None:
        ids = sorted(storage.create(b"") for _ in range(5))
        files = storage._connection.collections().files
        files.insert_many([{"_id": ObjectId(), "length": 0, "chunkSize": 1} for _ in range(2000)])
        with failing(uri, 1, "getMore", errorCode=43):
            listed = storage.list()
        assert len(listed) == len(set(listed)) == 2005
        assert set(ids) <= set(listed)


def _taken(commands: list[str]) -> list[str]:
    """The commands since the last call."""
    taken = commands[:]
    commands.clear()
    return taken


_DATE = datetime(2020, 1, 1)
_WHOLE = {"length": 3, "chunkSize": 10, "uploadDate": _DATE}
BROKEN: list[dict[str, Any]] = [
    {},
    {"length": None, "chunkSize": "x", "uploadDate": "yesterday", "filename": 5, "depotfs": "?"},
    {"length": -1, "chunkSize": 10},
    {"length": 3, "chunkSize": 0, "last_modified": ["x"]},
    {"length": 2.5, "chunkSize": 10, "depotfs": {"upload": "?"}},
    {"length": True, "chunkSize": 10, "depotfs": [1]},
    {"length": 1e300, "chunkSize": 10, "uploadDate": _DATE},
    {"length": float("nan"), "chunkSize": float("inf"), "uploadDate": 5},
    {"length": float("-inf"), "chunkSize": 10},
    {"length": "3", "chunkSize": "10"},
    {"length": Decimal128("3"), "chunkSize": 10},
    {"length": 3, "chunkSize": 1e300},
    {"length": {"$gt": 0}, "chunkSize": [10], "depotfs": {"upload": {"$ne": None}}},
]
ODD: list[dict[str, Any]] = [
    {"length": 3, "chunkSize": 10},
    {**_WHOLE, "length": 3.0, "last_modified": "yesterday"},
    {**_WHOLE, "filename": None, "contentType": 5, "depotfs": {"commit": 5, "revision": "x", "pointer": 5}},
    {**_WHOLE, "uploadDate": DatetimeMS(-(2**60)), "depotfs": "?"},
    {**_WHOLE, "uploadDate": DatetimeMS(2**62), "depotfs": {"changed": DatetimeMS(2**62), "md5": 5}},
    {**_WHOLE, "uploadDate": Timestamp(5, 5), "depotfs": {"changed": "now", "old": {"$gt": 0}}},
    {**_WHOLE, "last_modified": _DATE, "md5": [1], "depotfs": {"upload": "?", "old": None}},
]


@pytest.mark.xdist_group("mongod")
class TestForeignDocuments:
    """What other programs put into the collections."""

    @pytest.mark.parametrize("document", BROKEN)
    def test_broken(self, storage: GridFSStorage, document: dict[str, Any]) -> None:
        good = storage.create(b"good")
        key = ObjectId()
        files = storage._connection.collections().files
        files.insert_one({"_id": key, **document})
        assert storage.list() == sorted((good, str(key)))
        [(size, stat)] = [(e.size, e.stat) for page in storage.pages() for e in page if e.file_id == str(key)]
        assert (size, stat) == (None, None)
        with pytest.raises(InvalidMetadata, match=str(key)):
            storage.stat(FileId(str(key)))
        storage.put(BytesContent(b"new"), METADATA, file_id=FileId(str(key)))
        assert content_of(storage, FileId(str(key))) == b"new"
        files.replace_one({"_id": key}, document)
        storage.delete(key)
        assert storage.list() == [good]

    @pytest.mark.parametrize("document", ODD)
    def test_odd(self, storage: GridFSStorage, document: dict[str, Any]) -> None:
        key = ObjectId()
        collections = storage._connection.collections()
        collections.files.insert_one({"_id": key, **document})
        stat = storage.stat(FileId(str(key)))
        assert (stat.size, stat.metadata.filename, stat.metadata.content_type) == (
            3,
            "unnamed",
            "application/octet-stream",
        )
        assert [entry.stat for page in storage.pages() for entry in page] == [stat]
        for seconds in (stat.metadata.modified, stat.changed_ns // 10**9):
            assert to_datetime(seconds) == datetime(1970, 1, 1) + timedelta(seconds=seconds), "no time of a calendar"
        with pytest.raises(ContentDamaged):
            content_of(storage, stat)
        collections.chunks.insert_one({"files_id": key, "n": 0, "data": b"ab"})
        with pytest.raises(ContentDamaged):
            content_of(storage, stat)
        collections.chunks.update_one({"files_id": key}, {"$set": {"data": b"abc"}})
        assert content_of(storage, stat) == b"abc"
        own = document.get("depotfs", {})
        if not isinstance(own, dict) or "revision" in own:
            with pytest.raises(InvalidMetadata):
                storage.update(stat, filename="x")
        else:
            assert storage.update(stat, filename="x").version == stat.version
        assert storage.put(BytesContent(b"new"), METADATA, file_id=stat.file_id, expect=stat.version).size == 3
        assert content_of(storage, stat.file_id) == b"new"

    def test_foreign_ids_are_not_listed(self, storage: GridFSStorage) -> None:
        file_id = storage.create(b"x")
        keys: list[Any] = [
            "name.txt",
            "A" * 24,
            "a" * 24,
            str(new_uuid()).upper(),
            new_uuid().replace("-", ""),
            5,
            None,
        ]
        files = storage._connection.collections().files
        files.insert_many([{"_id": key, **_WHOLE} for key in keys])
        assert storage.list() == [file_id]

    def test_damage_is_told(self, storage: GridFSStorage) -> None:
        file_id = storage.create(noise(3 * CHUNK_SIZE))
        chunks = storage._connection.collections().chunks
        chunks.update_one({"n": 1}, {"$set": {"data": b"\0" * CHUNK_SIZE}})
        with pytest.raises(ContentDamaged):
            storage.get(file_id).read()
        chunks.delete_one({"n": 1})
        with pytest.raises(ContentDamaged):
            content_of(storage, FileId(file_id))

    def test_metadata_changed_by_others_is_another_revision(self, storage: GridFSStorage) -> None:
        stat = storage.stat(FileId(storage.create(b"x")))
        storage._connection.collections().files.update_one({}, {"$set": {"filename": "other"}})
        changed = storage.stat(stat.file_id)
        assert changed.version == stat.version
        assert changed.revision != stat.revision

    def test_an_old_md5_of_drivers_is_used_and_not_kept(self, storage: GridFSStorage) -> None:
        key = ObjectId()
        collections = storage._connection.collections()
        collections.files.insert_one({"_id": key, **_WHOLE, "md5": hashlib.md5(b"abd").hexdigest()})
        collections.chunks.insert_one({"files_id": key, "n": 0, "data": b"abc"})
        with pytest.raises(ContentDamaged):
            storage.get(key).read()
        storage.replace(key, b"abc")
        assert storage.get(key).read() == b"abc"
        assert "md5" not in (collections.files.find_one({}) or {})


@pytest.mark.xdist_group("mongod")
class TestConnection:
    @pytest.mark.parametrize(
        "wrong",
        [
            "mongodb://localhost",
            "mongodb://localhost/",
            "mongodb+srv://example.org",
            "localhost/database",
            "mongodb://localhost:port/database",
            "mongodb://localhost/database?w=0",
            "mongodb://user:my/secret@localhost/database",
            "mongodb://user:my?secret@localhost/database",
            "mongodb://user:my#secret@localhost/database",
            "mongodb+srv://user:my/secret@example.org/database",
            "mongodb+srv://user:my@se/secret@example.org/database",
            "mongodb://user:secret@localhost:port/database",
            "mongodb://user:secret@localhost:99999/database",
            "mongodb://user:secret%zz@localhost/database",
            "mongodb://user:secret@[localhost/database",
            "mongodb://user:secret@@localhost/database",
            "mongodb://user:secret@localhost",
            "mongodb://user:secret@localhost/database?authMechanism=NOPE",
            "mongodb+srv://user:secret@example.org/database?authMechanism=NOPE",
            "mongodb://localhost/database?authMechanismProperties=secret",
            "mongodb://localhost/database?authMechanism=GSSAPI&authMechanismProperties=X:secret",
            "mongodb://localhost/database?password=secret",
            "mongodb://localhost/database?secret",
        ],
    )
    def test_wrong_uri(self, wrong: str) -> None:
        with pytest.raises(ConfigurationError, match="mongouri") as caught:
            GridFSStorage(wrong)
        assert not re.search("my|secret", "".join(traceback.format_exception(caught.value)), re.IGNORECASE)

    @pytest.mark.parametrize("option", ["tlsCAFile", "tlsCertificateKeyFile"])
    def test_a_missing_file_is_named(self, tmp_path: Path, option: str) -> None:
        path = str(tmp_path / "none.pem")
        with pytest.raises(ConfigurationError, match=path) as caught:
            GridFSStorage(f"mongodb://localhost/d?{option}={path}&tlsCertificateKeyFilePassword=secret")
        assert option.lower() in str(caught.value)
        assert "secret" not in str(caught.value)

    def test_the_password_is_in_no_text(self, mongod: Mongod) -> None:
        refused = f"mongodb://user:secret@127.0.0.1:{free_port()}/d?serverSelectionTimeoutMS=50"
        for uri in (mongod.new_uri().replace("://", "://user:secret@"), refused):
            storage = GridFSStorage(uri)
            with pytest.raises(DepotError) as caught:
                storage.list()
            texts = [*traceback.format_exception(caught.value), storage.identity()]
            texts += map(repr, (storage, storage._target, storage._connection, storage._connection.collections()))
            assert [text for text in texts if "secret" in text] == []
            storage.close()

    def test_nothing_is_sent_by_the_constructor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket.socket, "connect", _refuse)
        monkeypatch.setattr(socket, "getaddrinfo", _refuse)
        for uri in ("mongodb://user:secret@B.example:1,a.example:2/files", "mongodb+srv://user:secret@c.example/files"):
            storage = GridFSStorage(uri, collection="c")
            assert "secret" not in storage.identity()
        assert GridFSStorage("mongodb://u:p@B.example:1,a:2/d").identity() == "gridfs:a:2,b.example:1/d/filedepot"

    def test_limits_and_concerns(self) -> None:
        def seen(options: str) -> tuple[Any, ...]:
            client = Collections(Target(f"mongodb://localhost/d?{options}"), "c")
            limits = client.client.options
            found = (limits.server_selection_timeout, limits.pool_options.socket_timeout)
            client.client.close()
            return (*found, client.files.write_concern.document, client.deciding.write_concern.document)

        assert seen("") == (2.5, 60, {}, {"j": True})
        assert seen("serverselectiontimeoutMS=500&socketTimeoutMS=1000&w=majority") == (
            0.5,
            1,
            {"w": "majority"},
            {"w": "majority", "j": True},
        )
        assert seen("journal=false")[2:] == ({"j": False}, {"j": False})

    def test_nobody_there(self) -> None:
        storage = GridFSStorage(f"mongodb://127.0.0.1:{free_port()}/d?serverSelectionTimeoutMS=100")
        with pytest.raises(StorageUnavailable) as caught:
            storage.stat(ABSENT_IDS[0])
        assert caught.value.transient
        storage.close()

    def test_wrong_credentials(self, mongod: Mongod) -> None:
        storage = GridFSStorage(mongod.new_uri().replace("://", "://user:secret@"))
        with pytest.raises(AccessDenied) as caught:
            storage.list()
        assert "secret" not in str(caught.value)
        storage.close()

    def test_a_refused_login_is_soon_told_again(self) -> None:
        """By a monitor that polls: one that listens would leave the server alone for 10 s, as long as a call waits."""
        for options, mode in (("", "poll"), ("serverMonitoringMode=stream", "stream")):
            client = Target(f"mongodb://localhost/d?{options}").client()
            assert client.options.server_monitoring_mode == mode
            client.close()

    def test_both_sides_of_a_fork(self, storage: GridFSStorage) -> None:
        file_id = storage.create(b"before")
        child = os.fork()
        if not child:
            try:
                storage.replace(file_id, b"by the child")
                os._exit(0 if storage.get(file_id).read() == b"by the child" else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert storage.get(file_id).read() == b"by the child"


def _refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("the network was used")


@pytest.mark.xdist_group("mongod")
def test_uploads_of_one_id_get_out_of_each_others_way(storage: GridFSStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload is overtaken by another, whole one of the same id, which is removed again, before it ends."""
    monkeypatch.setattr(gridfs_swap, "BATCH", CHUNK_SIZE)
    data = noise(4 * CHUNK_SIZE)

    class Overtaken(BytesContent):
        def read(self, size: int) -> bytes:
            if self._position == 2 * CHUNK_SIZE:
                storage.put(BytesContent(noise(3 * CHUNK_SIZE, 2)), METADATA, file_id=ABSENT_IDS[1])
                assert content_of(storage, ABSENT_IDS[1]) == noise(3 * CHUNK_SIZE, 2)
                if self.removed:
                    storage.remove(ABSENT_IDS[1])
            return super().read(size)

        removed = True

    stat = storage.put(Overtaken(data), METADATA, file_id=ABSENT_IDS[1], expect=ABSENT)
    chunks = storage._connection.collections().chunks
    assert content_of(storage, stat) == data
    assert chunks.count_documents({"files_id": ObjectId(ABSENT_IDS[1])}) == chunks.count_documents({}) == 4
    storage.remove(ABSENT_IDS[1])
    Overtaken.removed = False
    with pytest.raises(AlreadyStored):
        storage.put(Overtaken(data), METADATA, file_id=ABSENT_IDS[1], expect=ABSENT)
    assert content_of(storage, ABSENT_IDS[1]) == noise(3 * CHUNK_SIZE, 2)
    stat = storage.put(Overtaken(data), METADATA, file_id=ABSENT_IDS[1])
    assert content_of(storage, stat) == data
    assert chunks.count_documents({"files_id": ObjectId(ABSENT_IDS[1])}) == chunks.count_documents({}) == 4


@pytest.mark.xdist_group("mongod")
def test_copies_without_help_of_the_server(storage: GridFSStorage, uri: str) -> None:
    data = noise(3 * CHUNK_SIZE + 1)
    source = storage.stat(FileId(storage.create(data)))
    with failing(uri, "alwaysOn", "aggregate", errorCode=59):
        copy = storage.copy(source, ABSENT_IDS[0], METADATA)
    assert content_of(storage, copy) == data
    assert copy.checksum == source.checksum == f"md5:{hashlib.md5(data).hexdigest()}"
