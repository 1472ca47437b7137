"""What a directory shows, kept: over unmounts, outages and damage, whoever else is at work."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from depotfs.errors import (
    AccessDenied,
    ContentDamaged,
    DepotError,
    FileNotStored,
    InvalidMetadata,
    NotPermitted,
    Stale,
    StorageMissing,
    StorageUnavailable,
)
from depotfs.io.checksums import Checksums
from depotfs.io.content import BytesContent
from depotfs.io.reader import ContentReader
from depotfs.spool import State
from depotfs.types import FileId, FileMetadata, FileStat
from depotfs.vfs.options import VolumeOptions
from tests.vfs.harness import FarMemory, Tree, mounted
from tests.vfs.test_failures import Crash, Faulty, content, id_of, on_tree, rename


def put(storage: FarMemory, name: str, data: bytes) -> None:
    storage.put(BytesContent(data), FileMetadata(name, "text/plain", 5), file_id=id_of(name))


# --- renames to scratch names ------------------------------------------------------------------------------------


def test_a_stored_file_that_was_renamed_to_a_scratch_name_has_it_after_the_next_mount_too(tmp_path: Path) -> None:
    storage = Faulty()
    put(storage, "a.txt", b"backup")

    async def check(tree: Tree, storage: Faulty) -> None:
        await rename(tree, "a.txt", "a.txt~")
        assert content(storage, "a.txt") == b"backup"

    async def again(tree: Tree, storage: Faulty) -> None:
        assert await tree.read_file("a.txt~") == b"backup"
        with pytest.raises(FileNotStored):
            await tree.lookup("a.txt")

    on_tree(check, tmp_path, storage=storage)
    assert (content(storage, "a.txt"), content(storage, "a.txt~")) == (None, b"backup")
    on_tree(again, tmp_path, storage=storage)


def test_after_a_crash_a_stored_file_that_was_renamed_to_a_scratch_name_has_its_old_one(tmp_path: Path) -> None:
    storage = Faulty()
    put(storage, "a.txt", b"backup")

    async def crash(tree: Tree, storage: Faulty) -> None:
        await rename(tree, "a.txt", "a.txt~")
        raise Crash

    with pytest.raises(ExceptionGroup):
        on_tree(crash, tmp_path, storage=storage)
    assert content(storage, "a.txt") == b"backup"


@pytest.mark.parametrize("method", ["open_content", "remove", "put"])
def test_a_name_that_was_renamed_away_does_not_come_back_when_a_write_fails(tmp_path: Path, method: str) -> None:
    storage = Faulty()
    put(storage, "b.txt", b"old")

    async def check(tree: Tree, storage: Faulty) -> None:
        await rename(tree, "b.txt", ".x")
        storage.failures[method] = [StorageUnavailable("away")] * 4
        try:
            fh = await tree.open(".x", os.O_RDWR)
            await tree.fs.write(fh, 0, b"new")
            await tree.close(fh)
        except StorageUnavailable:
            pass
        with pytest.raises(FileNotStored):
            await tree.lookup("b.txt")
        assert await tree.list() == [".x"]
        storage.failures.clear()

    on_tree(check, tmp_path, storage=storage)
    assert content(storage, "b.txt") is None
    assert content(storage, ".x") in (b"old", b"new")


@pytest.mark.parametrize("way", ["close", "flush", "rename"])
def test_a_promise_to_replace_a_backup_comes_after_the_promise_to_keep_it(tmp_path: Path, way: str) -> None:
    storage = Faulty()
    put(storage, "a.txt", b"backup")

    async def crash(tree: Tree, storage: Faulty) -> None:
        await rename(tree, "a.txt", "a.txt~")
        storage.failures["put"] = [StorageUnavailable("away")] * 99
        if way == "rename":
            await tree.write_file(".new", b"new")
            await rename(tree, ".new", "a.txt")
        elif way == "close":
            await tree.write_file("a.txt", b"new")
        else:
            await tree.fs.flush(await tree.create("a.txt"))
        raise Crash

    async def again(tree: Tree, storage: Faulty) -> None:
        assert await tree.read_file("a.txt") == (b"" if way == "flush" else b"new")
        assert await tree.read_file("a.txt~") == b"backup"

    with pytest.raises(ExceptionGroup):
        on_tree(crash, tmp_path, background=True, storage=storage)
    storage.failures.clear()
    on_tree(again, tmp_path, background=True, storage=storage)
    assert (content(storage, "a.txt~")) == b"backup"


def test_what_was_made_in_the_place_of_a_backup_leaves_nothing_there_when_it_is_renamed(tmp_path: Path) -> None:
    storage = Faulty()
    put(storage, "a.txt", b"old")

    async def check(tree: Tree, storage: Faulty) -> None:
        await rename(tree, "a.txt", "a.txt~")
        fh = await tree.create("a.txt")
        await tree.fs.write(fh, 0, b"new")
        await tree.fs.unlink(tree.directory, b"a.txt~", 0)
        await rename(tree, "a.txt", "b.txt")
        await tree.close(fh)

    on_tree(check, tmp_path, storage=storage)
    assert (content(storage, "a.txt"), content(storage, "b.txt")) == (None, b"new")


# --- numbers ----------------------------------------------------------------------------------------------------


def test_two_files_that_are_reachable_never_share_a_number(tmp_path: Path) -> None:
    """As a log that is rotated while a reader follows it."""

    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.write_file("log", b"first")
        reader = await tree.open("log")
        first = await tree.lookup("log")
        await rename(tree, "log", "log.1")
        fh, second = await tree.fs.create(tree.directory, b"log", os.O_RDWR, 0)
        rotated = await tree.lookup("log.1")
        assert rotated.node_id == first.node_id != second.node_id
        assert (await tree.fs.getattr(second.node_id)).node_id == second.node_id
        await tree.close(fh)
        for attr, count in ((first, 2), (second, 1)):
            tree.fs.forget(attr.node_id, count)
        await tree.close(reader)

    on_tree(check, tmp_path)


def test_a_number_is_the_derived_one_again_once_nobody_holds_it(tmp_path: Path) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        numbers = set()
        for _ in range(3):
            await tree.write_file("a.txt", b"x")
            attr = await tree.lookup("a.txt")
            numbers.add(attr.node_id)
            tree.fs.forget(attr.node_id, 1)
            await tree.fs.unlink(tree.directory, b"a.txt", 0)
        assert len(numbers) == 1

    on_tree(check, tmp_path)


# --- opened while it goes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replaced", [False, True])
def test_who_opens_a_file_that_is_going_waits_and_looks_again(tmp_path: Path, replaced: bool) -> None:
    storage = Faulty()
    put(storage, "a.txt", b"old")

    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.write_file(".new", b"new")
        attr = await tree.lookup("a.txt")
        storage.calls.clear()
        gate = storage.gates["put" if replaced else "remove"] = threading.Event()
        async with trio.open_nursery() as nursery:
            change = rename(tree, ".new", "a.txt") if replaced else tree.fs.unlink(tree.directory, b"a.txt", 0)
            nursery.start_soon(lambda: change)
            while "put" not in storage.calls and "remove" not in storage.calls:
                await trio.lowlevel.checkpoint()

            async def opened() -> None:
                with pytest.raises(Stale):
                    await tree.fs.open(attr.node_id, os.O_RDONLY)

            nursery.start_soon(opened)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        tree.fs.forget(attr.node_id, 1)

    on_tree(check, tmp_path, storage=storage)


# --- the guard ------------------------------------------------------------------------------------------------------


def test_a_plain_name_is_looked_up_each_time_and_its_use_is_forgotten_in_an_hour(tmp_path: Path) -> None:
    async def main() -> None:
        async with mounted(Faulty(), tmp_path, VolumeOptions(attr_timeout=60)) as tree:
            me = os.getpid()
            await tree.write_file("a.txt", b"x")
            attr = await tree.fs.lookup(tree.directory, b"a.txt", me)
            assert attr.entry_timeout == 0 < attr.attr_timeout
            by_id = await tree.fs.lookup(tree.directory, id_of("a.txt").encode(), me)
            assert by_id.entry_timeout > 0
            with pytest.raises(NotPermitted):
                await tree.fs.unlink(tree.directory, id_of("a.txt").encode(), me)
            clock.jump(3601)
            await tree.fs.unlink(tree.directory, id_of("a.txt").encode(), me)
            tree.fs.forget(attr.node_id, 2)

    clock = trio.testing.MockClock(rate=1)
    trio.run(main, clock=clock)


# --- damage --------------------------------------------------------------------------------------------------------


class Damaged(Faulty):
    """The metadata of `a.txt` cannot be understood until it is stored anew."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged = {id_of("a.txt")}

    def stat(self, file_id: FileId, *args: Any) -> Any:
        if file_id in self.damaged and file_id in self.files:
            raise InvalidMetadata(f"{file_id} has odd metadata")
        return super().stat(file_id)

    def put(self, *args: Any, **options: Any) -> Any:
        stored = super().put(*args, **options)
        self.damaged.discard(options["file_id"])
        return stored


