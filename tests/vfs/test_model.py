"""Random sequences of system calls against a model of what a POSIX directory does."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import trio

from depotfs.io.interfaces import FileStorage
from depotfs.io.local import LocalFileStorage
from depotfs.io.memory import MemoryFileStorage
from depotfs.types import FileId
from depotfs.vfs.names import derive
from depotfs.vfs.options import VolumeOptions
from tests.vfs.harness import FarMemory, PlainListing, Tree, mounted

SCRATCH = [".scratch", "b.txt~"]
NAMES = ["a.txt", "b.txt", "c.txt", *SCRATCH]


class ModelFile:
    """One file of the model: its bytes, shared by its name and its handles."""

    def __init__(self) -> None:
        self.data = bytearray()


class Run:
    """One random sequence: every answer of the tree is compared with the model's."""

    def __init__(self, tree: Tree, seed: int) -> None:
        self.tree = tree
        self.random = random.Random(seed)
        self.names: dict[str, ModelFile] = {}
        self.handles: dict[int, tuple[ModelFile, bool]] = {}

    async def step(self) -> None:
        actions = [self.open, self.create, self.write, self.read, self.truncate, self.close, self.unlink, self.rename]
        await self.random.choice([*actions, self.write, self.read, self.close, self.stat, self.touch, self.fsync])()

    def name(self) -> str:
        return self.random.choice(NAMES)

    def handle(self) -> int | None:
        return self.random.choice(list(self.handles)) if self.handles else None

    async def open(self) -> None:
        name, flags = self.name(), self.random.choice([os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC])
        file = self.names.get(name)
        if file is None:
            with pytest.raises(FileNotFoundError):
                await self.tree.open(name, flags)
            return
        fh = await self.tree.open(name, flags)
        if flags & os.O_TRUNC:
            file.data.clear()
        self.handles[fh] = file, flags & os.O_ACCMODE != os.O_RDONLY

    async def create(self) -> None:
        name = self.name()
        if name not in self.names:
            self.names[name] = ModelFile()
            self.handles[await self.tree.create(name)] = self.names[name], True

    async def write(self) -> None:
        fh = self.handle()
        if fh is None or not self.handles[fh][1]:
            return
        data = self.random.randbytes(self.random.randrange(1, 300))
        offset = self.random.randrange(0, 500)
        content = self.handles[fh][0].data
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
        assert await self.tree.fs.write(fh, offset, data) == len(data)

    async def read(self) -> None:
        fh = self.handle()
        if fh is not None:
            assert await self.tree.read_all(fh) == bytes(self.handles[fh][0].data)

    async def truncate(self) -> None:
        fh = self.handle()
        if fh is None or not self.handles[fh][1]:
            return
        size = self.random.randrange(0, 600)
        content = self.handles[fh][0].data
        del content[size:]
        content.extend(bytes(size - len(content)))
        node_id = self.tree.fs._handles.file(fh).file.node_id
        attr = await self.tree.fs.setattr(node_id, size=size, mtime_ns=None, fh=fh)
        assert attr.size == size

    async def close(self) -> None:
        fh = self.handle()
        if fh is not None:
            del self.handles[fh]
            await self.tree.close(fh)

    async def fsync(self) -> None:
        fh = self.handle()
        if fh is not None:
            await self.tree.fs.fsync(fh)

    async def unlink(self) -> None:
        name = self.name()
        if name in self.names:
            del self.names[name]
            await self.tree.fs.unlink(self.tree.directory, name.encode(), 0)
        else:
            with pytest.raises(FileNotFoundError):
                await self.tree.fs.unlink(self.tree.directory, name.encode(), 0)

    async def rename(self) -> None:
        old, new = self.name(), self.name()
        if old in self.names and old != new:
            self.names[new] = self.names.pop(old)
            directory = self.tree.directory
            await self.tree.fs.rename(directory, old.encode(), directory, new.encode(), replace=True, pid=0)

    async def stat(self) -> None:
        name = self.name()
        if name not in self.names:
            with pytest.raises(FileNotFoundError):
                await self.tree.lookup(name)
            return
        attr = await self.tree.lookup(name)
        assert attr.size == len(self.names[name].data)
        self.tree.fs.forget(attr.node_id, 1)

    async def touch(self) -> None:
        name = self.name()
        if name in self.names:
            attr = await self.tree.lookup(name)
            seconds = self.random.randrange(10**9)
            after = await self.tree.fs.setattr(attr.node_id, size=None, mtime_ns=seconds * 10**9, fh=None)
            assert after.mtime_ns == seconds * 10**9
            self.tree.fs.forget(attr.node_id, 1)

    async def check_all(self) -> None:
        listed = await self.tree.list()
        assert len(listed) == len(set(listed)) == len(self.names)
        for name, file in self.names.items():
            assert await self.tree.read_file(name) == bytes(file.data), name


async def run(storage: FileStorage, directory: Path, seed: int, options: VolumeOptions) -> None:
    async with mounted(storage, directory, options) as tree:
        sequence = Run(tree, seed)
        for number in range(120):
            await sequence.step()
            if number % 20 == 0:
                await sequence.check_all()
        for fh in list(sequence.handles):
            del sequence.handles[fh]
            await tree.close(fh)
        await sequence.check_all()
    stored = {file_id: storage.get(file_id).read() for file_id in storage.list()}
    for name, file in sequence.names.items():
        if name not in SCRATCH:
            assert stored.pop(derive(name, storage.id_form)[0]) == bytes(file.data)
    # A stored file that was renamed to a scratch name is still stored under the id it had.
    assert sorted(stored.values()) == sorted(bytes(sequence.names[n].data) for n in SCRATCH if n in sequence.names)
    assert not tree.spool.statistics().current_files


@pytest.mark.parametrize("background", [False, True], ids=["close", "background"])
@pytest.mark.parametrize("kind", [MemoryFileStorage, FarMemory, PlainListing, LocalFileStorage])
@pytest.mark.parametrize("seed", range(12))
def test_tree_does_what_a_directory_does(tmp_path: Path, kind: type[FileStorage], seed: int, background: bool) -> None:
    storage = kind(str(tmp_path / "files")) if kind is LocalFileStorage else kind()
    trio.run(run, storage, tmp_path, seed, VolumeOptions(background=background))


def test_ids_of_the_model_are_those_of_the_names() -> None:
    assert len({FileId(i) for name in NAMES for i in derive(name, MemoryFileStorage.id_form)}) == 2 * len(NAMES)
