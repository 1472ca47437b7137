"""Bytes that are promised and not in the spool: their storage has them, or they are named once as lost."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from depotfs.errors import AccessDenied, StorageUnavailable
from depotfs.io.local import LocalFileStorage
from depotfs.spool import SpoolFile, State
from tests.vfs.harness import Tree, mounted
from tests.vfs.test_failures import Crash, Faulty, content, on_tree


def crash_with(tmp_path: Path, storage: Faulty) -> None:
    """A daemon dies that could not hear of its commit of `a.txt`, and somebody removes the bytes."""

    async def crash(tree: Tree, storage: Faulty) -> None:
        with suppress(Crash):
            await tree.write_file("a.txt", b"promised")
            await tree.fs.drain()
        [spooled] = tree.spool.files()
        os.unlink(spooled.path)
        raise Crash

    with pytest.raises(ExceptionGroup):
        on_tree(crash, tmp_path, background=True, storage=storage)


def test_what_its_storage_does_not_have_is_named_held_and_then_forgotten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Faulty()
    storage.failures["put"] = [StorageUnavailable("away")] * 99
    crash_with(tmp_path, storage)
    caplog.clear()

    async def named(tree: Tree, storage: Faulty) -> None:
        await tree.fs.drain()
        [spooled] = tree.spool.files()
        assert spooled.state is State.HELD
        assert "lost" in spooled.reason

    async def forgotten(tree: Tree, storage: Faulty) -> None:
        assert tree.spool.files() == []

    on_tree(named, tmp_path, storage=storage)
    [line] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "a.txt, 8 bytes) is lost" in line
    on_tree(forgotten, tmp_path, storage=storage)


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A daemon dies as soon as a storage has taken something; `undo` brings the next one to life."""

    def dies(self: SpoolFile, *, moved: bool = False, read_on: bool = True) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(SpoolFile, "committed", dies)
        yield patch


def test_what_its_storage_has_by_that_commit_is_done_with(
    tmp_path: Path, deaf: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Faulty()
    crash_with(tmp_path, storage)
    deaf.undo()
    caplog.clear()

    async def stored(tree: Tree, storage: Faulty) -> None:
        await tree.fs.drain()
        assert tree.spool.files() == []
        assert await tree.read_file("a.txt") == b"promised"

    on_tree(stored, tmp_path, storage=storage)
    assert content(storage, "a.txt") == b"promised"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_storage_that_is_away_is_asked_again_by_every_mount(tmp_path: Path) -> None:
    storage = Faulty()
    storage.failures["put"] = [StorageUnavailable("away")] * 99
    crash_with(tmp_path, storage)

    async def asked(tree: Tree, storage: Faulty) -> None:
        storage.failures["stat"] = [AccessDenied("no")] * 99
        await tree.fs.drain()
        [spooled] = tree.spool.files()
        assert spooled.state is State.MISSING

    on_tree(asked, tmp_path, storage=storage)
    on_tree(asked, tmp_path, storage=storage)


@pytest.mark.parametrize("garbled", [False, True])
def test_a_file_that_a_local_storage_took_is_found_by_its_bytes(
    tmp_path: Path, deaf: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, garbled: bool
) -> None:
    storage = LocalFileStorage(str(tmp_path / "files"))

    async def crash() -> None:
        async with mounted(storage, tmp_path) as tree:
            await tree.write_file("a.txt", b"promised")

    with pytest.raises(ExceptionGroup):
        trio.run(crash)
    deaf.undo()
    [file_id] = storage.list()
    if garbled:
        (tmp_path / "files" / file_id / "file").write_bytes(b"Promised")
    caplog.clear()

    async def found() -> None:
        async with mounted(storage, tmp_path) as tree:
            await tree.fs.drain()
            assert [spooled.state for spooled in tree.spool.files()] == ([State.HELD] if garbled else [])

    trio.run(found)
    assert bool([record for record in caplog.records if record.levelno >= logging.ERROR]) == garbled