@pytest.mark.parametrize("way", ["unlink", "truncate", "rename"])
def test_a_file_that_cannot_be_understood_is_shown_and_can_be_removed_and_replaced(tmp_path: Path, way: str) -> None:
    storage = Damaged()
    put(storage, "a.txt", b"odd")
    storage.damaged.add(id_of("a.txt"))

    async def check(tree: Tree, storage: Faulty) -> None:
        with pytest.raises(DepotError) as raised:
            await tree.read_file("a.txt")
        assert raised.type in (InvalidMetadata, ContentDamaged)
        fh = await tree.open("a.txt", os.O_WRONLY) if way == "append" else None
        assert fh is None
        if way == "unlink":
            await tree.fs.unlink(tree.directory, b"a.txt", 0)
        elif way == "truncate":
            await tree.write_file("a.txt", b"new")
        else:
            await tree.write_file(".b", b"new")
            await rename(tree, ".b", "a.txt")

    on_tree(check, tmp_path, storage=storage)
    assert content(storage, "a.txt") == (None if way == "unlink" else b"new")


# --- outages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [AccessDenied("expired"), StorageMissing("no bucket"), OSError(28, "full")])
@pytest.mark.parametrize("background", [False, True])
def test_what_can_be_cured_is_shown_and_tried_again_until_it_is(
    tmp_path: Path, error: Exception, background: bool
) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        storage.failures["put"] = [error] * 3
        try:
            await tree.write_file("a.txt", b"acknowledged")
        except (DepotError, OSError):
            assert not background
        for _ in range(4):
            assert await tree.read_file("a.txt") == b"acknowledged"
            assert all(file.state is State.SEALED for file in tree.spool.files())
            await tree.fs.drain()

    assert content(on_tree(check, tmp_path, background=background), "a.txt") == b"acknowledged"


