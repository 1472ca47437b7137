"""Storages that fail: what is told, what is kept, and that nothing else is harmed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from depotfs.errors import (
    AccessDenied,
    DepotError,
    FileNotStored,
    SpoolFull,
    Stale,
    StorageFailed,
    StorageUnavailable,
    TooLarge,
)
from depotfs.io.content import BytesContent
from depotfs.io.local import LocalFileStorage
from depotfs.spool import SpoolFile, State
from depotfs.types import FileId, FileMetadata
from depotfs.vfs.attr import Attr
from depotfs.vfs.commit_queue import PARALLEL
from depotfs.vfs.file import File
from depotfs.vfs.names import derive
from depotfs.vfs.options import VolumeOptions
from tests.vfs.harness import FarMemory, Tree, mounted


class Faulty(FarMemory):
    """Memory whose next calls of a kind raise, or land and lose their reply.

    Attributes:
        failures: by method, what its next calls raise.
        broken: puts under that id raise what no storage should.
        gates: by method, what its calls wait for.
        lost_replies: how many of the next puts and copies land and say that they did not; after a copy, the storage
            cannot be asked what it has either.
        calls: names of all methods called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, list[Exception]] = {}
        self.lost_replies = 0
        self.broken: FileId | None = None
        self.calls: list[str] = []
        self.gates: dict[str, threading.Event] = {}

    def _call(self, method: str) -> None:
        self.calls.append(method)
        if method in self.gates:
            self.gates[method].wait(10)
        if self.failures.get(method):
            raise self.failures[method].pop(0)

    def stat(self, *args: Any) -> Any:
        self._call("stat")
        return super().stat(*args)

    def open_content(self, *args: Any) -> Any:
        self._call("open_content")
        return super().open_content(*args)

    def put(self, *args: Any, **options: Any) -> Any:
        self._call("put")
        if options["file_id"] == self.broken:
            raise RuntimeError("a bug of the class")
        stored = super().put(*args, **options)
        if self.lost_replies:
            self.lost_replies -= 1
            raise StorageUnavailable("the reply was lost")
        return stored

    def copy(self, *args: Any, **options: Any) -> Any:
        self._call("copy")
        stored = super().copy(*args, **options)
        if self.lost_replies:
            self.lost_replies -= 1
            self.failures["stat"] = [StorageUnavailable("the look, too")]
            raise StorageUnavailable("the reply was lost")
        return stored

    def remove(self, *args: Any, **options: Any) -> Any:
        self._call("remove")
        return super().remove(*args, **options)


def id_of(name: str) -> FileId:
    return derive(name, FarMemory.id_form)[0]


def content(storage: FarMemory, name: str) -> bytes | None:
    record = storage.files.get(id_of(name))
    return bytes(record["data"]) if record else None


def on_tree(
    check: Callable[[Tree, Faulty], Any], directory: Path, *, background: bool = False, storage: Faulty | None = None
) -> Faulty:
    """`check` was awaited on a mounted tree; the storage as it is after the unmount."""
    storage = storage or Faulty()

    async def run() -> None:
        async with mounted(storage, directory, VolumeOptions(background=background, attr_timeout=0)) as tree:
            await check(tree, storage)

    trio.run(run)
    return storage


async def rename(tree: Tree, old: str, new: str, *, replace: bool = True) -> None:
    await tree.fs.rename(tree.directory, old.encode(), tree.directory, new.encode(), replace=replace, pid=0)


