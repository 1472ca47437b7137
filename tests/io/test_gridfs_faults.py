"""GridFSStorage before servers that refuse, reset, are silent or slow, and networks that change bytes."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import bson.errors
import dns.exception
import pymongo.errors
import pytest
from bson import ObjectId
from pymongo.collection import Collection

from depotfs.errors import (
    AccessDenied,
    AlreadyStored,
    ConfigurationError,
    ContentDamaged,
    DepotError,
    InvalidMetadata,
    QuotaExceeded,
    StorageFull,
    StorageMissing,
    StorageUnavailable,
    TooLarge,
    VersionChanged,
)
from depotfs.io import gridfs_swap
from depotfs.io.gridfs import GridFSStorage
from depotfs.io.gridfs_commit import Commit
from depotfs.io.gridfs_connection import Target
from depotfs.io.gridfs_documents import CHUNK_SIZE, FilesDocument
from depotfs.io.gridfs_errors import translated
from depotfs.io.gridfs_swap import Upload
from depotfs.types import ABSENT, FileId, FileStat
from tests.io.contract_sources import METADATA, content_of, noise, put, unchanged
from tests.io.faults import in_child
from tests.io.gridfs_faults import counted, failing
from tests.servers.faults import FaultProxy
from tests.servers.mongod import Mongod
from tests.servers.process import free_port

pytestmark = pytest.mark.xdist_group("mongod")
NO_ANSWER: Any = dns.exception.Timeout
FILE, OTHER = FileId("590f20fdd9415e6db65e8496"), FileId("690f20fdd9415e6db65e8496")


@pytest.fixture
def uri(mongod: Mongod) -> str:
    return mongod.new_uri()


@pytest.fixture
def storage(uri: str) -> Iterator[GridFSStorage]:
    storage = GridFSStorage(uri)
    storage._connection.collections().ensure_indexes()
    yield storage
    storage.close()


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


# --- errors by cause --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "cause", "transient", "curable"),
    [
        (pymongo.errors.NotPrimaryError("x"), StorageUnavailable, True, True),
        (pymongo.errors.NetworkTimeout("x"), StorageUnavailable, True, True),
        (pymongo.errors.ProtocolError("x"), StorageUnavailable, True, True),
        (pymongo.errors.WTimeoutError("x", 64), StorageUnavailable, True, True),
        (pymongo.errors.WriteConcernError("x", 100), StorageUnavailable, True, True),
        (pymongo.errors.OperationFailure("x", 11600), StorageUnavailable, True, True),
        (pymongo.errors.OperationFailure("x", 10107), StorageUnavailable, True, True),
        (pymongo.errors.OperationFailure("no retryable writes", 20), StorageUnavailable, True, True),
        (pymongo.errors.BulkWriteError({"writeErrors": [{"code": 20}]}), StorageUnavailable, True, True),
        (pymongo.errors.BulkWriteError({"writeErrors": [{"code": 14031}]}), StorageFull, True, True),
        (pymongo.errors.OperationFailure("you are over your space quota", 8000), QuotaExceeded, True, True),
        (pymongo.errors.OperationFailure("x", 13), AccessDenied, False, True),
        (pymongo.errors.OperationFailure("x", 18), AccessDenied, False, True),
        (pymongo.errors.OperationFailure("x", 26), StorageMissing, False, True),
        (pymongo.errors.OperationFailure("x", 2), DepotError, False, True),
        (pymongo.errors.ConfigurationError("x"), ConfigurationError, False, True),
        (
            caused(pymongo.errors.ConfigurationError("x"), NO_ANSWER()),
            StorageUnavailable,
            True,
            True,
        ),
        (bson.errors.InvalidBSON("x"), ContentDamaged, True, True),
        (bson.errors.InvalidStringData("x"), InvalidMetadata, False, False),
        (pymongo.errors.DocumentTooLarge("x"), TooLarge, False, False),
    ],
    ids=lambda value: repr(value) if isinstance(value, Exception) else None,
)
def test_errors_by_cause(error: Exception, cause: type[DepotError], transient: bool, curable: bool) -> None:
    with pytest.raises(DepotError, match="doing it: ") as caught, translated("doing it"):
        raise error
    assert type(caught.value) is cause
    assert (caught.value.transient, caught.value.curable) == (transient, curable)


def test_messages_have_one_line() -> None:
    with pytest.raises(DepotError) as caught, translated("doing it"):
        raise pymongo.errors.PyMongoError("one\r\n two\n" + "x" * 1000)
    assert str(caught.value).startswith("doing it: one two xxx")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("command", ["insert", "update", "delete", "findAndModify", "aggregate", "find"])
def test_what_a_reset_in_a_handshake_leads_to_is_no_end(storage: GridFSStorage, uri: str, command: str) -> None:
    """Code 20, which pymongo makes of "Transaction numbers are only allowed on a replica set member or mongos"."""
    calls: list[Callable[[FileStat], object]] = [
        lambda stat: put(storage, b"new", FILE, expect=stat.version),
        lambda stat: storage.update(stat, filename="x"),
        lambda stat: storage.copy(stat, OTHER, METADATA),
        lambda stat: storage.remove(FILE, expect=stat.version),
        lambda stat: storage.list(),
    ]
    raised = set()
    for call in calls:
        stat = put(storage, b"old", FILE)
        with failing(uri, "alwaysOn", command, errorCode=20):
            try:
                call(stat)
            except DepotError as error:
                raised.add(type(error))
    assert raised <= {StorageUnavailable}
    assert raised or command in ("delete", "update")  # which a swap can do without
    put(storage, b"new", FILE)
    assert content_of(storage, FILE) == b"new"


# --- commits whose reply was lost -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, 3 * CHUNK_SIZE])
def test_own_commit_is_recognised_by_a_later_call(
    storage: GridFSStorage, uri: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    data = noise(size)
    first = put(storage, data, FILE, expect=ABSENT, commit="one")
    with counted(monkeypatch, uri) as (other, commands):
        assert put(other, data, FILE, expect=ABSENT, commit="one") == first
        assert put(other, data, FILE, expect="1_2_3", commit="one") == first
        assert len(commands) < 20
    copy = storage.copy(first, OTHER, METADATA, expect=ABSENT, commit="two")
    storage.remove(FILE)
    assert storage.copy(first, OTHER, METADATA, expect=ABSENT, commit="two") == copy
    for expect, error in ((ABSENT, AlreadyStored), ("1_2_3", VersionChanged)):
        with unchanged(storage), pytest.raises(error):
            put(storage, data, OTHER, expect=expect, commit="three")
        with unchanged(storage), pytest.raises(error):
            put(storage, data, OTHER, expect=expect)
    storage.sweep(0)
    collections = storage._connection.collections()
    assert collections.chunks.count_documents({}) == -(-size // CHUNK_SIZE)


# --- time -------------------------------------------------------------------------------------------------------


CALLS: dict[str, Callable[[GridFSStorage, FileStat], object]] = {
    "stat": lambda storage, stat: storage.stat(FILE),
    "list": lambda storage, stat: storage.list(),
    "put": lambda storage, stat: put(storage, noise(300_000), FILE),
    "replace": lambda storage, stat: put(storage, b"x", FILE, expect=stat.version),
    "update": lambda storage, stat: storage.update(stat, filename="x"),
    "copy": lambda storage, stat: storage.copy(stat, OTHER, METADATA),
    "remove": lambda storage, stat: storage.remove(FILE, expect=stat.version),
    "pread": lambda storage, stat: storage.open_content(stat).pread(0, 1),
    "pieces": lambda storage, stat: list(storage.open_content(stat).pieces(0, stat.size, 1000)),
    "load": lambda storage, stat: storage.load(FILE, 1 << 20),
}


def test_a_server_that_refuses_is_looked_for_once_in_a_call(storage: GridFSStorage) -> None:
    stat = put(storage, noise(300_000), FILE)
    refused = GridFSStorage(f"mongodb://127.0.0.1:{free_port()}/d?serverSelectionTimeoutMS=300")
    for call in CALLS.values():
        begun = time.monotonic()
        with pytest.raises(StorageUnavailable, match="refused"):
            call(refused, stat)
        assert time.monotonic() - begun < 0.9
    refused.close()


@pytest.mark.parametrize(
    "midway",
    [None, (Upload, "is_whole"), (Upload, "send"), (Commit, "decide"), (GridFSStorage, "_find")],
    ids=lambda midway: midway[1] if midway else "from the begin on",
)
def test_a_call_to_a_silent_server_ends_when_it_is_told_to(
    mongod: Mongod, uri: str, monkeypatch: pytest.MonkeyPatch, midway: tuple[Any, str] | None
) -> None:
    storage = GridFSStorage(uri)
    storage.limit_calls(0.4)

    def fall_silent() -> None:
        mongod.process.signal(signal.SIGSTOP)

    for call in CALLS.values():
        stat = put(storage, noise(300_000), FILE)
        with monkeypatch.context() as patched:
            begun = time.monotonic()
            if midway:
                patched.setattr(*midway, preceded(getattr(*midway), fall_silent))
            else:
                fall_silent()
            try:
                call(storage, stat)
            except StorageUnavailable:
                assert time.monotonic() - begun < 3  # a server is looked for every half second
            else:
                assert midway
            finally:
                mongod.process.signal(signal.SIGCONT)
    storage.close()


def preceded(method: Callable[..., Any], by: Callable[[], None]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        by()
        return method(*arguments, **options)

    return call


def test_limits_are_the_shorter_ones() -> None:
    def limits(options: str, seconds: float | None) -> tuple[Any, ...]:
        client = Target(f"mongodb://localhost/d?{options}").client(seconds)
        client.close()
        found, pool = client.options, client.options.pool_options
        return found.server_selection_timeout, pool.connect_timeout, pool.socket_timeout, found.timeout

    assert limits("", None) == (2.5, 10, 60, None)
    assert limits("", 20) == (2.5, 10, 10, None)
    assert limits("", 1) == (1, 0.5, 0.5, None)
    assert limits("socketTimeoutMS=2000&serverSelectionTimeoutMS=9000", None) == (9, 10, 2, None)
    assert limits("socketTimeoutMS=2000&serverSelectionTimeoutMS=9000", 5) == (5, 2.5, 2, None)
    assert limits("socketTimeoutMS=0&connectTimeoutMS=0", 5) == (2.5, 2.5, 2.5, None)
    assert limits("timeoutMS=3000", 5) == (2.5, 2.5, None, 3)


def test_writes_are_repeated_by_pymongo_only_where_the_server_can() -> None:
    """Else threads keep each other from a standalone server after resets: see `Target`."""
    for uri, repeated in (
        ("mongodb://a/d", False),
        ("mongodb://a:1/d?directConnection=true", False),
        ("mongodb://a/d?retryWrites=true", True),
        ("mongodb://a/d?replicaSet=r", True),
        ("mongodb://a/d?replicaSet=r&retryWrites=false", False),
        ("mongodb://a,b/d", True),
    ):
        client = Target(uri).client()
        assert client.options.retry_writes is repeated, uri
        client.close()


def test_what_a_slow_line_does_not_take_is_sent_in_shorter_pieces(
    storage: GridFSStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 chunks at once take too long, 8 do not."""
    insert_many = Collection.insert_many

    def slow(self: Any, documents: list[Any], *arguments: Any, **options: Any) -> Any:
        if len(documents) > 8:
            raise pymongo.errors.NetworkTimeout("timed out")
        return insert_many(self, documents, *arguments, **options)

    monkeypatch.setattr(Collection, "insert_many", slow)
    data = noise(10 << 20)
    with pytest.raises(StorageUnavailable):
        put(storage, data, FILE)
    assert content_of(storage, put(storage, data, FILE)) == data


