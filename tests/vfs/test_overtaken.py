"""Answers of the storage that this mount's own changes overtake."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio

from depotfs.errors import FileNotStored, Stale, StorageUnavailable
from depotfs.io.memory import MemoryFileStorage
from depotfs.types import FileId, FileStat
from depotfs.vfs.names import derive
from depotfs.vfs.options import VolumeOptions
from tests.vfs.harness import FarMemory, mounted
from tests.vfs.test_failures import Faulty
from tests.vfs.test_scratch import rename, stored

ASKED = VolumeOptions(attr_timeout=0)


class SlowSecondForm(FarMemory):
    """It tells late what it has under the second form of a plain name's id."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answered = threading.Event(), threading.Event()

    def stat(self, file_id: FileId) -> FileStat:
        if file_id == derive("a.txt", self.id_form)[1]:
            self.asked.set()
            self.answered.wait(10)
        return super().stat(file_id)


def test_a_lookup_believes_no_answer_from_before_a_commit(tmp_path: Path) -> None:
    storage = SlowSecondForm()
    storage.answered.set()
    stored("a.txt", storage=storage)

    async def main() -> None:
        async with mounted(storage, tmp_path, ASKED) as tree:
            writer = await tree.open("a.txt", os.O_RDWR)
            storage.asked.clear()
            storage.answered.clear()
            async with trio.open_nursery() as nursery:

                async def look() -> None:
                    assert (await tree.lookup("a.txt")).size == 100

                nursery.start_soon(look)
                await trio.to_thread.run_sync(storage.asked.wait)
                await tree.volume.knowledge.ask(derive("a.txt", storage.id_form)[0])
                await tree.fs.write(writer, 0, bytes(100))
                await tree.fs.flush(writer)
                storage.answered.set()
            assert (await tree.fs.getattr(tree.fs._handles.file(writer).file.node_id)).size == 100
            await tree.close(writer)

    trio.run(main)


@pytest.mark.parametrize("kind", [FarMemory, MemoryFileStorage])
def test_who_was_refused_opens_what_the_name_showed_next(tmp_path: Path, kind: type[MemoryFileStorage]) -> None:
    """However often it is replaced meanwhile: Linux looks a name up only twice."""
    storage = stored("a.txt", "b.txt", "c.txt", storage=kind())

    async def main() -> None:
        async with mounted(storage, tmp_path) as tree:
            first = await tree.fs.lookup(tree.directory, b"a.txt", 7)
            await rename(tree, "b.txt", "a.txt")
            with pytest.raises(Stale):
                await tree.fs.open(first.node_id, os.O_RDONLY, 7)
            second = await tree.fs.lookup(tree.directory, b"a.txt", 7)
            await rename(tree, "c.txt", "a.txt")
            with pytest.raises(Stale):
                await tree.fs.open(second.node_id, os.O_RDONLY, 8)
            fh = await tree.fs.open(second.node_id, os.O_RDONLY, 7)
            assert await tree.read_all(fh) == b"old b.txt"
            assert await tree.read_file("a.txt") == b"old c.txt"
            with pytest.raises(Stale):
                await tree.fs.open(second.node_id, os.O_RDONLY, 7)
            await tree.close(fh)

    trio.run(main)


def test_after_a_rename_that_landed_unheard_its_file_can_be_changed(tmp_path: Path) -> None:
    storage = Faulty()
    stored("a.txt", "b.txt", storage=storage)

    async def main() -> None:
        async with mounted(storage, tmp_path, VolumeOptions(attr_timeout=1000)) as tree:
            reader = await tree.open("b.txt")
            storage.lost_replies = 1
            await rename(tree, "a.txt", "b.txt")
            writer = await tree.open("b.txt", os.O_RDWR)
            await tree.fs.write(writer, 0, b"new")
            await tree.close(writer)
            await tree.close(reader)

    trio.run(main)
    assert storage.files[derive("b.txt", storage.id_form)[0]]["data"] == b"new a.txt"


def test_a_rename_that_leaves_its_source_stored_hides_it_until_it_is_removed(tmp_path: Path) -> None:
    storage = Faulty()
    stored("a.txt", storage=storage)

    async def main() -> None:
        async with mounted(storage, tmp_path, ASKED) as tree:
            beside = await tree.create("b.txt")
            storage.failures["remove"] = [StorageUnavailable("away")]
            await rename(tree, "a.txt", "b.txt")
            await tree.close(beside)
            with pytest.raises(FileNotStored):
                await tree.lookup("a.txt")
            assert await tree.read_file("b.txt") == b"old a.txt"
        assert not tree.spool.statistics().current_files

    trio.run(main)
    assert [record["data"] for record in storage.files.values()] == [b"old a.txt"]
