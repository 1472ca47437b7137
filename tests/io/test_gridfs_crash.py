"""GridFSStorage when clients die, replies are lost, commands fail and the server is killed."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from bson import ObjectId, Regex
from depot.io.gridfs import GridFSStorage as FiledepotStorage
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, DuplicateKeyError

from depotfs.errors import (
    AccessDenied,
    DepotError,
    FileNotStored,
    StorageFull,
    StorageUnavailable,
)
from depotfs.io import gridfs_swap
from depotfs.io.content import BytesContent
from depotfs.io.gridfs import GridFSStorage
from depotfs.io.gridfs_documents import CHUNK_SIZE, FilesDocument
from depotfs.io.gridfs_swap import finish
from depotfs.io.times import format_stored
from depotfs.types import ABSENT, PRESENT, FileId, FileMetadata, FileStat
from tests.io.contract_sources import ABSENT_IDS, METADATA, PNG, content_of, noise, put
from tests.io.gridfs_faults import failing, killed_at
from tests.servers.mongod import Mongod

pytestmark = [
    pytest.mark.xdist_group("mongod"),
    pytest.mark.filterwarnings("ignore:GridOut property:DeprecationWarning"),  # filedepot's use of pymongo
]

FILE = FileId("590f20fdd9415e6db65e8496")
OTHER = FileId("690f20fdd9415e6db65e8496")
OLD_DATA = noise(3 * CHUNK_SIZE + 5, seed=1)
NEW_DATA = noise(4 * CHUNK_SIZE + 7, seed=2)
NEW = FileMetadata("новое.png", PNG, METADATA.modified + 1)
_EPOCH = datetime(1970, 1, 1)
State = dict[str, tuple[bytes, FileMetadata]]


@pytest.fixture
def uri(mongod: Mongod, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of an empty database; uploads are sent in several batches."""
    monkeypatch.setattr(gridfs_swap, "BATCH", 2 * CHUNK_SIZE)
    return mongod.new_uri()


@pytest.fixture
def storage(uri: str) -> Iterator[GridFSStorage]:
    storage = GridFSStorage(uri)
    storage._connection.collections().ensure_indexes()
    yield storage
    storage.close()


@pytest.fixture
def filedepot(uri: str) -> Iterator[FiledepotStorage]:
    filedepot = FiledepotStorage(uri)
    yield filedepot
    filedepot._cli.close()


def state_of(storage: GridFSStorage) -> State:
    """Everything that is stored, as a reader sees it that looks at listings and does not finish what it meets."""
    stats = [entry.stat for page in storage.pages() for entry in page if entry.stat is not None]
    return {stat.file_id: (content_of(storage, stat), stat.metadata) for stat in stats}


def seen_by(filedepot: FiledepotStorage) -> State:
    state: State = {}
    for key in filedepot._db.filedepot.files.distinct("_id"):
        file = filedepot.get(key)
        modified = int((file.last_modified - _EPOCH).total_seconds())
        state[str(key)] = (file.read(), FileMetadata(file.filename, file.content_type, modified))
        assert file.content_length == len(state[str(key)][0])
    return state