def test_what_can_be_cured_is_tried_again_by_the_next_mount(tmp_path: Path) -> None:
    storage = Faulty()

    async def check(tree: Tree, storage: Faulty) -> None:
        storage.failures["put"] = [AccessDenied("expired")] * 9
        await tree.write_file("a.txt", b"acknowledged")
        await tree.write_file(".env", b"too")

    async def again(tree: Tree, storage: Faulty) -> None:
        assert await tree.read_file("a.txt") == b"acknowledged"
        assert await tree.read_file(".env") == b"too"

    on_tree(check, tmp_path, background=True, storage=storage)
    assert not storage.files
    storage.failures.clear()
    on_tree(again, tmp_path, background=True, storage=storage)
    assert (content(storage, "a.txt"), content(storage, ".env")) == (b"acknowledged", b"too")


@pytest.mark.parametrize("background", [False, True])
def test_new_files_are_made_while_the_storage_is_away_if_a_close_need_not_ask_it(
    tmp_path: Path, background: bool
) -> None:
    storage = Faulty()
    put(storage, "known.txt", b"old")

    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.lookup("known.txt")
        storage.failures = {method: [StorageUnavailable("away")] * 200 for method in ("stat", "put")}
        if background:
            await tree.write_file("a.txt", b"new")
            assert await tree.read_file("a.txt") == b"new"
        else:
            with pytest.raises(StorageUnavailable):
                await tree.write_file("a.txt", b"new")
        with pytest.raises(StorageUnavailable):
            await tree.lookup("known.txt")
        with pytest.raises(StorageUnavailable):
            await tree.lookup("0f5cbb5a-2b4b-4f5e-9d8c-27d7a6c1a001")
        storage.failures.clear()

    on_tree(check, tmp_path, background=background, storage=storage)
    assert content(storage, "a.txt") == (b"new" if background else None)


