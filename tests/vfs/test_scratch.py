"""Files that scratch names lead to, where the storage knows them by other ids or not yet."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from depotfs.errors import FileNotStored
from depotfs.io.content import BytesContent
from depotfs.io.memory import MemoryFileStorage
from depotfs.types import FileMetadata
from depotfs.vfs.names import derive
from depotfs.vfs.options import VolumeOptions
from tests.vfs.harness import FarMemory, PlainListing, Tree, mounted
from tests.vfs.test_failures import Faulty


async def rename(tree: Tree, old: str, new: str) -> None:
    await tree.fs.rename(tree.directory, old.encode(), tree.directory, new.encode(), replace=True, pid=0)


def contents(storage: MemoryFileStorage) -> dict[str, bytes]:
    """By filename."""
    return {record["metadata"]["filename"]: record["data"] for record in storage.files.values()}


def stored(*names: str, storage: MemoryFileStorage | None = None) -> MemoryFileStorage:
    storage = storage or FarMemory()
    for name in names:
        file_id = derive(name, storage.id_form)[0]
        storage.put(BytesContent(b"old " + name.encode()), FileMetadata(name, "text/plain", 5), file_id=file_id)
    return storage


def test_a_dotfile_that_an_editor_saves_outlives_its_backup(tmp_path: Path) -> None:
    """As vim: the stored one becomes the backup, a new one is written, the backup is removed."""
    storage = stored(".htaccess")

    async def main() -> None:
        async with mounted(storage, tmp_path) as tree:
            await rename(tree, ".htaccess", ".htaccess~")
            await tree.write_file(".htaccess", b"new")
            await tree.fs.unlink(tree.directory, b".htaccess~", 0)
            assert await tree.read_file(".htaccess") == b"new"

    trio.run(main)
    assert contents(storage) == {".htaccess": b"new"}


def test_a_dotfile_that_is_written_again_outlives_changes_of_its_backup(tmp_path: Path) -> None:
    storage = stored(".htaccess")

    async def main() -> None:
        async with mounted(storage, tmp_path) as tree:
            await rename(tree, ".htaccess", ".htaccess~")
            await tree.write_file(".htaccess", b"new")
            await tree.write_file(".htaccess~", b"backup")

    trio.run(main)
    assert contents(storage) == {".htaccess": b"new", ".htaccess~": b"backup"}


def test_a_dotfile_takes_the_place_of_its_own_backup(tmp_path: Path) -> None:
    storage = stored(".htaccess")

    async def main() -> None:
        async with mounted(storage, tmp_path) as tree:
            await rename(tree, ".htaccess", ".htaccess~")
            await tree.write_file(".htaccess", b"new")
            await rename(tree, ".htaccess", ".htaccess~")
            assert await tree.list() == [".htaccess~"]
            assert await tree.read_file(".htaccess~") == b"new"

    trio.run(main)
    assert [*contents(storage).values()] == [b"new"]


def test_a_new_file_replaces_a_dotfile_that_became_a_backup(tmp_path: Path) -> None:
    storage = stored(".htaccess")

    async def main() -> None:
        async with mounted(storage, tmp_path, VolumeOptions(background=True)) as tree:
            await rename(tree, ".htaccess", ".htaccess~")
            fh = await tree.create("new.txt")
            await tree.fs.write(fh, 0, b"new")
            await rename(tree, "new.txt", ".htaccess")
            await tree.close(fh)

    trio.run(main)
    assert contents(storage) == {".htaccess": b"new", ".htaccess~": b"old .htaccess"}


@pytest.mark.parametrize("kind", [FarMemory, PlainListing])
def test_a_stored_file_that_takes_the_name_of_a_dotfile_that_became_a_backup_replaces_it(
    tmp_path: Path, kind: type[FarMemory]
) -> None:
    storage = stored(".htaccess", "a.txt", storage=kind())

    async def main() -> None:
        async with mounted(storage, tmp_path) as tree:
            await tree.list()
            await rename(tree, ".htaccess", ".htaccess~")
            await rename(tree, "a.txt", ".htaccess")
            fh = await tree.open(".htaccess", os.O_RDWR)
            await tree.fs.write(fh, 0, b"new")
            await tree.close(fh)

    trio.run(main)
    assert contents(storage) == {".htaccess": b"new a.txt", ".htaccess~": b"old .htaccess"}


def test_a_closed_scratch_file_is_stored_though_a_reader_sees_it_renamed(tmp_path: Path) -> None:
    storage = FarMemory()

    async def main() -> None:
        async with mounted(storage, tmp_path) as tree:
            await tree.write_file(".a", b"closed")
            reader = await tree.open(".a")
            await rename(tree, ".a", ".b")
            await tree.close(reader)
        assert not tree.spool.statistics().current_files

    trio.run(main)
    assert contents(storage) == {".b": b"closed"}


@pytest.mark.parametrize("kind", [FarMemory, PlainListing])
@pytest.mark.parametrize("deleted", [False, True])
def test_a_backup_hides_nothing_that_somebody_else_stored(tmp_path: Path, kind: type[FarMemory], deleted: bool) -> None:
    storage = stored("a.txt", storage=kind())
    file_id = derive("a.txt", storage.id_form)[0]

    async def main() -> None:
        async with mounted(storage, tmp_path, VolumeOptions(attr_timeout=0)) as tree:
            await rename(tree, "a.txt", "a.txt~")
            with pytest.raises(FileNotStored):
                await tree.lookup("a.txt")
            assert await tree.list() == ["a.txt~"]
            storage.remove(file_id)
            if not deleted:
                storage.put(BytesContent(b"theirs"), FileMetadata("a.txt", "text/plain", 5), file_id=file_id)
                assert await tree.list() == [file_id]
                assert await tree.read_file("a.txt") == b"theirs"
            else:
                with pytest.raises(FileNotStored):
                    await tree.lookup("a.txt")
            with pytest.raises(FileNotStored):
                await tree.lookup("a.txt~")

    trio.run(main)


def test_a_stored_file_takes_the_name_of_a_scratch_file_that_is_just_being_stored(tmp_path: Path) -> None:
    storage = Faulty()
    stored("a.txt", storage=storage)

    async def main() -> None:
        async with mounted(storage, tmp_path, VolumeOptions(scratch_delay=0)) as tree:
            gate = storage.gates["put"] = threading.Event()
            await tree.write_file(".s", b"older")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rename, tree, "a.txt", ".s")
                await trio.testing.wait_all_tasks_blocked()
                gate.set()
            assert await tree.read_file(".s") == b"old a.txt"
            await tree.fs.drain()
            with pytest.raises(FileNotStored):
                await tree.lookup("a.txt")

    trio.run(main)
    assert [*contents(storage).values()] == [b"old a.txt"]


class SlowToOpen(FarMemory):
    """Its next opening of a content waits, and then finds what is stored at that time."""

    ranged = False

    def __init__(self) -> None:
        super().__init__()
        self.asked: threading.Event | None = None
        self.answered = threading.Event()

    def open_content(self, file: Any) -> Any:
        if self.asked is not None:
            asked, self.asked = self.asked, None
            asked.set()
            self.answered.wait(10)
        return super().open_content(file)


def test_a_backup_is_opened_while_it_comes_into_the_spool(tmp_path: Path) -> None:
    storage = SlowToOpen()
    stored("a.txt", storage=storage)

    async def main() -> None:
        async with mounted(storage, tmp_path) as tree:
            await rename(tree, "a.txt", "a.txt~")
            writer = await tree.open("a.txt~", os.O_RDWR)
            node = tree.fs._handles.file(writer).file
            assert node.content is not None
            node.content.close()
            node.content = None
            asked = storage.asked = threading.Event()
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    assert await tree.read_file("a.txt~") == b"NEW a.txt"

                nursery.start_soon(read)
                await trio.to_thread.run_sync(asked.wait)
                await tree.fs.write(writer, 0, b"NEW")
                storage.answered.set()
            await tree.close(writer)

    trio.run(main)
    assert contents(storage) == {"a.txt~": b"NEW a.txt"}