def orphans(storage: GridFSStorage) -> int:
    """Chunks beyond those of the files."""
    collections = storage._connection.collections()
    wanted = sum(-(-raw["length"] // raw["chunkSize"]) for raw in collections.files.find())
    return int(collections.chunks.count_documents({}) - wanted)


def _stat(storage: GridFSStorage) -> FileStat:
    return storage.stat(FILE)


ACTIONS: dict[str, tuple[State, Callable[[GridFSStorage], object], State]] = {
    "create": ({}, lambda s: put(s, NEW_DATA, FILE, metadata=NEW), {FILE: (NEW_DATA, NEW)}),
    "create small": ({}, lambda s: put(s, b"small", FILE, metadata=NEW), {FILE: (b"small", NEW)}),
    "replace": (
        {FILE: (OLD_DATA, METADATA)},
        lambda s: put(s, NEW_DATA, FILE, metadata=NEW, expect=PRESENT),
        {FILE: (NEW_DATA, NEW)},
    ),
    "replace whatever is there": (
        {FILE: (OLD_DATA, METADATA)},
        lambda s: put(s, NEW_DATA, FILE, metadata=NEW),
        {FILE: (NEW_DATA, NEW)},
    ),
    "replace by nothing": (
        {FILE: (OLD_DATA, METADATA)},
        lambda s: put(s, b"", FILE, metadata=NEW),
        {FILE: (b"", NEW)},
    ),
    "replace nothing": (
        {FILE: (b"", METADATA)},
        lambda s: put(s, NEW_DATA, FILE, metadata=NEW),
        {FILE: (NEW_DATA, NEW)},
    ),
    "remove": ({FILE: (OLD_DATA, METADATA)}, lambda s: s.remove(FILE), {}),
    "update": (
        {FILE: (OLD_DATA, METADATA)},
        lambda s: s.update(_stat(s), filename=NEW.filename, content_type=NEW.content_type, modified=NEW.modified),
        {FILE: (OLD_DATA, NEW)},
    ),
    "copy": (
        {FILE: (OLD_DATA, METADATA)},
        lambda s: s.copy(_stat(s), OTHER, NEW),
        {FILE: (OLD_DATA, METADATA), OTHER: (OLD_DATA, NEW)},
    ),
    "copy over another": (
        {FILE: (OLD_DATA, METADATA), OTHER: (NEW_DATA, METADATA)},
        lambda s: s.copy(_stat(s), OTHER, NEW),
        {FILE: (OLD_DATA, METADATA), OTHER: (OLD_DATA, NEW)},
    ),
}


@pytest.mark.parametrize(
    ("action", "origin"),
    [(action, "depotfs") for action in ACTIONS]
    + [(action, "filedepot") for action in ("replace", "remove", "update", "copy")],
)
def test_client_dies_at_any_step(
    storage: GridFSStorage, filedepot: FiledepotStorage, uri: str, action: str, origin: str
) -> None:
    """Whatever a dead client left: the old state or the new one, whole; after the next look filedepot agrees; nothing
    is left over once the orphans are swept; and doing it again works."""
    old, act, new = ACTIONS[action]
    step, seen = 0, []
    while True:
        for file_id in storage.list():
            storage.remove(FileId(file_id))
        storage.sweep(older_than=0)
        for file_id, (data, metadata) in old.items():
            if origin == "depotfs":
                put(storage, data, FileId(file_id), metadata=metadata)
            else:
                _store_as_filedepot(filedepot, file_id, data, metadata)
        if not killed_at(uri, step, act):
            break
        state = state_of(storage)
        assert state in (old, new), f"step {step}"
        seen.append(state == new)
        for file_id in state:
            storage.stat(FileId(file_id))
        assert seen_by(filedepot) == state_of(storage) == state, f"step {step}"
        if state == new and new:
            assert orphans(storage) == 0, f"step {step}"
        storage.sweep(older_than=0)
        assert orphans(storage) == 0, f"step {step}"
        if action != "remove" or state:
            act(storage)
        assert seen_by(filedepot) == state_of(storage) == new, f"step {step}"
        assert orphans(storage) == 0, f"step {step}"
        step += 1
    assert state_of(storage) == new
    assert step >= 2
    assert seen == sorted(seen), "it went back to the old state"
    assert any(seen) or action in ("update", "create small")  # their last command is the one that decides


@pytest.mark.parametrize("over", [False, True], ids=["", "over another"])
def test_client_dies_at_any_step_of_a_move(
    storage: GridFSStorage, filedepot: FiledepotStorage, uri: str, over: bool
) -> None:
    """The content is under the old id, or under both, or under the new one; whole, and a second move ends it."""
    before: State = {OTHER: (NEW_DATA, METADATA)} if over else {}
    old: State = before | {FILE: (OLD_DATA, METADATA)}
    new: State = {OTHER: (OLD_DATA, NEW)}
    step, seen = 0, []
    while True:
        for file_id in storage.list():
            storage.remove(FileId(file_id))
        for file_id, (data, metadata) in old.items():
            put(storage, data, FileId(file_id), metadata=metadata)
        source = _stat(storage)
        expect = storage.stat(OTHER).version if over else ABSENT

        def act(storage: GridFSStorage, source: FileStat = source, expect: str = expect) -> object:
            return storage.move(source, OTHER, NEW, expect=expect, commit="c")

        if not killed_at(uri, step, act):
            break
        seen.append([old, new | {FILE: (OLD_DATA, METADATA)}, new].index(state_of(storage)))
        act(storage)
        assert seen_by(filedepot) == state_of(storage) == new, f"step {step}"
        storage.sweep(older_than=0)
        assert orphans(storage) == 0, f"step {step}"
        step += 1
    assert state_of(storage) == new
    assert seen == sorted(seen)
    assert set(seen) == {0, 1, 2}


@pytest.mark.parametrize("action", ["create", "replace", "copy over another"])
def test_orphans_are_in_nobodys_way(storage: GridFSStorage, filedepot: FiledepotStorage, uri: str, action: str) -> None:
    """Without a sweep: what dead uploads left does not hinder the next one, nor what other programs left."""
    old, act, new = ACTIONS[action]
    for file_id, (data, metadata) in old.items():
        put(storage, data, FileId(file_id), metadata=metadata)
    for step in (1, 2):
        assert killed_at(uri, step, act)
    chunks = storage._connection.collections().chunks
    with contextlib.suppress(DuplicateKeyError):  # a place that is taken is as good
        chunks.insert_one({"files_id": ObjectId(FILE), "n": 2, "data": b"?"})
    act(storage)
    assert seen_by(filedepot) == state_of(storage) == new
    storage.sweep(older_than=0)
    assert orphans(storage) == 0
    assert state_of(storage) == new


def test_sweep_spares_the_young_and_the_owned(storage: GridFSStorage, filedepot: FiledepotStorage, uri: str) -> None:
    put(storage, OLD_DATA, FILE)
    theirs = filedepot.create(NEW_DATA, "n")
    storage._connection.collections().chunks.insert_many(
        [{"files_id": {"a": []}, "n": 0}, {"n": 1}, {"files_id": Regex("x"), "n": 2}]
    )
    assert killed_at(uri, 2, lambda s: put(s, NEW_DATA, FILE, expect=PRESENT))
    left = orphans(storage)
    assert left
    assert storage.sweep() == 0
    assert orphans(storage) == left
    assert storage.sweep(older_than=0) == left
    assert content_of(storage, FILE) == OLD_DATA
    assert filedepot.get(theirs).read() == NEW_DATA


def test_sweep_brings_home_what_lost_its_way(storage: GridFSStorage, filedepot: FiledepotStorage) -> None:
    upload = ObjectId(put(storage, OLD_DATA, FILE).version)
    storage._connection.collections().chunks.update_one({"n": 1}, {"$set": {"files_id": upload}})
    assert content_of(storage, FILE) == OLD_DATA
    assert storage.sweep(older_than=0) == 0
    assert seen_by(filedepot) == {FILE: (OLD_DATA, METADATA)}


def test_readers_of_a_swap_that_rests(storage: GridFSStorage, uri: str) -> None:
    """At each step of a swap: a reader from before it tells so, or reads the old content; a new one reads the new."""
    for step in range(40):
        put(storage, OLD_DATA, FILE)
        before = storage.open_content(FILE)
        going_on = killed_at(uri, step, lambda s: put(s, NEW_DATA, FILE, metadata=NEW, expect=PRESENT))
        [(data, metadata)] = state_of(storage).values()
        assert (data, metadata) in ((OLD_DATA, METADATA), (NEW_DATA, NEW))
        try:
            assert before.pread(CHUNK_SIZE - 1, 2 * CHUNK_SIZE) == OLD_DATA[CHUNK_SIZE - 1 : 3 * CHUNK_SIZE - 1]
        except DepotError as error:
            assert "replaced" in str(error)  # noqa: PT017 - either outcome is right
            assert data == NEW_DATA
        if not going_on:
            break
    else:
        pytest.fail("the put never ended")


@pytest.mark.parametrize("present", [False, True], ids=["create", "replace"])
@pytest.mark.parametrize("losses", [1, 2])
@pytest.mark.parametrize("done", [True, False], ids=["reply lost", "request lost"])
def test_lost_reply_of_the_deciding_write(
    storage: GridFSStorage,
    filedepot: FiledepotStorage,
    monkeypatch: pytest.MonkeyPatch,
    present: bool,
    losses: int,
    done: bool,
) -> None:
    if present:
        put(storage, OLD_DATA, FILE)
    left = losses

    def losing(write: Callable[..., Any]) -> Callable[..., Any]:
        def lost(*args: Any, **options: Any) -> Any:
            nonlocal left
            if left:
                left -= 1
                if done:
                    write(*args, **options)
                raise AutoReconnect("connection closed")
            return write(*args, **options)

        return lost

    with monkeypatch.context() as patched:
        for name in ("insert_one", "find_one_and_update"):
            patched.setattr(Collection, name, losing(getattr(Collection, name)))
        if losses == 1 or done:
            stat = put(storage, NEW_DATA, FILE, metadata=NEW, commit="c")
            assert stat.commit == "c"
        else:
            with pytest.raises(StorageUnavailable):
                put(storage, NEW_DATA, FILE, metadata=NEW)
            assert state_of(storage) == ({FILE: (OLD_DATA, METADATA)} if present else {})
            put(storage, NEW_DATA, FILE, metadata=NEW)
            storage.sweep(older_than=0)
    assert seen_by(filedepot) == state_of(storage) == {FILE: (NEW_DATA, NEW)}
    assert orphans(storage) == 0


@pytest.mark.parametrize("removed", [False, True])
def test_lost_reply_and_then_somebody_else(
    storage: GridFSStorage, uri: str, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    """What was stored without our knowing, and replaced or removed by others since, is never brought back in pieces."""
    put(storage, OLD_DATA, FILE)
    other = GridFSStorage(uri)
    write = Collection.find_one_and_update

    def lost(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(Collection, "find_one_and_update", write)
        write(*args, **options)
        if removed:
            other.remove(FILE)
        else:
            put(other, b"other", FILE)
        raise AutoReconnect("connection closed")

    monkeypatch.setattr(Collection, "find_one_and_update", lost)
    with pytest.raises(StorageUnavailable):
        put(storage, NEW_DATA, FILE)
    assert state_of(storage) == ({} if removed else {FILE: (b"other", METADATA)})
    assert orphans(storage) == 0
    other.close()


@pytest.mark.parametrize(("code", "error"), [(14031, StorageFull), (13, AccessDenied), (50, StorageUnavailable)])
def test_failing_commands_by_cause(storage: GridFSStorage, uri: str, code: int, error: type[DepotError]) -> None:
    put(storage, OLD_DATA, FILE)
    with failing(uri, "alwaysOn", "insert", errorCode=code), pytest.raises(error, match=FILE):
        put(storage, NEW_DATA, FILE, expect=PRESENT)
    with failing(uri, "alwaysOn", "findAndModify", errorCode=code):
        for act in (
            lambda: put(storage, NEW_DATA, FILE, expect=PRESENT),
            lambda: storage.update(_stat(storage), filename="x"),
            lambda: storage.remove(FILE),
        ):
            with pytest.raises(error):
                act()
    with failing(uri, "alwaysOn", "find", errorCode=code):
        for look in (lambda: storage.stat(FILE), storage.list, lambda: storage.exists(FILE)):
            with pytest.raises(error):
                look()
    assert state_of(storage) == {FILE: (OLD_DATA, METADATA)}
    if error is StorageUnavailable:
        storage.sweep(older_than=0)  # whether it was done was not known: the chunks stayed
    assert orphans(storage) == 0


def test_swap_that_cannot_be_finished_is_no_failure(
    storage: GridFSStorage, filedepot: FiledepotStorage, uri: str
) -> None:
    put(storage, OLD_DATA, FILE)
    with failing(uri, "alwaysOn", "update", "delete", errorCode=13):
        put(storage, NEW_DATA, FILE, metadata=NEW, expect=PRESENT)
        assert storage.stat(FILE).metadata == NEW
        assert content_of(storage, FILE) == NEW_DATA
        with pytest.raises(AccessDenied):
            put(storage, OLD_DATA, FILE)
        assert content_of(storage, FILE) == NEW_DATA
    storage.stat(FILE)
    assert seen_by(filedepot) == {FILE: (NEW_DATA, NEW)}


@pytest.mark.parametrize("command", ["delete", "update"])
def test_removed_in_the_middle_of_a_swap(storage: GridFSStorage, uri: str, command: str) -> None:
    put(storage, OLD_DATA, FILE)
    with failing(uri, "alwaysOn", command, errorCode=13):
        put(storage, NEW_DATA, FILE, expect=PRESENT)
    storage.remove(FILE)
    assert orphans(storage) == 0
    with pytest.raises(FileNotStored):
        storage.stat(FILE)


def test_removed_while_another_finishes_its_swap(storage: GridFSStorage, uri: str) -> None:
    """Chunks that moved past the remover are deleted by the one who moved them."""
    put(storage, OLD_DATA, FILE)
    with failing(uri, "alwaysOn", "update", errorCode=13):
        put(storage, NEW_DATA, FILE, expect=PRESENT)
    collections = storage._connection.collections()
    removed = FilesDocument(collections.files.find_one_and_delete({}) or {})
    assert removed.pending
    finish(collections, removed)
    assert orphans(storage) == 0
    assert storage.list() == []


def test_stalled_server(mongod: Mongod) -> None:
    storage = GridFSStorage(mongod.new_uri("socketTimeoutMS=300&serverSelectionTimeoutMS=300"))
    file_id = FileId(storage.create(b"x"))
    mongod.process.signal(signal.SIGSTOP)
    try:
        with pytest.raises(StorageUnavailable):
            storage.stat(file_id)
        with pytest.raises(StorageUnavailable):
            storage.create(b"y")
    finally:
        mongod.process.signal(signal.SIGCONT)
    assert content_of(storage, file_id) == b"x"
    storage.close()


class _Killing(BytesContent):
    """Content whose server dies while it is read."""

    def __init__(self, data: bytes, server: Mongod) -> None:
        super().__init__(data)
        self._server = server
        self._reads = 0

    def read(self, size: int) -> bytes:
        self._reads += 1
        if self._reads == 3:
            self._server.process.kill()
        return super().read(size)


@pytest.mark.parametrize("replica_set", [False, True], ids=["standalone", "replica set"])
def test_server_is_killed(monkeypatch: pytest.MonkeyPatch, replica_set: bool) -> None:
    """What was acknowledged is there after a restart, whole; the upload under way changed nothing and works later."""
    monkeypatch.setattr(gridfs_swap, "BATCH", 2 * CHUNK_SIZE)
    server = Mongod(replica_set=replica_set)
    try:
        storage = GridFSStorage(server.uri("test"))
        impatient = GridFSStorage(server.uri("test", "serverSelectionTimeoutMS=200"))
        first = put(storage, OLD_DATA, FILE)
        second = put(storage, b"acknowledged just before", ABSENT_IDS[0])
        with pytest.raises(StorageUnavailable):
            impatient.put(_Killing(NEW_DATA, server), NEW, file_id=FILE, expect=first.version)
        impatient.close()
        server.start()
        assert storage.list() == sorted((first.file_id, second.file_id))
        assert content_of(storage, first) == OLD_DATA
        assert content_of(storage, second) == b"acknowledged just before"
        put(storage, NEW_DATA, FILE, metadata=NEW, expect=first.version)
        assert content_of(storage, FILE) == NEW_DATA
        storage.sweep(older_than=0)
        assert orphans(storage) == 0
        storage.close()
    finally:
        server.process.stop()


def _store_as_filedepot(filedepot: FiledepotStorage, file_id: str, data: bytes, metadata: FileMetadata) -> None:
    fields = {"content_type": metadata.content_type, "last_modified": format_stored(metadata.modified)}
    filedepot._gridfs.put(data, _id=ObjectId(file_id), filename=metadata.filename, **fields)