@pytest.mark.parametrize("how", ["ftruncate", "O_TRUNC"])
def test_a_file_that_was_only_truncated_is_promised_by_the_first_close(tmp_path: Path, how: str) -> None:
    storage = Faulty()
    put(storage, "a.txt", b"old content")

    async def crash(tree: Tree, storage: Faulty) -> None:
        fh = await tree.open("a.txt", os.O_RDWR | (os.O_TRUNC if how == "O_TRUNC" else 0))
        if how == "ftruncate":
            node_id = tree.fs._handles.file(fh).file.node_id
            await tree.fs.setattr(node_id, size=3, mtime_ns=None, fh=fh)
        await tree.fs.flush(fh)
        assert content(storage, "a.txt") == b"old content"
        raise Crash

    async def nothing(tree: Tree, storage: Faulty) -> None:
        await tree.fs.drain()

    with pytest.raises(ExceptionGroup):
        on_tree(crash, tmp_path, storage=storage)
    on_tree(nothing, tmp_path, storage=storage)
    assert content(storage, "a.txt") == (b"old" if how == "ftruncate" else b"")


@pytest.mark.parametrize("closes", [2, 1])
def test_a_file_that_was_only_truncated_is_stored_by_the_second_close_or_the_release(
    tmp_path: Path, closes: int
) -> None:
    async def check(tree: Tree, storage: Faulty) -> None:
        await tree.write_file("a.txt", b"old")
        fh = await tree.open("a.txt", os.O_RDWR | os.O_TRUNC)
        for _ in range(closes):
            await tree.fs.flush(fh)
        if closes == 1:
            await tree.fs.release(fh)
        assert content(storage, "a.txt") == b""
        if closes == 2:
            await tree.fs.write(fh, 0, b"new")
            await tree.close(fh)

    assert content(on_tree(check, tmp_path), "a.txt") == (b"new" if closes == 2 else b"")


def test_a_close_is_answered_in_time_and_what_it_owes_is_stored_later(tmp_path: Path) -> None:
    storage = Faulty()

    async def check(tree: Tree, storage: Faulty) -> None:
        gate = storage.gates["put"] = threading.Event()
        tree.volume.remote.deadline = 0.01
        fh = await tree.create("a.txt")
        await tree.fs.write(fh, 0, b"kept")
        with pytest.raises(StorageUnavailable, match="not answered"):
            await tree.fs.flush(fh)
        gate.set()
        await tree.fs.drain()
        assert content(storage, "a.txt") == b"kept"
        tree.volume.remote.deadline = 10
        await tree.fs.release(fh)

    on_tree(check, tmp_path, storage=storage)


def test_what_an_earlier_daemon_left_is_stored_only_if_it_is_what_was_promised(tmp_path: Path) -> None:
    storage = Faulty()

    async def crash(tree: Tree, storage: Faulty) -> None:
        storage.failures["put"] = [StorageUnavailable("away")] * 9
        for name in ("a.txt", "b.txt"):
            await tree.write_file(name, b"promised")
        os.pwrite(tree.spool.files()[0].fd, b"garbled!", 0)
        raise Crash

    async def check(tree: Tree, storage: Faulty) -> None:
        with pytest.raises((ContentDamaged, FileNotStored)):
            await tree.read_file("a.txt")
        assert await tree.read_file("b.txt") == b"promised"
        (held,) = [file for file in tree.spool.files() if file.state is State.HELD]
        assert "not those that were written" in held.reason

    with pytest.raises(ExceptionGroup):
        on_tree(crash, tmp_path, background=True, storage=storage)
    storage.failures.clear()
    on_tree(check, tmp_path, background=True, storage=storage)
    assert (content(storage, "a.txt"), content(storage, "b.txt")) == (None, b"promised")


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("way", ["rename", "cut"])
def test_what_was_damaged_since_an_earlier_daemon_promised_it_goes_nowhere(
    tmp_path: Path, way: str, background: bool
) -> None:
    storage = Faulty()
    put(storage, "a.txt", b"old")

    async def crash(tree: Tree, storage: Faulty) -> None:
        await tree.write_file(".x", b"promised")
        os.pwrite(tree.spool.files()[0].fd, b"garbled!", 0)
        raise Crash

    async def check(tree: Tree, storage: Faulty) -> None:
        attr = await tree.lookup(".x")
        renamed = partial(rename, tree, ".x", "a.txt")
        cut = partial(tree.fs.setattr, attr.node_id, size=4, mtime_ns=None, fh=None)
        with pytest.raises(ContentDamaged):
            await (renamed if way == "rename" else cut)()
        tree.fs.forget(attr.node_id, 1)
        assert await tree.read_file("a.txt") == b"old"
        assert [file.state for file in tree.spool.files()] == [State.HELD]

    with pytest.raises(ExceptionGroup):
        on_tree(crash, tmp_path, background=background, storage=storage)
    on_tree(check, tmp_path, background=background, storage=storage)
    assert (content(storage, "a.txt"), content(storage, ".x")) == (b"old", None)