# --- commits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("a bug"), StorageUnavailable("away"), OSError(5, "disk")])
def test_a_failed_commit_is_told_once_and_made_again(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        storage.failures["put"] = [error]
        fh = await tree.create("a.txt")
        await tree.fs.write(fh, 0, b"kept")
        with pytest.raises((DepotError, OSError)):
            await tree.fs.flush(fh)
        await tree.fs.release(fh)
        assert await tree.read_file("a.txt") == b"kept"

    storage = on_tree(check, tmp_path)
    assert content(storage, "a.txt") == b"kept"
    assert sum("commit of docs" in record.message for record in caplog.records) == 1


def test_every_writer_hears_of_a_failed_commit(tmp_path: Path) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        first, second = await tree.create("a.txt"), await tree.open("a.txt", os.O_RDWR)
        await tree.fs.write(first, 0, b"one")
        await tree.fs.write(second, 3, b"two")
        storage.failures["put"] = [StorageUnavailable("away"), StorageUnavailable("still")]
        for fh in (first, second):
            with pytest.raises(StorageUnavailable):
                await tree.fs.flush(fh)
            await tree.fs.release(fh)

    assert content(on_tree(check, tmp_path), "a.txt") == b"onetwo"


def test_writers_hear_that_their_file_is_not_theirs_any_more(tmp_path: Path) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.write_file("a.txt", b"old")
        first, second = await tree.open("a.txt", os.O_RDWR), await tree.open("a.txt", os.O_RDWR)
        await tree.fs.write(first, 0, b"1")
        await tree.fs.write(second, 1, b"2")
        storage.put(BytesContent(b"theirs"), FileMetadata("a.txt", "text/plain", 5), file_id=id_of("a.txt"))
        with pytest.raises(OSError, match="replaced"):
            await tree.fs.flush(first)
        with pytest.raises(Stale):
            await tree.fs.flush(second)
        with pytest.raises(Stale):
            await tree.fs.write(first, 0, b"never")
        with pytest.raises(Stale):
            await tree.fs.fsync(second)
        assert bytes(await tree.fs.read(first, 0, 10)) == b"12d"
        for fh in (first, second):
            await tree.fs.release(fh)
        assert await tree.read_file("a.txt") == b"theirs"
        (held,) = tree.spool.files()
        assert held.state is State.HELD

    assert content(on_tree(check, tmp_path), "a.txt") == b"theirs"


@pytest.mark.parametrize("background", [False, True])
def test_bytes_without_room_for_their_promise_are_committed_later(
    tmp_path: Path, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        fh = await tree.create("a.txt")
        await tree.fs.write(fh, 0, b"kept")
        with monkeypatch.context() as patch:
            file = tree.fs._handles.file(fh).file.draft.file  # type: ignore[union-attr]
            patch.setattr(type(file), "seal", _no_room)
            with pytest.raises(SpoolFull):
                await tree.fs.flush(fh)
        await tree.fs.release(fh)

    storage = on_tree(check, tmp_path, background=background)
    assert content(storage, "a.txt") == b"kept"


def _no_room(*_: object, **__: object) -> None:
    raise SpoolFull("no room for the record")


def test_one_broken_commit_in_the_background_harms_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        storage.broken = id_of("a.txt")
        for name in ("a.txt", "b.txt"):
            await tree.write_file(name, name.encode())
        directory = await tree.fs.opendir(tree.directory)
        with pytest.raises(StorageUnavailable, match="1 commits"):
            await tree.fs.fsyncdir(directory)
        assert content(storage, "b.txt") == b"b.txt"
        storage.broken = None
        await tree.fs.fsyncdir(directory)
        await tree.fs.releasedir(directory)

    storage = on_tree(check, tmp_path, background=True)
    assert [content(storage, name) for name in ("a.txt", "b.txt")] == [b"a.txt", b"b.txt"]
    assert "Traceback" in caplog.text


def test_an_error_of_our_own_in_a_pending_commit_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        async def broken(*_: object) -> None:
            raise KeyError("ours")

        with monkeypatch.context() as patch:
            patch.setattr(tree.fs.committer, "_put", broken)
            await tree.write_file("a.txt", b"kept")
            directory = await tree.fs.opendir(tree.directory)
            with pytest.raises(StorageUnavailable):
                await tree.fs.fsyncdir(directory)
            await tree.fs.releasedir(directory)

    assert content(on_tree(check, tmp_path, background=True), "a.txt") == b"kept"
    assert "KeyError: 'ours'" in caplog.text


def test_a_time_set_after_the_close_does_not_delay_the_commit(tmp_path: Path) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        fh, attr = await tree.fs.create(tree.directory, b"a.txt", os.O_RDWR, 0)
        await tree.fs.write(fh, 0, b"kept")
        storage.failures["put"] = [StorageUnavailable("away")] * 3
        await tree.close(fh)
        await tree.fs.drain()
        storage.failures.clear()
        due = dict(tree.fs.committer.queue._due)
        await tree.fs.setattr(attr.node_id, size=None, mtime_ns=7 * 10**9, fh=None)
        assert due
        assert tree.fs.committer.queue._due == due
        tree.fs.forget(attr.node_id, 1)

    storage = on_tree(check, tmp_path, background=True)
    assert storage.stat(id_of("a.txt")).metadata.modified == 7


def test_a_time_that_cannot_be_stored_is_clipped_at_once(tmp_path: Path) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        fh, attr = await tree.fs.create(tree.directory, b"a.txt", os.O_RDWR, 0)
        for dirty in (True, False):
            for seconds in (-(10**15), 10**15, -1):
                shown = await tree.fs.setattr(attr.node_id, size=None, mtime_ns=seconds * 10**9, fh=None)
                if not dirty:
                    assert storage.stat(id_of("a.txt")).metadata.modified * 10**9 == shown.mtime_ns
            assert shown.mtime_ns == -(10**9)
            if dirty:
                extreme = await tree.fs.setattr(attr.node_id, size=None, mtime_ns=10**24, fh=None)
                await tree.close(fh)
                assert storage.stat(id_of("a.txt")).metadata.modified * 10**9 == extreme.mtime_ns
        tree.fs.forget(attr.node_id, 1)

    on_tree(check, tmp_path)


def test_a_commit_that_waited_stores_nothing_half_written(tmp_path: Path) -> None:
    """It was on its way, behind others, when the file was opened to be written again."""
    storage = Faulty()
    storage.gates["put"] = threading.Event()
    last = f"{PARALLEL}.txt"

    async def check(tree: Tree, storage: Faulty) -> None:
        for number in range(PARALLEL + 1):
            await tree.write_file(f"{number}.txt", b"whole")
        fh = await tree.open(last, os.O_WRONLY | os.O_TRUNC)
        await tree.fs.write(fh, 0, b"ha")
        storage.gates["put"].set()
        await tree.fs.drain()
        assert content(storage, last) is None
        await tree.fs.write(fh, 2, b"lf")
        await tree.close(fh)

    assert content(on_tree(check, tmp_path, background=True, storage=storage), last) == b"half"


def test_nothing_is_written_into_a_commit_that_waits_for_the_backup_of_its_file(tmp_path: Path) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.write_file("a.txt", b"old")
        await rename(tree, "a.txt", "a.txt~")
        storage.failures["open_content"] = [OSError(5, "away")]
        pread, gate = tree.volume.remote.pread, trio.Event()

        async def slow(*args: Any) -> bytes:
            await gate.wait()
            return await pread(*args)

        tree.volume.remote.pread = slow  # type: ignore[method-assign,assignment]
        with pytest.raises(OSError, match="away"):
            await tree.write_file("a.txt", b"whole")
        fh = await tree.open("a.txt", os.O_WRONLY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tree.fs.drain)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(tree.fs.write, fh, 0, b"W")
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        assert content(storage, "a.txt") in (b"old", b"whole")  # whichever of the two came first
        await tree.close(fh)

    assert content(on_tree(check, tmp_path), "a.txt") == b"Whole"


@pytest.mark.parametrize(("found", "renamed"), [(True, False), (True, True), (False, False)])
def test_a_file_that_the_storage_took_before_it_failed_is_told_of_and_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: bool, renamed: bool
) -> None:
    """And even if the storage does not tell what it has."""
    storage = LocalFileStorage(str(tmp_path / "files"), durable=True)

    def broken(*_: object) -> None:
        raise StorageUnavailable("the directory cannot be flushed")

    async def main() -> None:
        async with mounted(storage, tmp_path) as tree:
            fh = await tree.create(".new" if renamed else "a.txt")
            await tree.fs.write(fh, 0, b"taken")
            with monkeypatch.context() as patch:
                patch.setattr(storage, "_sync_root", broken)
                if not found:
                    patch.setattr(tree.fs.committer, "_find_landed", broken)
                with pytest.raises(StorageUnavailable, match="flushed"):
                    await (rename(tree, ".new", "a.txt") if renamed else tree.fs.flush(fh))
            assert await tree.read_file("a.txt") == bytes(await tree.fs.read(fh, 0, 9)) == b"taken"
            if found:
                await tree.fs.write(fh, 5, b" again")
            await tree.close(fh)
            assert await tree.list() == [id_of("a.txt")]
        assert not tree.spool.statistics().current_files

    trio.run(main)
    assert storage.get(id_of("a.txt")).read() == (b"taken again" if found else b"taken")


def test_what_landed_unheard_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        flushed: list[FileId] = []
        monkeypatch.setattr(storage, "sync", flushed.append)
        storage.lost_replies = 1
        await tree.write_file("a.txt", b"landed")
        await tree.fs.drain()
        await tree.fs.drain()
        assert flushed == [id_of("a.txt")]

    assert content(on_tree(check, tmp_path, background=True), "a.txt") == b"landed"


@pytest.mark.parametrize(("name", "limit"), [("a.txt", 1000), (".a", 3000)])
def test_a_copy_that_is_to_be_changed_needs_room_for_what_is_kept_of_it(tmp_path: Path, name: str, limit: int) -> None:
    """Of a stored file, and of one that waits for its storage."""
    old = b"x" * 2000

    async def main() -> None:
        async with mounted(LocalFileStorage(str(tmp_path / "files")), tmp_path) as tree:
            await tree.write_file(name, old)
            waiting = tree.spool.statistics().current_bytes
            tree.spool._home.budget.limit = limit
            fh = await tree.open(name, os.O_RDWR)
            with pytest.raises(SpoolFull):
                await tree.fs.write(fh, 0, b"new")
            await tree.close(fh)
            assert tree.spool.statistics().current_bytes == waiting
            assert await tree.read_file(name) == old
            await tree.write_file(name, b"new")
            assert await tree.read_file(name) == b"new"

    trio.run(main)


class Crash(Exception):
    """The daemon dies here."""


def test_after_a_crash_a_file_that_had_landed_is_read_by_who_opened_it_before_that_was_known(tmp_path: Path) -> None:
    storage = Faulty()

    async def crash(tree: Tree, storage: Faulty) -> None:
        storage.lost_replies = 1
        with pytest.raises(StorageUnavailable):
            await tree.write_file("a.txt", b"landed")
        raise Crash

    with pytest.raises(ExceptionGroup):
        on_tree(crash, tmp_path, storage=storage)
    assert content(storage, "a.txt") == b"landed"
    storage.gates["stat"] = threading.Event()

    async def check(tree: Tree, storage: Faulty) -> None:
        fh = await tree.open("a.txt")
        storage.gates["stat"].set()
        await tree.fs.drain()
        assert not tree.spool.files()
        assert await tree.read_all(fh) == b"landed"
        await tree.close(fh)

    on_tree(check, tmp_path, storage=storage)
    assert content(storage, "a.txt") == b"landed"


def test_after_a_crash_in_a_rename_what_was_renamed_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a file that waits for its storage, too: never is what was there before all that is left of both."""
    seal = SpoolFile.seal

    def sealed(*args: Any, **options: Any) -> None:
        seal(*args, **options)
        raise Crash

    async def crash(tree: Tree, storage: Faulty) -> None:
        await tree.write_file(".new", b"new")
        storage.failures["put"] = [StorageUnavailable("away")]
        await tree.write_file("a.txt", b"old")
        await tree.fs.committer.queue.drain(lambda owing: isinstance(owing, File) and owing.scratch is None)
        with monkeypatch.context() as patch:
            patch.setattr(SpoolFile, "seal", sealed)
            await rename(tree, ".new", "a.txt")

    storage = Faulty()
    with pytest.raises(ExceptionGroup):
        on_tree(crash, tmp_path, background=True, storage=storage)

    async def check(tree: Tree, storage: Faulty) -> None:
        assert await tree.read_file("a.txt") == b"new"

    on_tree(check, tmp_path, background=True, storage=storage)
    assert [record["data"] for record in storage.files.values()] == [b"new"]


# --- unlink and rename ---------------------------------------------------------------------------------------------


def test_unlink_removes_what_a_failed_commit_may_have_stored(tmp_path: Path) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        storage.lost_replies = 1
        with pytest.raises(StorageUnavailable):
            await tree.write_file("a.txt", b"landed")
        assert content(storage, "a.txt") == b"landed"
        await tree.fs.unlink(tree.directory, b"a.txt", 0)

    assert not on_tree(check, tmp_path).files


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("existed", [False, True])
def test_rename_after_a_commit_that_landed_unheard(tmp_path: Path, existed: bool, background: bool) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        if existed:
            await tree.write_file("a.txt", b"old")
            await tree.fs.drain()
        storage.lost_replies = 1
        with nullcontext() if background else pytest.raises(StorageUnavailable):
            await tree.write_file("a.txt", b"landed")
        if background:
            await tree.fs.drain()
        assert content(storage, "a.txt") == b"landed"
        await rename(tree, "a.txt", "b.txt")

    storage = on_tree(check, tmp_path, background=background)
    assert (content(storage, "a.txt"), content(storage, "b.txt")) == (None, b"landed")


@pytest.mark.parametrize("method", ["put", "copy"])
@pytest.mark.parametrize("name", ["a.txt", ".a.tmp"])
@pytest.mark.parametrize("error", [AccessDenied("no"), StorageUnavailable("away"), RuntimeError("a bug")])
def test_a_rename_that_fails_changes_nothing(tmp_path: Path, name: str, error: Exception, method: str) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.write_file("b.txt", b"old")
        fh = await tree.create(name)
        await tree.fs.write(fh, 0, b"new")
        if method == "copy":
            await tree.close(fh)
            await tree.fs.drain()
        storage.failures[method] = [error]
        with pytest.raises(DepotError):
            await rename(tree, name, "b.txt")
        assert await tree.read_file("b.txt") == b"old"
        assert await tree.read_file(name) == b"new"
        if method == "put":
            await tree.close(fh)

    storage = on_tree(check, tmp_path)
    assert content(storage, "b.txt") == b"old"
    assert content(storage, name) == b"new"
    assert storage.files[id_of(name)]["metadata"]["filename"] == name


@pytest.mark.parametrize("error", [StorageUnavailable("away"), OSError(5, "disk"), RuntimeError("a bug")])
def test_a_rename_whose_old_name_cannot_be_removed_yet_is_done_all_the_same(tmp_path: Path, error: Exception) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.write_file("a.txt", b"new")
        await tree.write_file("b.txt", b"old")
        fh = await tree.open("a.txt", os.O_RDWR)
        storage.failures["remove"] = [error]
        await rename(tree, "a.txt", "b.txt")
        with pytest.raises(FileNotStored):
            await tree.lookup("a.txt")
        assert await tree.read_file("b.txt") == b"new"
        await tree.fs.write(fh, 3, b"er")
        await tree.close(fh)

    storage = on_tree(check, tmp_path)
    assert (content(storage, "a.txt"), content(storage, "b.txt")) == (None, b"newer")


def test_a_rename_takes_only_what_it_moved(tmp_path: Path) -> None:
    """Somebody else replaces the old name in the moment between the copy and the removal."""

    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.write_file("a.txt", b"ours")
        copy = storage.copy

        def copied(*args: Any, **options: Any) -> Any:
            stat = copy(*args, **options)
            storage.put(BytesContent(b"theirs"), FileMetadata("a.txt", "text/plain", 5), file_id=id_of("a.txt"))
            return stat

        storage.copy = copied  # type: ignore[method-assign]
        await rename(tree, "a.txt", "b.txt")
        assert await tree.read_file("a.txt") == b"theirs"

    storage = on_tree(check, tmp_path)
    assert (content(storage, "a.txt"), content(storage, "b.txt")) == (b"theirs", b"ours")


@pytest.mark.parametrize("new", [".a", "b.txt"])
def test_a_name_that_was_renamed_does_not_come_back_with_what_had_landed_unheard(tmp_path: Path, new: str) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        storage.lost_replies = 1
        await tree.write_file("a.txt", b"landed")
        await tree.fs.committer.queue.drain(lambda owing: True)
        assert content(storage, "a.txt") == b"landed"
        storage.failures["put"] = [StorageUnavailable("away")]
        await rename(tree, "a.txt", new)
        with pytest.raises(FileNotStored):
            await tree.lookup("a.txt")
        assert await tree.read_file(new) == b"landed"
        storage.failures.clear()

    assert content(on_tree(check, tmp_path, background=True), new) == b"landed"


@pytest.mark.parametrize("source", [".a", "a.txt"])
@pytest.mark.parametrize("existed", [False, True])
def test_a_rename_that_landed_though_its_reply_was_lost_has_happened(
    tmp_path: Path, source: str, existed: bool
) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.write_file(source, b"renamed")
        if existed:
            await tree.write_file("b.txt", b"older")
        fh = await (tree.open("b.txt", os.O_RDWR) if existed else tree.create("b.txt"))
        await tree.fs.write(fh, 0, b"newer")
        storage.lost_replies = 1
        await rename(tree, source, "b.txt")
        assert content(storage, "b.txt") == b"renamed"
        await tree.close(fh)
        assert await tree.read_file("b.txt") == b"renamed"

    storage = on_tree(check, tmp_path)
    assert (content(storage, source), content(storage, "b.txt")) == (None, b"renamed")


@pytest.mark.parametrize("existed", [False, True])
def test_a_rename_replaces_what_had_landed_unheard(tmp_path: Path, existed: bool) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        if existed:
            await tree.write_file("b.txt", b"older")
            await tree.fs.drain()
        storage.lost_replies = 1
        await tree.write_file("b.txt", b"landed")
        await tree.fs.committer.queue.drain(lambda owing: True)
        assert content(storage, "b.txt") == b"landed"
        await tree.write_file(".new", b"new")
        await rename(tree, ".new", "b.txt")

    assert content(on_tree(check, tmp_path, background=True), "b.txt") == b"new"


def test_a_rename_in_the_background_without_room_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.write_file("b.txt", b"old")
        await tree.write_file(".a", b"new")
        node = tree.volume.directory.find(id_of(".a"))
        assert node is not None
        assert node.draft is not None
        with monkeypatch.context() as patch:
            patch.setattr(type(node.draft.file), "seal", _no_room)
            with pytest.raises(SpoolFull):
                await rename(tree, ".a", "b.txt")
        assert await tree.read_file("b.txt") == b"old"
        assert await tree.read_file(".a") == b"new"
        await rename(tree, ".a", "b.txt")

    assert content(on_tree(check, tmp_path, background=True), "b.txt") == b"new"


@pytest.mark.parametrize("opened", [False, True])
def test_a_rename_to_a_scratch_name_without_room_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        fh = await tree.create("a.txt")
        await tree.fs.write(fh, 0, b"new")
        if not opened:
            storage.failures["put"] = [StorageUnavailable("away")] * 3
            await tree.close(fh)
            await tree.fs.drain()
            storage.failures.clear()
        with monkeypatch.context() as patch:
            patch.setattr(SpoolFile, "retarget" if opened else "seal", _no_room)
            with pytest.raises(SpoolFull):
                await rename(tree, "a.txt", ".a")
        if opened:
            await tree.close(fh)
        assert await tree.read_file("a.txt") == b"new"
        with pytest.raises(FileNotStored):
            await tree.lookup(".a")

    storage = on_tree(check, tmp_path, background=True)
    assert [content(storage, name) for name in ("a.txt", ".a")] == [b"new", None]


def test_unlink_by_id_after_a_rename_to_that_id(tmp_path: Path) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        file_id = "0f5cbb5a-2b4b-4f5e-9d8c-27d7a6c1a001"
        me = os.getpid()
        fh, attr = await tree.fs.create(tree.directory, b"a.txt", os.O_RDWR, me)
        await tree.close(fh)
        await tree.fs.rename(tree.directory, b"a.txt", tree.directory, file_id.encode(), replace=True, pid=me)
        await tree.fs.unlink(tree.directory, file_id.encode(), me)
        tree.fs.forget(attr.node_id, 1)

    assert not on_tree(check, tmp_path).files


# --- leaks -----------------------------------------------------------------------------------------------------------


def assert_nothing_left(tree: Tree) -> None:
    assert not len(tree.volume.directory)
    assert not tree.spool.statistics().current_files
    assert len(tree.volume.table) == 3  # the root and two names of the storage's directory


def test_a_failed_truncate_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.write_file("a.txt", b"content")
        attr = await tree.lookup("a.txt")
        for size, error in ((1 << 62, OSError), (1 << 40, TooLarge)):
            monkeypatch.setattr(storage, "max_size", None if error is OSError else 1 << 30)
            with pytest.raises(error) as raised:
                await tree.fs.setattr(attr.node_id, size=size, mtime_ns=None, fh=None)
            assert raised.type is TooLarge or raised.value.errno
        assert await tree.read_file("a.txt") == b"content"
        tree.fs.forget(attr.node_id, 1)
        assert_nothing_left(tree)

    on_tree(check, tmp_path)


def test_what_memory_cannot_hold_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        fh = await tree.create("a.txt")
        node_id = tree.fs._handles.file(fh).file.node_id
        for size in (1 << 62, storage.max_size + 1):
            with pytest.raises(TooLarge):
                await tree.fs.setattr(node_id, size=size, mtime_ns=None, fh=fh)
            with pytest.raises(TooLarge):
                await tree.fs.write(fh, size, b"x")
        await tree.close(fh)

    assert content(on_tree(check, tmp_path), "a.txt") == b""


def test_a_refused_create_or_rename_leaves_nothing(tmp_path: Path) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        for name in ("a.txt", "b.txt"):
            await tree.write_file(name, b"content")
        with pytest.raises(FileExistsError):
            await tree.create("a.txt", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        with pytest.raises(FileExistsError):
            await rename(tree, "a.txt", "b.txt", replace=False)
        assert_nothing_left(tree)

    on_tree(check, tmp_path)


def test_truncating_a_file_that_a_reader_closes_meanwhile(tmp_path: Path) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.write_file("a.txt", bytes(100_000))
        reader = await tree.open("a.txt")
        attr = await tree.lookup("a.txt")
        started, go_on = threading.Event(), threading.Event()
        pread = tree.volume.remote.pread

        async def slow(*args: Any) -> bytes:
            started.set()
            await trio.to_thread.run_sync(go_on.wait)
            return await pread(*args)

        tree.volume.remote.pread = slow  # type: ignore[method-assign,assignment]
        async with trio.open_nursery() as nursery:

            async def truncate() -> None:
                await tree.fs.setattr(attr.node_id, size=50_000, mtime_ns=None, fh=None)

            nursery.start_soon(truncate)
            await trio.to_thread.run_sync(started.wait)
            await tree.close(reader)
            go_on.set()
        tree.fs.forget(attr.node_id, 1)
        assert_nothing_left(tree)

    assert content(on_tree(check, tmp_path), "a.txt") == bytes(50_000)


def test_truncating_at_open_fetches_nothing(tmp_path: Path) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.write_file("a.txt", bytes(1 << 20))
        storage.calls.clear()
        await tree.write_file("a.txt", b"new")
        attr = await tree.lookup("a.txt")
        await tree.fs.setattr(attr.node_id, size=0, mtime_ns=None, fh=None)
        tree.fs.forget(attr.node_id, 1)
        assert "open_content" not in storage.calls

    assert content(on_tree(check, tmp_path), "a.txt") == b""


def test_errors_of_a_plain_name_keep_their_errno(tmp_path: Path) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        storage.failures["stat"] = [OSError(110, "timed out"), OSError(110, "timed out")]
        with pytest.raises(OSError, match="timed out"):
            await tree.lookup("a.txt")
        storage.failures["stat"] = [RuntimeError("a bug"), RuntimeError("a bug")]
        with pytest.raises(StorageFailed):
            await tree.lookup("a.txt")
        with pytest.raises(FileNotStored):
            await tree.lookup("a.txt")

    on_tree(check, tmp_path)


def test_an_entry_that_changed_before_the_kernel_had_room_is_listed_as_it_is(tmp_path: Path) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.write_file("a.txt", b"old")
        await tree.write_file(".b", b"newer")
        taken: list[tuple[bytes, int]] = []
        room = False

        def take(name: bytes, attr: Attr, following: int) -> bool:
            if room:
                taken.append((name, attr.node_id))
            return room

        fh = await tree.fs.opendir(tree.directory)
        room = True
        await tree.fs.readdir(fh, 2, take)  # the whole listing was looked at
        room = False
        for index, change in ((1, rename(tree, ".b", "a.txt")), (0, tree.write_file(".c", b""))):
            await tree.fs.readdir(fh, index, take)
            await change
            room = True
            await tree.fs.readdir(fh, index, take)
            room = False
        await tree.fs.releasedir(fh)
        for _, node_id in taken:
            assert (await tree.fs.getattr(node_id)).size == 5
            tree.fs.forget(node_id, 1)
        assert {name for name, _ in taken} == {id_of("a.txt").encode()}

    on_tree(check, tmp_path)