@pytest.mark.parametrize("code", [43, 50, 237])
def test_a_listing_goes_on_behind_a_cursor_that_ended(storage: GridFSStorage, uri: str, code: int) -> None:
    files = storage._connection.collections().files
    files.insert_many([{"_id": ObjectId(), "length": 0, "chunkSize": 1} for _ in range(2500)])
    with failing(uri, 2, "getMore", errorCode=code):
        listed = storage.list()
    assert len(listed) == len(set(listed)) == 2500
    with failing(uri, "alwaysOn", "find", "getMore", errorCode=code), pytest.raises(StorageUnavailable):
        storage.list()


def test_a_large_copy_is_made_in_steps(storage: GridFSStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gridfs_swap, "_COPIED", 2)
    data = noise(5 * CHUNK_SIZE)
    assert content_of(storage, storage.copy(put(storage, data, FILE), OTHER, METADATA)) == data


# --- forks ------------------------------------------------------------------------------------------------------


def test_forks_while_other_threads_are_at_work(storage: GridFSStorage, uri: str) -> None:
    stop = threading.Event()

    def work(number: int) -> None:
        file_id = FileId(f"{number:024x}")
        while not stop.is_set():
            put(storage, b"parent", file_id)
            assert content_of(storage, file_id) == b"parent"
            GridFSStorage(uri)._connection.collections().client.close()

    def use() -> None:
        assert content_of(storage, put(storage, b"child", FILE)) == b"child"
        storage.close()

    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(work, number) for number in range(3)]
        try:
            assert [in_child(use) for _ in range(12)] == [0] * 12
        finally:
            stop.set()
        for worker in workers:
            worker.result()