# --- large files ----------------------------------------------------------------------------------------------------

MIB = 1 << 20


@pytest.mark.parametrize("size", [n * MIB + by for n in (1, 4, 8, 12) for by in (-1, 0, 1)])
@pytest.mark.parametrize("way", ["append", "overwrite", "cut", "grow"])
def test_a_stored_file_of_any_size_can_be_changed(tmp_path: Path, size: int, way: str) -> None:
    storage = Faulty()
    old = os.urandom(4096) * (size // 4096) + bytes(size % 4096)
    put(storage, "a.bin", old)
    new = {
        "append": old + b"more",
        "overwrite": old[: size // 2] + b"more" + old[size // 2 + 4 :],
        "cut": old[: size - MIB // 2],
        "grow": old + bytes(MIB // 2),
    }[way]

    async def check(tree: Tree, storage: Faulty) -> None:
        fh = await tree.open("a.bin", os.O_RDWR)
        if way in ("cut", "grow"):
            node_id = tree.fs._handles.file(fh).file.node_id
            await tree.fs.setattr(node_id, size=len(new), mtime_ns=None, fh=fh)
        else:
            await tree.fs.write(fh, size if way == "append" else size // 2, b"more")
        await tree.close(fh)

    assert content(on_tree(check, tmp_path, storage=storage), "a.bin") == new


# --- damage on the way -----------------------------------------------------------------------------------------------


class Garbling(Faulty):
    """Memory that keeps checksums, and whose next answers have a changed byte.

    Attributes:
        garbled: how many ranges more arrive changed.
    """

    algorithm = "md5"

    def __init__(self) -> None:
        super().__init__()
        self.garbled = 0

    def stat(self, file_id: FileId, *args: Any) -> Any:
        stat = super().stat(file_id)
        running = Checksums([self.algorithm])
        running.add(self.files[file_id]["data"])
        return replace(stat, checksum=running.values()[self.algorithm])

    def open_content(self, *args: Any) -> Any:
        return GarblingReader(self, super().open_content(*args), args[0])


class GarblingReader(ContentReader):
    """See `Garbling`."""

    def __init__(self, storage: Garbling, reader: ContentReader, wanted: Any) -> None:
        self._storage = storage
        self._reader = reader
        self.stat = wanted if isinstance(wanted, FileStat) else reader.stat

    def pread(self, offset: int, size: int) -> bytes:
        data = self._reader.pread(offset, size)
        if not self._storage.garbled or not data:
            return data
        self._storage.garbled -= 1
        return bytes([data[0] ^ 1]) + data[1:]

    def close(self) -> None:
        self._reader.close()


@pytest.mark.parametrize("algorithm", ["md5", "crc32", "crc32c"])
@pytest.mark.parametrize("size", [1, MIB + 1, 4 * MIB + 1, 9 * MIB])
@pytest.mark.parametrize("way", ["read", "append"])
def test_a_byte_that_changed_on_the_way_is_neither_read_nor_stored(
    tmp_path: Path, size: int, algorithm: str, way: str
) -> None:
    storage = Garbling()
    storage.algorithm = algorithm
    old = os.urandom(size)
    put(storage, "a.bin", old)

    async def use(tree: Tree) -> bytes:
        if way == "read":
            return await tree.read_file("a.bin")
        fh = await tree.open("a.bin", os.O_RDWR)
        try:
            await tree.fs.write(fh, size, b"more")
        finally:
            await tree.close(fh)
        return b""

    async def check(tree: Tree, storage: Faulty) -> None:
        assert isinstance(storage, Garbling)
        storage.garbled = 1
        with pytest.raises(ContentDamaged):
            await use(tree)
        assert content(storage, "a.bin") == old
        assert await use(tree) in (old, b"")

    on_tree(check, tmp_path, storage=storage)
    assert content(storage, "a.bin") == (old if way == "read" else old + b"more")
