"""A fork while another thread is inside any lock of the library: the child goes on, for it has no such thread."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from depotfs.io import locks
from depotfs.io.interfaces import FileStorage
from depotfs.io.local import LocalFileStorage
from depotfs.io.locks import Lock, ReentrantLock
from depotfs.io.memory import MemoryFileStorage
from depotfs.manager import DepotManager
from tests.io.contract_sources import ABSENT_IDS, METADATA, content_of, put
from tests.io.faults import in_child

FILE, OTHER = ABSENT_IDS
MEMORY = {"depot.backend": "depotfs.io.memory.MemoryFileStorage"}


@contextmanager
def inside(*held: Lock) -> Iterator[None]:
    """Meanwhile another thread is inside those locks."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for lock in held:
                stack.enter_context(lock)
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(60)
    try:
        yield
    finally:
        leave.set()
        thread.join()


def forked(act: Callable[[], Any]) -> int:
    """The exit code of a child that does it: negative if it hangs."""

    def work() -> None:
        signal.alarm(20)
        act()

    return in_child(work)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    DepotManager._clear()
    yield
    DepotManager._clear()


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> FileStorage:
    return LocalFileStorage(tmp_path / "storage") if request.param == "local" else MemoryFileStorage()


def test_child_uses_storages(storage: FileStorage) -> None:
    put(storage, b"data", FILE)

    def act() -> None:
        storage.staging_directory()
        stat = put(storage, b"data", FILE)
        moved = storage.move(storage.update(stat, filename="b"), OTHER, METADATA)
        put(storage, b"more", FILE)
        assert content_of(storage, moved) == b"data"
        storage.delete(OTHER)
        assert storage.list() == [FILE]
        storage.close()

    with inside(*locks._locks):
        assert [forked(act) for _ in range(3)] == [0, 0, 0]
    put(storage, b"the parent goes on", FILE)


def test_child_uses_the_manager(tmp_path: Path) -> None:
    first = DepotManager.configure("first", MEMORY)

    def act() -> None:
        assert DepotManager.get() is first
        DepotManager.configure("second", {"depot.storage_path": str(tmp_path)})
        DepotManager.alias("alias", "second")
        DepotManager.set_default("second")
        assert DepotManager.get() is DepotManager.get("alias")

    with inside(*locks._locks):
        assert [forked(act) for _ in range(12)] == [0] * 12
    assert DepotManager.get("second") is None


class Slow(MemoryFileStorage):
    """A storage whose making takes long, as that of one at a server does."""

    begun, end = threading.Event(), threading.Event()

    def __init__(self) -> None:
        super().__init__()
        self.begun.set()
        self.end.wait(60)


def test_child_of_a_fork_while_a_storage_is_made() -> None:
    thread = threading.Thread(target=DepotManager.configure, args=("slow", {"depot.backend": Slow}))
    thread.start()
    assert Slow.begun.wait(60)

    def act() -> None:
        assert DepotManager.get("slow") is None
        DepotManager.configure("slow", MEMORY)
        assert DepotManager.get_default() == "slow"

    try:
        assert [forked(act) for _ in range(12)] == [0] * 12
    finally:
        Slow.end.set()
        thread.join()
    assert isinstance(DepotManager.get("slow"), Slow)


class Forking(MemoryFileStorage):
    """A storage that forks while it is made, by the thread that has the manager's lock."""

    def __init__(self) -> None:
        super().__init__()
        self.child = os.fork()


def test_child_that_has_the_lock_itself_has_it_still() -> None:
    parent = os.getpid()
    code = 1
    try:
        storage = DepotManager.configure("forking", {"depot.backend": Forking})
        assert DepotManager.get() is storage
        code = 0
    finally:
        if os.getpid() != parent:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(storage.child, 0)[1]) == 0


@pytest.mark.parametrize("kind", [Lock, ReentrantLock])
def test_lock_excludes_in_the_child_too(kind: type[Lock]) -> None:
    lock = kind()
    counted: list[int] = []

    def act() -> None:
        def count() -> None:
            for _ in range(2000):
                with lock:
                    counted.append(len(counted))

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counted == list(range(8000))

    with inside(lock):
        assert forked(act) == 0


def test_child_does_not_end_what_its_parent_holds(tmp_path: Path) -> None:
    storage = LocalFileStorage(tmp_path / "storage")
    directory = storage.staging_directory()
    assert directory is not None
    assert forked(storage.close) == 0
    assert len(os.listdir(directory)) == 1
    assert forked(storage.staging_directory) == 0
    LocalFileStorage(tmp_path / "storage").create(b"which sweeps")
    storage.close()
    assert not os.path.exists(directory)