# --- bytes that are changed on the way --------------------------------------------------------------------------


class Garbling(FaultProxy):
    """Changes one byte of each answer that is long enough."""

    at: int | None = None

    @property
    def flip(self) -> int | None:
        return self.at

    @flip.setter
    def flip(self, _: int | None) -> None:
        """It stays as it is."""


@pytest.fixture
def proxy(mongod: Mongod) -> Iterator[Garbling]:
    proxy = Garbling(mongod.port)
    with proxy:
        yield proxy


@pytest.fixture
def through(proxy: Garbling, uri: str, storage: GridFSStorage) -> Iterator[GridFSStorage]:
    """The same files, through the proxy."""
    database = uri.rpartition("/")[2]
    through = GridFSStorage(f"mongodb://127.0.0.1:{proxy.port}/{database}?serverSelectionTimeoutMS=500")
    yield through
    through.close()


READS: dict[str, Callable[[GridFSStorage, FileStat], bytes | None]] = {
    "whole": lambda storage, stat: storage.open_content(stat).pread(0, stat.size),
    "range": lambda storage, stat: storage.open_content(stat).pread(1000, 300_000),
    "pieces": lambda storage, stat: b"".join(storage.open_content(stat).pieces(0, stat.size, 100_000)),
    "file": lambda storage, stat: storage.get(stat.file_id).read(),
    "load": lambda storage, stat: storage.load(stat.file_id, stat.size)[1],
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_content_that_a_network_changed_is_seen(
    storage: GridFSStorage, through: GridFSStorage, proxy: Garbling, read: Callable[[GridFSStorage, FileStat], Any]
) -> None:
    data = noise(600_000)
    stat = put(storage, data, FILE)
    right = read(storage, stat)
    through.stat(FILE)
    proxy.at = 5000
    with pytest.raises(ContentDamaged) as raised:
        read(through, stat)
    assert raised.value.transient
    proxy.at = None
    assert read(through, stat) == right


def test_a_copy_does_not_make_damage_permanent(
    storage: GridFSStorage, through: GridFSStorage, proxy: Garbling, uri: str
) -> None:
    """Nor where it passes through here, and has no checksums of its chunks."""
    stat = put(storage, noise(600_000), FILE)
    storage._connection.collections().chunks.update_many({}, {"$unset": {"crc32": ""}})
    through.stat(FILE)
    proxy.at = 5000
    with failing(uri, "alwaysOn", "aggregate", errorCode=59), pytest.raises(ContentDamaged):
        through.copy(stat, OTHER, METADATA)
    assert storage.list() == [FILE]


@pytest.mark.parametrize("where", range(20, 340, 40))
def test_replies_that_a_network_changed_raise_errors_of_ours(
    storage: GridFSStorage, through: GridFSStorage, proxy: Garbling, where: int
) -> None:
    """And no other file is touched, whatever a reply says."""
    data = noise(1000)
    stat, other = put(storage, data, FILE), put(storage, data, OTHER)
    through.limit_calls(0.5)
    with contextlib.suppress(DepotError):
        through.stat(FILE)
    for call in CALLS.values():
        proxy.at = where
        with contextlib.suppress(DepotError):
            call(through, stat)
        proxy.at = None
        assert content_of(storage, other) == data


def test_of_a_reply_only_what_was_asked_for_is_believed(
    storage: GridFSStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ObjectIds of neighbours differ by one bit, and chunks of other programs carry nothing that tells them apart."""
    keys = [ObjectId(FILE), ObjectId(FILE[:-1] + "7")]
    collections = storage._connection.collections()
    for key in keys:
        collections.files.insert_one({"_id": key, "length": 3, "chunkSize": 10, "uploadDate": datetime(2020, 1, 1)})
        collections.chunks.insert_one({"files_id": key, "n": 0, "data": b"abc"})
    other = FilesDocument(collections.files.find_one({"_id": keys[1]}) or {})
    with pytest.raises(ContentDamaged):
        FilesDocument(other.raw, keys[0])
    monkeypatch.setattr(Collection, "find_one_and_delete", lambda *_, **__: other.raw)
    storage.remove(FILE)
    assert storage.get(keys[1]).read() == b"abc"
